"""What is written must be what other people's readers see."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import supervision as sv
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow
from pycocotools.coco import COCO

from al_dagster.core.rle import decode, encode
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.datasets.export_coco import write_coco
from al_dagster.datasets.export_yolo import data_yaml, write_yolo
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.labels import ignored_of, labels_of, one_outline
from al_dagster.vision.polygons import mask_polygons
from al_dagster.vision.protocols import Mask

CLASSES = ("nut", '너트: "M6" #1', "no")


@st.composite
def masks(draw: st.DrawFn, width: int, height: int) -> Mask:
    """A mask of any shape, with holes and several parts, anywhere in an image."""
    w, h = draw(st.integers(1, min(width, 12))), draw(st.integers(1, min(height, 12)))
    pixels = draw(arrays(bool, (h, w)).filter(lambda pixels: pixels.any()))
    return Mask(pixels, draw(st.integers(0, width - w)), draw(st.integers(0, height - h)), 1.0)


@st.composite
def datasets(draw: st.DrawFn) -> FrozenDataset:
    rows: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 4))):
        width, height = draw(st.integers(1, 200)), draw(st.integers(1, 200))
        image = {
            "split": draw(st.sampled_from(["train", "val", "test"])) if index else "train",
            "source_id": f"src_{index}",
            "frame_idx": 0,
            "file_path": f"/{index}.png",
            "sha256": "0" * 64,
            "group_key": "g",
            "width": width,
            "height": height,
            "image_format": "PNG",
            "is_plain": True,
        }
        members = draw(st.integers(0, 4))
        if not members:
            rows.append(image)
        for number in range(members):
            x, y = draw(st.floats(-5, width - 0.1)), draw(st.floats(-5, height - 0.1))
            w, h = draw(st.floats(5.2, width + 10)), draw(st.floats(5.2, height + 10))
            mask = draw(st.one_of(st.none(), masks(width, height)))
            rows.append(
                {
                    **image,
                    "object_id": f"obj_{number}",
                    "category": draw(st.sampled_from(CLASSES)),
                    "bbox_x": x,
                    "bbox_y": y,
                    "bbox_w": w,
                    "bbox_h": h,
                    "polygon": mask and mask_polygons(mask),
                    "rle": mask and encode(mask.pixels, mask.x, mask.y, width, height),
                    "area": mask and float(mask.area),
                }
            )
    coco_masks = draw(st.sampled_from(["rle", "polygon"]))
    definition = DatasetDefinition(name="drawn", project="drawn", coco_masks=coco_masks)
    table = pa.Table.from_pylist(rows, schema=DATASET)
    return FrozenDataset("ds_1", "1.0", "hash", CLASSES, definition, table)


def images_of(folder: Path, dataset: FrozenDataset) -> list[str]:
    for split in ("train", "val", "test"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    for image in dataset.images:
        Pillow.new("RGB", (image.width, image.height)).save(folder / "images" / image.split / f"{image.name}.png")
    return [f"{image.name}.png" for image in dataset.images]


def expected_box(image: Any, item: Any) -> list[float]:
    x, y, w, h = item.bbox
    return [max(x, 0), max(y, 0), min(x + w, image.width), min(y + h, image.height)]


@given(datasets())
@settings(max_examples=40)
def test_yolo_boxes_come_back(dataset: FrozenDataset):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images_of(folder, dataset)
        write_yolo(folder, dataset, labels_of(dataset), segmentation=False)
        for split in ("train", "val", "test"):
            read = sv.DetectionDataset.from_yolo(
                str(folder / "images" / split), str(folder / "labels" / split), str(folder / "data.yaml")
            )
            assert read.classes == list(CLASSES)
            members = {image.name: image for image in dataset.images if image.split == split}
            assert {Path(path).stem for path in read.annotations} == set(members)
            for path, found in read.annotations.items():
                image = members[Path(path).stem]
                assert [CLASSES[index] for index in found.class_id] == [item.category for item in image.objects]
                expected = np.array([expected_box(image, item) for item in image.objects]).reshape(-1, 4)
                np.testing.assert_allclose(found.xyxy, expected, atol=1e-3)


@given(datasets())
@settings(max_examples=40)
def test_yolo_outlines_come_back_and_stay_inside(dataset: FrozenDataset):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_yolo(folder, dataset, labels_of(dataset), segmentation=True)
        for image in dataset.images:
            lines = (folder / "labels" / image.split / f"{image.name}.txt").read_text().splitlines()
            assert len(lines) == len(image.objects)
            for line, item in zip(lines, image.objects, strict=True):
                class_id, *values = line.split()
                points = np.array(values, dtype=float).reshape(-1, 2)
                assert CLASSES[int(class_id)] == item.category
                assert points.min() >= 0
                assert points.max() <= 1
                drawn = filled(points * [image.width, image.height], image.width, image.height)
                if item.rle is None:
                    x1, y1, x2, y2 = expected_box(image, item)
                    found = (points * [image.width, image.height]).ravel()
                    np.testing.assert_allclose(found, [x1, y1, x2, y1, x2, y2, x1, y2], atol=1e-3)
                else:
                    true = decode(item.rle, image.width, image.height)
                    assert (drawn & true).sum() / (drawn | true).sum() >= 0.9


def filled(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pixels whose centre lies inside an outline by the even-odd rule."""
    inside = np.zeros((height, width), dtype=bool)
    (x1, y1), (x2, y2) = points.T, np.roll(points, -1, axis=0).T
    for row in range(height):
        crossing = (y1 <= row + 0.5) != (y2 <= row + 0.5)
        x, y = x1[crossing], y1[crossing]
        at = np.sort(x + (row + 0.5 - y) * (x2[crossing] - x) / (y2[crossing] - y))
        inside[row] = np.searchsorted(at, np.arange(width) + 0.5) % 2 == 1
    return inside


