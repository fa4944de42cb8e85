"""The ``yolo`` detector: any ultralytics weights, such as those of a model that the platform trained itself."""

import importlib.metadata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import supervision as sv
import torch
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.geometry import clip_xyxy, iou_matrix
from al_dagster.core.hashing import file_sha256
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.protocols import Image, Prompt
from al_dagster.vision.revisions import code_revision
from al_dagster.vision.torch_runtime import MicroBatches, Runtime
from al_dagster.yolo.resident import ResidentModel

LEAST_CONFIDENCE = 0.05
USUAL_CONFIDENCE = 0.25
"""What ultralytics itself takes for a find."""

NMS_IOU = 0.7
MOST_BOXES = 300
SAME_PLACE_IOU = 0.5
"""Boxes that overlap this much are readings of the same thing."""

IMAGES_PER_CALL = 16
REVISION_LENGTH = 12
CODE_VERSION = "1"
PARAMETERS = {"confidence": LEAST_CONFIDENCE, "nms": [NMS_IOU, MOST_BOXES], "same_place": SAME_PLACE_IOU}
"""What the boxes depend on beside the weights."""


@dataclass(frozen=True)
class _Asked:
    """What a list of prompts means to a model.

    Args:
        prompt_of: index of the prompt by the id of each class that is looked for.
        negatives: for each prompt, the ids of the classes that speak against it.
    """

    prompt_of: dict[int, int]
    negatives: list[set[int]]

    @property
    def classes(self) -> list[int]:
        """Ids of all classes whose boxes are needed."""
        return sorted({*self.prompt_of, *(class_id for ids in self.negatives for class_id in ids)})


class YoloDetector:
    """Finds the classes that a YOLO model was trained on; the model works in a process of its own.

    A prompt asks for every class of the model whose name is the prompt's label or one of its synonyms, whatever the
    case; synonyms and negatives that the model does not know are ignored, since it cannot find them. A class that two
    prompts name goes to the one whose label it is, else to the first. A box is dropped where a box of one of its
    prompt's negatives is more confident and the two overlap by an IoU of 0.5 or more. The confidence is the model's
    own; boxes below 0.05 are dropped. Of two boxes of one class that overlap by more than 0.7 one is left.

    Images are scaled as they were when the model was trained. The network computes in float32 on every device.

    What the process takes of a GPU beside the weights is not known, so that the whole memory budget counts for it: it
    is never there together with another model of the runtime.

    Args:
        weights_file: a ``.pt`` file of a model that gives boxes: for detection, segmentation or poses.
        runtime: on which device it runs.
        scratch_dir: folder for the process's own folder.
        model_id: stable name of the model.
        allow_pickle: whether the file is known or trusted. It is a pickle, and although only layers of ultralytics
            and torch are taken out of it, it is not opened without this.

    Raises:
        UserError: there is no such file, it is not allowed, or a GPU is asked for and there is none.
    """

    images_per_call = IMAGES_PER_CALL
    least_confidence = USUAL_CONFIDENCE

    def __init__(
        self,
        weights_file: Path,
        runtime: Runtime,
        scratch_dir: Path,
        *,
        model_id: str,
        allow_pickle: bool,
    ) -> None:
        _check_file(weights_file, allow_pickle)
        self.model_id = model_id
        self.runtime = runtime
        self._residency = runtime.residency
        sha256 = file_sha256(weights_file)
        library = importlib.metadata.version("ultralytics")
        self.revision = f"{sha256[:REVISION_LENGTH]}.{code_revision(CODE_VERSION, ultralytics=library, **PARAMETERS)}"
        self.resident = ResidentModel(
            weights_file,
            scratch_dir,
            sha256=sha256,
            device=str(runtime.torch_device()),
            max_bytes=runtime.residency.max_bytes,
        )
        """The process that the model is loaded in."""
        # The memory that is measured is this process's: the worker says itself when it has too little.
        self._batches = MicroBatches(torch.device("cpu"), IMAGES_PER_CALL)

    def load(self) -> None:
        """Start the process and load the model; if it runs already, nothing is done.

        Where there is a memory budget, the other models leave the memory first.

        Raises:
            UserError: the file is not such a model or was replaced, or memory ran out.
            YoloError: the process failed.
        """
        with self._residency.lock:
            if self.resident.process_id is None:
                size = self._residency.max_bytes or 0
                self._residency.make_room(size)
                self.resident.start()
                self._residency.entered(self.resident, size)
            self._residency.used(self.resident)

    def unload(self) -> None:
        """End the process at once, whatever it is at; the next call starts another."""
        # Before the lock, which a thread holds that waits for a call that is never answered.
        self.resident.stop()
        with self._residency.lock:
            if self.resident.process_id is None:
                self._residency.gone(self.resident)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Check that the model knows every class by its label or one of its synonyms; loads it to see.

        Raises:
            UserError: a class is not known, or there is none; lists the known ones. Or as ``load`` does.
            YoloError: the process failed.
        """
        names = {_plain(name) for name in self._names()}
        unknown = [prompt.label for prompt in prompts if prompt.label == PROPOSAL or not _known(prompt, names)]
        if prompts and not unknown:
            return
        known = f"it knows {', '.join(name for name in self.resident.names if name != PROPOSAL)}"
        if unknown == [PROPOSAL]:
            raise UserError(
                f"the detector {self.model_id} makes no proposals, which classes labelled by example need; {known}; "
                "ask for those by name, or use another detector"
            )
        asked = ", ".join(map(repr, unknown)) or "an empty list of classes"
        raise UserError(
            f"the detector {self.model_id} does not know {asked}; {known}; "
            "a synonym can say which of these a class is called there"
        )

    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[sv.Detections]:
        """Find objects in images; fewer at a time where memory runs out.

        Args:
            images: (height, width, 3), uint8, RGB, each.
            prompts: what to find.

        Returns:
            One ``sv.Detections`` an image, most confident first: ``xyxy`` float32 in pixels inside the image,
            ``class_id`` an index into ``prompts``, ``confidence`` in 0–1.

        Raises:
            UserError: a prompt is not known, one image needs too much memory, or the process was killed; the next call
                starts another.
            YoloError: the process failed.
        """
        self.check_prompts(prompts)
        asked = _asked(prompts, self._names())
        found = self._batches.run(images, lambda some: self._find(some, asked.classes))
        return [_detections(boxes, asked, image) for boxes, image in zip(found, images, strict=True)]

    def _names(self) -> tuple[str, ...]:
        """The model's classes; the process is started if it has never been."""
        if not self.resident.names:
            self.load()
        return self.resident.names

    def _find(self, images: Sequence[Image], classes: list[int]) -> list[NDArray[np.float64]]:
        """The boxes of some images; where one alone does not fit, the other models leave the memory.

        Raises:
            MemoryError: these images need more memory than there is; fewer may do.
            UserError: one image does.
        """
        while True:
            try:
                return self._find_loaded(images, classes)
            except MemoryError:
                if len(images) > 1:
                    raise
            if not self._residency.release_others(self.resident):
                height, width = images[0].shape[:2]
                raise UserError(
                    f"an image of {width}×{height} pixels needs more memory than the detector {self.model_id} has on "
                    f"{self.resident.device}: close other programs that use it, or use a smaller model"
                )

    def _find_loaded(self, images: Sequence[Image], classes: list[int]) -> list[NDArray[np.float64]]:
        with ExitStack() as call:
            # Locks are taken in this order everywhere, and none else may come between loading and the call.
            with self._residency.lock:
                self.load()
                call.enter_context(self.resident.lock)
            return self.resident.find(
                images, confidence=LEAST_CONFIDENCE, nms_iou=NMS_IOU, most=MOST_BOXES, classes=classes
            )


