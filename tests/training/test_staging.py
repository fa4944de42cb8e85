import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from al_dagster.core.errors import UserError
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.staging import stage


def test_the_staged_copy_holds_train_and_val_and_not_test(tmp_path: Path, dataset: ExportedDataset) -> None:
    data, validation = stage(dataset, tmp_path / "data")
    assert validation == "val"
    content = yaml.safe_load(data.read_text())
    assert content["names"] == {0: "red box", 1: "green disc"}
    staged = sorted(str(path.relative_to(tmp_path / "data" / "images")) for path in data.parent.glob("images/*/*"))
    assert staged == ["train/0.jpg", "train/1.png", "train/2.png", "val/0.jpg", "val/1.png"]


def test_the_order_of_the_pictures_depends_on_their_content_and_not_on_their_names(
    tmp_path: Path, dataset: ExportedDataset
) -> None:
    by_content = {"0.jpg": "src_c", "1.png": "src_a", "2.png": "src_b"}
    named = dataclasses.replace(dataset, content_names=by_content)
    data, _ = stage(named, tmp_path / "data")
    folder = data.parent
    pictures = {path.name: path.resolve().name for path in sorted((folder / "images" / "train").iterdir())}
    assert pictures == {"src_a.png": "1.png", "src_b.png": "2.png", "src_c.jpg": "0.jpg"}
    labels = {path.name: path.resolve().name for path in (folder / "labels" / "train").iterdir()}
    assert labels == {f"{by_content[name]}.txt": f"{Path(name).stem}.txt" for name in pictures.values()}


def test_train_validates_where_val_is_empty(tmp_path: Path, make_export: Callable[..., ExportedDataset]) -> None:
    data, validation = stage(make_export(tmp_path / "export", {"train": 2, "val": 0}), tmp_path / "data")
    assert validation == "train"
    assert yaml.safe_load(data.read_text())["val"] == "images/train"


def test_a_train_split_without_objects_is_one_sentence(
    tmp_path: Path, make_export: Callable[..., ExportedDataset]
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1, "val": 1})
    (dataset.path / "labels" / "train" / "0.txt").write_text("")
    with pytest.raises(UserError, match=r"train split of dataset shapes 1\.0 has no objects"):
        stage(dataset, tmp_path / "data")