@given(datasets())
@settings(max_examples=40)
def test_coco_comes_back_through_its_own_library(dataset: FrozenDataset):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_coco(folder, dataset, labels_of(dataset), ignored_of(dataset), images_of(folder, dataset))
        ids: list[int] = []
        for split in ("train", "val", "test"):
            read = COCO(str(folder / "annotations" / f"instances_{split}.json"))
            assert {key: value["name"] for key, value in read.cats.items()} == dict(enumerate(CLASSES, start=1))
            members = {f"{image.name}.png": image for image in dataset.images if image.split == split}
            assert {value["file_name"] for value in read.imgs.values()} == set(members)
            for entry in read.loadImgs(read.getImgIds()):
                image = members[entry["file_name"]]
                assert (entry["width"], entry["height"]) == (image.width, image.height)
                annotations = read.loadAnns(read.getAnnIds(imgIds=entry["id"]))
                ids += [annotation["id"] for annotation in annotations]
                assert [annotation["object_id"] for annotation in annotations] == [
                    item.object_id for item in image.objects
                ]
                for annotation, item in zip(annotations, image.objects, strict=True):
                    x1, y1, x2, y2 = expected_box(image, item)
                    np.testing.assert_allclose(annotation["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=1e-3)
                    assert read.cats[annotation["category_id"]]["name"] == item.category
                    if item.rle is None:
                        assert annotation["segmentation"] == []
                    else:
                        true = decode(item.rle, image.width, image.height)
                        assert np.array_equal(read.annToMask(annotation), true)
                        assert annotation["area"] == true.sum()
                        is_rle = isinstance(annotation["segmentation"], dict)
                        assert is_rle == (dataset.definition.coco_masks == "rle")
        assert len(ids) == len(set(ids)) == sum(len(image.objects) for image in dataset.images)


rings = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=7), min_size=1, max_size=4
)


