from pathlib import Path

import numpy as np
import pytest

from al_dagster.core.errors import UserError
from al_dagster.yolo.predict import predict, read_predictions


@pytest.mark.parametrize("boxes_of", [[], [0], [2, 0, 3, 0]])
def test_each_image_gets_its_own_boxes(tmp_path: Path, boxes_of: list[int]) -> None:
    image = np.repeat(np.arange(len(boxes_of)), boxes_of)
    xyxy = np.random.default_rng(0).uniform(0, 9, (len(image), 4))
    sizes = np.array([(10 + index, 20) for index in range(len(boxes_of))]).reshape(-1, 2)
    classes = np.arange(len(image))
    np.savez(tmp_path / "b.npz", image=image, xyxy=xyxy, confidence=classes / 10, class_id=classes, sizes=sizes)
    read = read_predictions(tmp_path / "b.npz")
    assert read.sizes == [(20, 10 + index) for index in range(len(boxes_of))]
    assert [len(boxes) for boxes in read.boxes] == boxes_of
    for index, boxes in enumerate(read.boxes):
        assert np.array_equal(boxes.xyxy, xyxy[image == index])
        assert np.array_equal(boxes.class_id, classes[image == index])
        assert np.array_equal(boxes.confidence, classes[image == index] / 10)


def test_reading_the_boxes_of_many_images_reads_each_array_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    access = np.lib.npyio.NpzFile.__getitem__
    monkeypatch.setattr(
        np.lib.npyio.NpzFile, "__getitem__", lambda table, name: (read.append(name), access(table, name))[1]
    )
    many = np.arange(50)
    np.savez(
        tmp_path / "b.npz",
        image=many,
        xyxy=np.zeros((50, 4)),
        confidence=many / 50,
        class_id=many,
        sizes=np.ones((50, 2), int),
    )
    assert len(read_predictions(tmp_path / "b.npz").boxes) == 50
    assert sorted(read) == ["class_id", "confidence", "image", "sizes", "xyxy"]


def test_an_image_that_cannot_be_read_is_one_sentence(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(UserError, match=r"^/.*note\.png cannot be read as an image$"):
        predict(weights, [tmp_path / "note.png"], tmp_path, imgsz=64, device="cpu", threads=1)
