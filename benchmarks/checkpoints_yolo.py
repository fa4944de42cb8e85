"""A small YOLO model with random weights, saved as ultralytics saves one, for tests that need boxes but no skill.

``python checkpoints_yolo.py FILE.pt IMGSZ CLASS...`` writes one; the process should have ultralytics' environment.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch


def build_yolo(
    file: Path, classes: Sequence[str], *, imgsz: int = 96, architecture: str = "yolo11n.yaml", seed: int = 0
) -> None:
    """Write a model whose boxes and confidences differ from place to place and from image to image.

    The statistics of the normalisation layers are taken from noise, without which random layers fade to nothing.

    Args:
        file: the ``.pt`` file to write.
        classes: class names.
        imgsz: side in pixels that it says it was trained at.
        architecture: one of ultralytics' own for detection, segmentation or poses.
        seed: of the weights.
    """
    from ultralytics import YOLO
    from ultralytics.nn import tasks

    torch.manual_seed(seed)
    made = YOLO(architecture)
    model = getattr(tasks, type(made.model).__name__)(architecture, nc=len(classes), verbose=False)
    model.names = dict(enumerate(classes))
    head = model.model[-1]
    for branches, bias in ((head.cv2, None), (head.cv3, -3.0)):
        for branch in branches:
            torch.nn.init.normal_(branch[-1].weight, std=0.2)
            if bias is not None:
                torch.nn.init.constant_(branch[-1].bias, bias)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(8, 3, imgsz, imgsz))
    model.eval()
    torch.save({"model": model, "train_args": {"imgsz": imgsz, "task": made.task}, "version": "8.4.0"}, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    build_yolo(Path(sys.argv[1]), sys.argv[3:], imgsz=int(sys.argv[2]))