def _check_file(weights_file: Path, allow_pickle: bool) -> None:
    if weights_file.suffix != ".pt":
        raise UserError(f"{weights_file}: the yolo detector reads .pt files of ultralytics, and this is another kind")
    if not weights_file.is_file():
        raise UserError(f"{weights_file}: there is no such file, and YOLO weights are never downloaded")
    if not allow_pickle:
        raise UserError(
            f"{weights_file}: a .pt file is a pickle, which may carry code: if you trust where it comes from, "
            "set allow_pickle: true under models in project.yaml"
        )


def _known(prompt: Prompt, names: set[str]) -> bool:
    return any(_plain(phrase) in names for phrase in prompt.phrases)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _asked(prompts: Sequence[Prompt], names: Sequence[str]) -> _Asked:
    ids: dict[str, list[int]] = {}
    for class_id, name in enumerate(names):
        ids.setdefault(_plain(name), []).append(class_id)
    phrases = [(index, prompt.label) for index, prompt in enumerate(prompts)]
    phrases += [(index, synonym) for index, prompt in enumerate(prompts) for synonym in prompt.synonyms]
    prompt_of: dict[int, int] = {}
    for index, phrase in phrases:
        for class_id in ids.get(_plain(phrase), ()):
            prompt_of.setdefault(class_id, index)
    negatives = [
        {class_id for phrase in prompt.negatives for class_id in ids.get(_plain(phrase), ())}
        - {class_id for class_id, owner in prompt_of.items() if owner == index}
        for index, prompt in enumerate(prompts)
    ]
    return _Asked(prompt_of, negatives)


def _detections(table: NDArray[np.float64], asked: _Asked, image: Image) -> sv.Detections:
    """The boxes that answer the prompts, from (k, 6): x1, y1, x2, y2, confidence, id of the class."""
    boxes = clip_xyxy(table[:, :4], image.shape[1], image.shape[0])
    confidence, classes = table[:, 4], table[:, 5].astype(int)
    prompt = np.array([asked.prompt_of.get(int(class_id), -1) for class_id in classes], dtype=int)
    keep = (prompt >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    for index, negatives in enumerate(asked.negatives):
        against = np.isin(classes, list(negatives))
        if against.any():
            better = confidence[against][None, :] > confidence[:, None]
            rivals = (iou_matrix(boxes, boxes[against]) >= SAME_PLACE_IOU) & better
            keep &= (prompt != index) | ~rivals.any(axis=1)
    order = np.flatnonzero(keep)[np.argsort(-confidence[keep], kind="stable")]
    return sv.Detections(
        xyxy=boxes[order].astype(np.float32), confidence=confidence[order].astype(np.float32), class_id=prompt[order]
    )