@given(rings)
def test_joining_outlines_keeps_every_corner_and_the_area(outlines: list[list[tuple[int, int]]]):
    def area(points: np.ndarray) -> float:
        x, y = points.T
        return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)

    arrays = [np.array(ring, dtype=float) for ring in outlines]

    joined = one_outline(arrays)

    assert {tuple(point) for point in joined} == {tuple(point) for ring in arrays for point in ring}
    assert area(joined) == pytest.approx(sum(area(ring) for ring in arrays))


def test_two_squares_joined_cover_what_they_covered_apart():
    import cv2

    squares = [np.array([[x, 2], [x + 6, 2], [x + 6, 8], [x, 8]], dtype=float) for x in (1, 12)]
    apart, joined = np.zeros((12, 22), np.uint8), np.zeros((12, 22), np.uint8)
    cv2.fillPoly(apart, [square.astype(np.int32) for square in squares], 1)
    cv2.fillPoly(joined, [one_outline(squares).astype(np.int32)], 1)

    # The bridge is a line without width, one pixel thick where it is drawn.
    assert (joined >= apart).all()
    assert joined.sum() - apart.sum() <= 5


def test_data_yaml_is_relative_and_in_a_fixed_order():
    assert data_yaml(["nut", "bolt"], {"test", "val", "train"}) == (
        "train: images/train\nval: images/val\ntest: images/test\nnc: 2\nnames:\n  0: nut\n  1: bolt\n"
    )


@pytest.mark.parametrize("splits", [{"train"}, {"train", "val"}, {"train", "test"}])
def test_data_yaml_names_splits_that_have_images_and_never_test_images_for_val(splits: set[str]):
    read = yaml.safe_load(data_yaml(["nut"], splits))

    assert read["val"] == ("images/val" if "val" in splits else "images/train")
    assert read.get("test") == ("images/test" if "test" in splits else None)


def test_coco_files_are_json_with_sorted_keys(tmp_path: Path):
    row = {
        **{"split": "val", "source_id": "src_1", "frame_idx": 0, "file_path": "/1.png", "sha256": "0", "width": 9},
        **{"group_key": "g", "height": 9, "image_format": "PNG", "is_plain": True, "object_id": "obj_1"},
        **{"category": "nut", "bbox_x": 0.0, "bbox_y": 1.0, "bbox_w": 2.0, "bbox_h": 3.5},
    }
    table = pa.Table.from_pylist([row], schema=DATASET)
    dataset = FrozenDataset("ds_1", "1.0", "hash", ("nut",), DatasetDefinition(name="a", project="a"), table)

    write_coco(tmp_path, dataset, labels_of(dataset), ignored_of(dataset), ["1.png"])

    for split in ("train", "val"):
        text = (tmp_path / "annotations" / f"instances_{split}.json").read_text()
        assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) + "\n"


def test_outlines_without_run_lengths_are_exported_as_they_are(tmp_path: Path):
    ring = [1.0, 1, 1, 5.5, 6, 5.5, -2, 1]
    row = {
        **{"split": "val", "source_id": "src_1", "frame_idx": 0, "file_path": "/1.png", "sha256": "0", "width": 9},
        **{"group_key": "g", "height": 9, "image_format": "PNG", "is_plain": True, "object_id": "obj_1"},
        **{"category": "nut", "bbox_x": 0.0, "bbox_y": 1.0, "bbox_w": 6.0, "bbox_h": 5.0},
        **{"polygon": [ring], "area": 12.3456},
    }
    table = pa.Table.from_pylist([row], schema=DATASET)
    dataset = FrozenDataset("ds_1", "1.0", "hash", ("nut",), DatasetDefinition(name="a", project="a"), table)

    write_coco(tmp_path, dataset, labels_of(dataset), ignored_of(dataset), ["1.png"])

    (annotation,) = COCO(str(tmp_path / "annotations" / "instances_val.json")).dataset["annotations"]
    assert (annotation["segmentation"], annotation["area"]) == ([[1, 1, 1, 5.5, 6, 5.5, 0, 1]], 12.346)
