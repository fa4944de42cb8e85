import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from al_dagster.core.errors import UserError
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.evaluate import choose_split, evaluate, metric_name
from al_dagster.training.tracking import Tracking
from al_dagster.yolo.predict import predict

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(dataset: ExportedDataset, tmp_path: Path) -> ExportedDataset:
    """A copy of the export, to be changed."""
    shutil.copytree(dataset.path, tmp_path / "export")
    return replace(dataset, path=tmp_path / "export")


def test_an_evaluation_is_measured_on_test_and_recorded_in_the_run(
    trained: Any, tracking: Tracking, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    evaluation = evaluate(
        trained.dataset,
        trained.model.weights_path,
        trained.config,
        tmp_path,
        tracking=tracking,
        mlflow_run_id=trained.model.mlflow_run_id,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (evaluation.split, evaluation.note, evaluation.images, evaluation.objects) == ("test", "", 2, 4)
    assert evaluation.confidence_split == "val"
    assert seen[-1] == (4, 4)
    assert evaluation.confusion.shape == (3, 3)
    assert evaluation.confusion[:2].sum() == 4
    assert [row.name for row in evaluation.per_class] == ["red box", "green disc"]
    assert all(png.startswith(b"\x89PNG") and len(png) < 100_000 for png in evaluation.plots.values())
    assert list(tmp_path.iterdir()) == []

    run = tracking.run_lineage(trained.model.mlflow_run_id)
    assert run["metrics"]["test_map50"] == evaluation.metrics["map50"]
    assert "test_ap50_green disc" in run["metrics"]
    assert run["tags"]["al.evaluated_split"] == "test"
    files = {item.path for item in tracking.client.list_artifacts(run["run_id"], "evaluation")}
    assert {Path(file).name for file in files} == {
        "evaluation.json",
        "precision_recall.png",
        "average_precision.png",
        "confusion_matrix.png",
    }
    report = json.loads(
        Path(tracking.client.download_artifacts(run["run_id"], "evaluation/evaluation.json")).read_text()
    )
    assert report["metrics"] == evaluation.metrics
    assert report["confusion"] == evaluation.confusion.tolist()


def test_val_stands_in_for_a_test_without_objects_and_says_so(copied: ExportedDataset) -> None:
    for label in (copied.path / "labels" / "test").iterdir():
        label.write_text("")
    split = choose_split(copied)
    assert (split.name, split.images) == ("val", copied.images("val"))
    assert split.note == "the test split has no objects, so the figures are of the val split"


def test_a_dataset_with_nothing_to_evaluate_on_is_one_sentence(
    make_export: Callable[..., ExportedDataset], trained: Any, tmp_path: Path
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1})
    with pytest.raises(UserError, match="has no objects in its test and val splits to evaluate on"):
        evaluate(dataset, trained.model.weights_path, trained.config, tmp_path / "work")


def test_boxes_are_in_pixels_of_the_upright_image(trained: Any, tmp_path: Path) -> None:
    """Orientation 6 means: turn a quarter clockwise to see it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((30, 80, 3), 127, np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.full((30, 80), 30_000, np.uint16)).save(tmp_path / "deep.png")
    images = [tmp_path / "turned.jpg", tmp_path / "deep.png"]
    found = predict(trained.model.weights_path, images, tmp_path, imgsz=64, device="cpu", threads=1)
    assert found.sizes == [(30, 80), (80, 30)]
    for boxes, (width, height) in zip(found.boxes, found.sizes, strict=True):
        assert (boxes.xyxy >= 0).all()
        assert (boxes.xyxy <= [width, height, width, height]).all()


def test_classes_of_any_name_have_metrics_of_their_own(
    make_export: Callable[..., ExportedDataset], tracking: Tracking, tmp_path: Path
) -> None:
    classes = ["nut", "nut/bolt", "nut:bolt", "nut_bolt", "너트", "a" * 300, "a" * 301, "🔩"]
    names = [metric_name("test_ap50_", name) for name in classes]
    assert names[0] == "test_ap50_nut"
    assert len(set(names)) == len(classes)
    dataset = make_export(tmp_path / "export", {"train": 1}, name="names")
    run_id = tracking.start_run(dataset, params={}, tags={}, run_name="names")
    tracking.log_metrics(run_id, {name: float(place) for place, name in enumerate(names)})
    assert [tracking.metrics(run_id)[name] for name in names] == list(map(float, range(len(names))))
    tracking.end_run(run_id)
