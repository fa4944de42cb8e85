from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core.errors import UserError
from al_dagster.training.dataset import ExportedDataset, read_labels

edge = st.integers(0, 400)


def test_classes_and_images_are_those_of_the_export(dataset: ExportedDataset) -> None:
    assert dataset.classes == ("red box", "green disc")
    assert [image.name for image in dataset.images("train")] == ["0.jpg", "1.png", "2.png"]
    assert dataset.images("holdout") == []
    assert all(dataset.label_file(image).exists() for image in dataset.images("test"))


def test_train_images_that_stand_in_for_val_are_no_val_images(
    tmp_path: Path, make_export: Callable[..., ExportedDataset]
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 2})
    with (dataset.path / "data.yaml").open("a") as file:
        file.write("val: images/train\n")

    assert len(dataset.images("train")) == 2
    assert dataset.images("val") == []


@given(
    corners=st.tuples(edge, edge, edge, edge).filter(lambda box: box[0] < box[2] and box[1] < box[3]),
    width=st.integers(400, 5000),
    height=st.integers(400, 5000),
    class_id=st.integers(0, 90),
)
def test_a_box_comes_back_from_its_line_in_both_formats(
    tmp_path_factory: pytest.TempPathFactory,
    corners: tuple[int, int, int, int],
    width: int,
    height: int,
    class_id: int,
) -> None:
    x1, y1, x2, y2 = corners
    center = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    outline = (x1 / width, y1 / height, x2 / width, y1 / height, x2 / width, y2 / height)
    path = tmp_path_factory.mktemp("labels") / "image.txt"
    lines = (" ".join([str(class_id), *(f"{value:.8f}" for value in values)]) for values in (center, outline))
    path.write_text("\n".join(lines) + "\n\n")
    boxes, class_ids = read_labels(path, width, height)
    np.testing.assert_allclose(boxes, [corners, corners], atol=1e-3)
    assert class_ids.tolist() == [class_id, class_id]


def test_an_image_without_a_label_file_has_no_objects(tmp_path: Path) -> None:
    boxes, class_ids = read_labels(tmp_path / "none.txt", 10, 10)
    assert boxes.shape == (0, 4)
    assert class_ids.shape == (0,)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "nut 0.5 0.5 0.1 0.1", "0 a b c d", "0 0.1 0.1 0.2 0.2 0.3"])
def test_a_line_that_is_no_label_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "image.txt"
    path.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(UserError, match=r"image\.txt, line 2: not a YOLO label"):
        read_labels(path, 100, 100)


@pytest.mark.parametrize("content", [None, "names: [", "names: nut", "- a\n- b"])
def test_an_export_without_a_good_data_yaml_is_one_sentence(
    tmp_path: Path, dataset: ExportedDataset, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(UserError, match=r"data\.yaml.*export the dataset"):
        _ = replace(dataset, path=tmp_path).classes
