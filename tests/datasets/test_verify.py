import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from pycocotools import mask as coco_masks

from al_dagster.core.hashing import file_sha256
from al_dagster.datasets.export import export_dataset
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.manifest import MANIFEST
from al_dagster.datasets.verify import export_equals_registry, verify_export
from al_dagster.registry.datasets import get_dataset
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import edit_object


@pytest.fixture(scope="module")
def standing(make_module_lab: Callable[[str], Any]) -> tuple[Path, FrozenDataset]:
    return export(make_module_lab("lab"))


def export(lab: Any, **values: Any) -> tuple[Path, FrozenDataset]:
    lab.fill(10)
    lab.label({lab.draw("empty.png", 900): []})
    dataset = lab.build(split={"train": 0.4, "val": 0.3, "test": 0.3}, **values).dataset
    return export_dataset(lab.registry, dataset, lab.root / "exports", max_pixels=lab.max_pixels).folder, dataset


@pytest.fixture
def exported(standing: tuple[Path, FrozenDataset], tmp_path: Path) -> tuple[Path, FrozenDataset]:
    """A copy of an export that may be damaged, and the dataset."""
    folder, dataset = standing
    return Path(shutil.copytree(folder, tmp_path / "export")), dataset


def sign(folder: Path) -> None:
    """Make the manifest agree with the files, so that only what they say can give them away."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest["files"] = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def a_label(folder: Path, name: str) -> Path:
    return next(path for path in sorted((folder / name / "labels").rglob("*.txt")) if path.stat().st_size)


def change(path: Path, edit: Callable[[list[list[str]]], None]) -> None:
    lines = [line.split() for line in path.read_text().splitlines()]
    edit(lines)
    path.write_text("".join(" ".join(line) + "\n" for line in lines))


def shift_box(folder: Path) -> None:
    def edit(lines: list[list[str]]) -> None:
        lines[0][1] = f"{float(lines[0][1]) + 0.001:.6f}"

    change(a_label(folder, "yolo"), edit)


def shift_corner(folder: Path) -> None:
    def edit(lines: list[list[str]]) -> None:
        lines[1][-1] = f"{float(lines[1][-1]) - 0.002:.6f}"

    change(a_label(folder, "yolo-seg"), edit)


def rename_class(folder: Path) -> None:
    def edit(lines: list[list[str]]) -> None:
        lines[0][0] = "2"

    change(a_label(folder, "yolo"), edit)


def drop_object(folder: Path) -> None:
    change(a_label(folder, "yolo-seg"), lambda lines: lines.pop())


def garble(folder: Path) -> None:
    a_label(folder, "yolo").write_text("0 0.5 half\n")


def swap_names(folder: Path) -> None:
    path = folder / "yolo" / "data.yaml"
    path.write_text(path.read_text().replace("0: nut", "0: bolt").replace("1: bolt", "1: nut"))


def label_background(folder: Path) -> None:
    path = next(path for path in (folder / "yolo" / "labels").rglob("*.txt") if not path.stat().st_size)
    path.write_text("0 0.5 0.5 0.1 0.1\n")


def move_to_other_split(folder: Path) -> None:
    label = a_label(folder, "yolo")
    other = "val" if label.parent.name != "val" else "test"
    (image,) = (folder / "yolo" / "images" / label.parent.name).glob(f"{label.stem}.*")
    label.rename(folder / "yolo" / "labels" / other / label.name)
    image.rename(folder / "yolo" / "images" / other / image.name)


def drop_image(folder: Path) -> None:
    label = a_label(folder, "yolo")
    (image,) = (folder / "yolo" / "images" / label.parent.name).glob(f"{label.stem}.*")
    label.unlink()
    image.unlink()


def drop_label_file(folder: Path) -> None:
    a_label(folder, "yolo-seg").unlink()


def shrink_image(folder: Path) -> None:
    label = a_label(folder, "yolo")
    (image,) = (folder / "yolo" / "images" / label.parent.name).glob(f"{label.stem}.*")
    picture = Pillow.open(image).resize((48, 32))
    image.unlink()
    picture.save(image)


def coco(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "coco" / "annotations" / "instances_train.json"
        document = json.loads(path.read_text())
        edit(document)
        path.write_text(json.dumps(document))

    return damage


def first(document: dict[str, Any], masked: bool) -> dict[str, Any]:
    return next(row for row in document["annotations"] if bool(row["segmentation"]) == masked)


def in_coco(key: str, value: Any) -> Callable[[Path], None]:
    return coco(lambda document: first(document, masked=False).update({key: value}))


def in_coco_mask(value: Any) -> Callable[[Path], None]:
    return coco(lambda document: first(document, masked=True).update({"segmentation": value}))


@coco
def grow_coco_mask(document: dict[str, Any]) -> None:
    segmentation = first(document, masked=True)["segmentation"]
    pixels = coco_masks.decode(segmentation)
    row, column = np.argwhere(pixels == 0)[-1]
    pixels[row, column] = 1
    segmentation["counts"] = coco_masks.encode(pixels)["counts"].decode()


def lie_of_an_origin(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    next(iter(manifest["images"].values()))["original"] = "/elsewhere.png"
    (folder / MANIFEST).write_text(json.dumps(manifest))


def drop_a_format(folder: Path) -> None:
    shutil.rmtree(folder / "coco")
    lie({"formats": ["yolo", "yolo-seg"]})(folder)


def lie(values: dict[str, Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | values))

    return damage


def validate_on_test(folder: Path) -> None:
    path = folder / "yolo" / "data.yaml"
    path.write_text(path.read_text().replace("val: images/val", "val: images/test"))


def shrink_outline(folder: Path) -> None:
    def edit(lines: list[list[str]]) -> None:
        outline = max(lines, key=len)
        points = np.array(outline[1:], dtype=float).reshape(-1, 2)
        outline[1:] = [f"{value:.6f}" for value in ((points + points.mean(axis=0)) / 2).ravel()]

    change(a_label(folder, "yolo-seg"), edit)


def add_image(folder: Path) -> None:
    Pillow.new("RGB", (9, 9)).save(folder / "yolo" / "images" / "train" / "more.png")


def add_label(folder: Path) -> None:
    (folder / "yolo" / "labels" / "train" / "more.txt").write_text("")


def lengthen_label(folder: Path) -> None:
    change(a_label(folder, "yolo"), lambda lines: lines[0].append("0.5"))


def shorten_outline(folder: Path) -> None:
    def edit(lines: list[list[str]]) -> None:
        lines[0] = lines[0][:5]

    change(a_label(folder, "yolo-seg"), edit)


def garble_image(folder: Path) -> None:
    path = next(iter(sorted((folder / "yolo" / "images").rglob("*.png"))))
    path.unlink()
    path.write_bytes(b"no image")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a shifted box": (shift_box, "has the box"),
    "a shifted corner": (shift_corner, "has another outline"),
    "another class": (rename_class, "is washer, the dataset has"),
    "a dropped object": (drop_object, "has 1 objects, the dataset has 2"),
    "a garbled label": (garble, "cannot be read back"),
    "swapped names": (swap_names, "data.yaml: names"),
    "a labelled background": (label_background, "has 1 objects, the dataset has 0"),
    "an image in another split": (move_to_other_split, "the dataset has it in"),
    "a dropped image": (drop_image, "is missing from the export"),
    "a dropped label file": (drop_label_file, "has no label file"),
    "an image of another size": (shrink_image, "is 48×32"),
    "a COCO box": (in_coco("bbox", [1, 2, 3, 4]), "has the box"),
    "a COCO outline": (in_coco_mask([[1, 2, 3, 4, 5, 6]]), "has another mask"),
    "a COCO mask with a pixel more": (grow_coco_mask, "has another mask than in the dataset: IoU 0.99"),
    "no COCO mask": (in_coco_mask([]), "has another mask"),
    "a COCO mask of another size": (in_coco_mask({"size": [96, 64], "counts": "0"}), "has another mask"),
    "a COCO outline of an object without mask": (in_coco("segmentation", [[1, 2, 3, 4, 5, 6]]), "another outline"),
    "a COCO area": (in_coco("area", 7.0), "has the area 7.0"),
    "a COCO object": (in_coco("object_id", "obj_other"), "has obj_other in the place of"),
    "a COCO crowd": (in_coco("iscrowd", 1), "has 1 objects, the dataset has 2"),
    "where a COCO image comes from": (
        coco(lambda document: document["images"][0].update(source_id="src_other")),
        "says of",
    ),
    "where an image comes from": (lie_of_an_origin, "come from elsewhere"),
    "a format that is gone": (drop_a_format, "coco: cannot be read back"),
    "formats": (lie({"formats": ["yolo"]}), "manifest.json: says formats ['yolo'], the dataset has ['yolo', 'yolo-seg"),
    "counts": (lie({"counts": {}}), "manifest.json: says counts {}, the dataset has"),
    "a version": (lie({"version": "7.7"}), "manifest.json: says version 7.7, the dataset has 1.0"),
    "what validates": (validate_on_test, "data.yaml: val images/test, the dataset has images/val"),
    "an outline far from its mask": (shrink_outline, "has another mask than in the dataset: IoU 0."),
    "an additional image": (add_image, "is no image of the dataset"),
    "a label without image": (add_label, "has no image"),
    "a box without end": (lengthen_label, "which is no box"),
    "an outline of two corners": (shorten_outline, "which is no outline"),
    "an image that is none": (garble_image, "cannot be read back"),
    "a COCO class": (in_coco("category_id", 3), "is washer"),
    "a COCO annotation": (coco(lambda document: document["annotations"].pop()), "has 1 objects, the dataset has 2"),
    "a COCO image": (coco(lambda document: document["images"].pop()), "annotations of an unknown image"),
    "COCO categories": (coco(lambda document: document["categories"].reverse()), ""),
    "no COCO categories": (coco(lambda document: document.pop("categories")), "cannot be read back"),
}


def test_a_right_export_has_no_problems(exported: tuple[Path, FrozenDataset]):
    folder, dataset = exported
    sign(folder)

    assert verify_export(folder, dataset).problems == []


@pytest.mark.parametrize("name", [name for name, (_, sentence) in DAMAGES.items() if sentence])
def test_what_the_labels_say_is_compared_even_where_the_hashes_agree(exported: tuple[Path, FrozenDataset], name: str):
    folder, dataset = exported
    damage, sentence = DAMAGES[name]
    damage(folder)
    sign(folder)

    problems = verify_export(folder, dataset).problems

    assert any(sentence in problem for problem in problems), problems


def test_the_order_of_coco_categories_is_no_difference(exported: tuple[Path, FrozenDataset]):
    folder, dataset = exported
    DAMAGES["COCO categories"][0](folder)
    sign(folder)

    assert verify_export(folder, dataset).problems == []


def test_a_changed_and_an_additional_file_are_named(exported: tuple[Path, FrozenDataset]):
    folder, dataset = exported
    (folder / "yolo" / "data.yaml").write_text((folder / "yolo" / "data.yaml").read_text() + "# edited\n")
    (folder / "yolo" / "notes.txt").write_text("mine")

    problems = verify_export(folder, dataset).problems

    assert problems == [
        "yolo/data.yaml: has changed since the export",
        "yolo/notes.txt: does not belong to the export",
    ]


def test_files_that_were_touched_after_the_export_are_hashed_even_where_their_times_are_set_back(lab: Any):
    folder, dataset = export(lab)
    exported_at = get_dataset(lab.registry, dataset.dataset_id).exported_at
    assert export_equals_registry(dataset, str(folder), exported_at).passed
    image = sorted((folder / "coco" / "images").rglob("*.png"))[0]
    before = image.stat()
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"?")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))

    verdict = export_equals_registry(dataset, str(folder), exported_at)

    assert not verdict.passed
    assert "has changed since the export" in verdict.figures["first_wrong"]


def test_an_object_edited_since_changes_nothing_that_was_frozen(lab: Any):
    folder, dataset = export(lab)
    for item in list_objects(lab.registry)[:4]:
        edit_object(lab.registry, item["object_id"], "ann", bbox=(50, 20, 33, 12), category="washer")

    assert verify_export(folder, dataset).problems == []
    assert export_equals_registry(dataset, str(folder)).passed


@pytest.mark.parametrize("coco_masks", ["rle", "polygon"])
def test_the_overlap_of_the_masks_is_stated(lab: Any, coco_masks: str):
    lab.label({lab.draw("large.png", 99, size=(200, 160)): [("nut", (20.5, 10, 150, 120), 0.9)]})
    folder, dataset = export(lab, coco_masks=coco_masks)

    verdict = export_equals_registry(dataset, str(folder))

    assert verdict.passed
    assert (verdict.figures["objects"], verdict.figures["wrong"]) == (21, 0)
    assert (verdict.figures["mean_mask_iou_coco"], verdict.figures["min_mask_iou_coco"]) == (1.0, 1.0)
    assert 0.95 <= verdict.figures["mean_mask_iou_yolo-seg"] < 1
    assert 0.9 <= verdict.figures["min_mask_iou_yolo-seg"] < verdict.figures["mean_mask_iou_yolo-seg"]


def test_another_dataset_a_missing_and_a_foreign_manifest_are_named(
    exported: tuple[Path, FrozenDataset], tmp_path: Path
):
    folder, dataset = exported

    (other,) = verify_export(folder, dataclasses.replace(dataset, dataset_id="ds_other")).problems
    (missing,) = verify_export(tmp_path, dataset).problems
    (folder / MANIFEST).write_text("[]")
    (foreign,) = verify_export(folder, dataset).problems

    assert f"holds the dataset {dataset.dataset_id}, not ds_other" in other
    assert "does not exist: export the dataset first" in missing
    assert "is not the manifest of an export" in foreign


def test_a_dataset_that_is_not_exported_is_no_right_export(lab: Any):
    lab.fill(2)

    verdict = export_equals_registry(lab.build().dataset, None)

    assert not verdict.passed
    assert "is not exported" in verdict.figures["first_wrong"]
