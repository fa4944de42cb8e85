"""The demonstration's model against the ground truth: its test images, with the true boxes in place of the labels."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from PIL import Image

from al_dagster.core.settings import Settings
from al_dagster.datasets.manifest import read_manifest
from al_dagster.demo.scoring import Label, read_truth
from al_dagster.registry.database import open_registry
from al_dagster.resources import ExportsResource
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.evaluate import evaluate


def map50_against_truth(settings: Settings, dataset: str, weights: Path, truth: Path) -> float:
    """The mAP at IoU 0.5 of a model on the test images of its dataset, measured on the true boxes.

    Args:
        settings: where the dataset is.
        dataset: its name.
        weights: the model's ``.pt`` file.
        truth: COCO file of the ground truth, by the names of the original files.
    """
    exports = ExportsResource(folder=str(settings.exports_dir))
    with open_registry(settings.database_url) as registry:
        exported, config = exports.exported(registry, dataset)
    sources = read_manifest(exported.path.parent)["images"]
    originals = {path: Path(sources[path.name]["original"]).name for path in exported.images("test")}
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.scratch_dir) as folder:
        true_dataset = _with_true_boxes(exported, Path(folder), originals, read_truth(truth))
        return evaluate(true_dataset, weights, config, Path(folder)).metrics["map50"]


def _with_true_boxes(
    exported: ExportedDataset, folder: Path, originals: dict[Path, str], truth: Sequence[Label]
) -> ExportedDataset:
    images, labels = folder / "images" / "test", folder / "labels" / "test"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    classes = list(exported.classes)
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": str(folder), "test": "images/test", "names": classes}))
    for path, original in originals.items():
        shutil.copyfile(path, images / path.name)
        with Image.open(path) as image:
            width, height = image.size
        lines = [_line(label, classes, width, height) for label in truth if label.image == original]
        (labels / f"{path.stem}.txt").write_text("".join(lines))
    return dataclasses.replace(exported, path=folder, splits={"train": 0, "val": 0, "test": len(originals)})


def _line(label: Label, classes: list[str], width: int, height: int) -> str:
    x, y, w, h = label.box
    centre = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    return f"{classes.index(label.label)} {' '.join(f'{value:.6f}' for value in centre)}\n"
