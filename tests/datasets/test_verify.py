import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from al_dagster.core.hashing import file_sha256
from al_dagster.datasets.export import export_dataset
from al_dagster.datasets.manifest import MANIFEST
from al_dagster.datasets.verify import export_equals_registry, verify_export
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import edit_object


@pytest.fixture(scope="module")
def standing(make_module_lab: Callable[[str], Any]) -> tuple[Any, Path, Any]:
    lab = make_module_lab("lab")
    return lab, *export(lab)


def export(lab: Any) -> tuple[Path, Any]:
    lab.fill(10)
    lab.label({lab.draw("empty.png", 900): []})
    definition = lab.definition(split={"train": 0.4, "val": 0.3, "test": 0.3})
    dataset = lab.freeze(definition).dataset
    folder = export_dataset(lab.registry, dataset, lab.root / "exports", max_pixels=lab.max_pixels).folder
    return folder, dataset


@pytest.fixture
def exported(standing: tuple[Any, Path, Any], tmp_path: Path) -> tuple[Any, Path, Any]:
    """The registry, a copy of an export that may be damaged, and the dataset's id."""
    lab, folder, dataset = standing
    return lab, Path(shutil.copytree(folder, tmp_path / "export")), dataset


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


def in_coco(key: str, value: Any) -> Callable[[Path], None]:
    return coco(lambda document: document["annotations"][0].update({key: value}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a shifted box": (shift_box, "has the box"),
    "a shifted corner": (shift_corner, "has another outline"),
    "another class": (rename_class, "is washer, the registry has"),
    "a dropped object": (drop_object, "has 1 objects, the registry has 2"),
    "a garbled label": (garble, "cannot be read back"),
    "swapped names": (swap_names, "data.yaml: names"),
    "a labelled background": (label_background, "has 1 objects, the registry has none"),
    "an image in another split": (move_to_other_split, "the registry has it in"),
    "a dropped image": (drop_image, "is missing from the export"),
    "a dropped label file": (drop_label_file, "has no label file"),
    "an image of another size": (shrink_image, "is 48×32"),
    "a COCO box": (in_coco("bbox", [1, 2, 3, 4]), "has the box"),
    "a COCO outline": (in_coco("segmentation", [[1, 2, 3, 4, 5, 6]]), "has another outline"),
    "a COCO class": (in_coco("category_id", 3), "is washer"),
    "a COCO annotation": (coco(lambda document: document["annotations"].pop()), "has 1 objects, the registry has 2"),
    "a COCO image": (coco(lambda document: document["images"].pop()), "annotations of an unknown image"),
    "COCO categories": (coco(lambda document: document["categories"].reverse()), ""),
    "no COCO categories": (coco(lambda document: document.pop("categories")), "cannot be read back"),
}


def test_a_right_export_has_no_problems(exported: tuple[Any, Path, Any]):
    _lab, folder, dataset = exported
    sign(folder)

    assert verify_export(folder, dataset) == []


@pytest.mark.parametrize("name", [name for name, (_, sentence) in DAMAGES.items() if sentence])
def test_what_the_labels_say_is_compared_even_where_the_hashes_agree(exported: tuple[Any, Path, Any], name: str):
    _lab, folder, dataset = exported
    damage, sentence = DAMAGES[name]
    damage(folder)
    sign(folder)

    problems = verify_export(folder, dataset)

    assert any(sentence in problem for problem in problems), problems


def test_the_order_of_coco_categories_is_no_difference(exported: tuple[Any, Path, Any]):
    _lab, folder, dataset = exported
    DAMAGES["COCO categories"][0](folder)
    sign(folder)

    assert verify_export(folder, dataset) == []


def test_a_changed_and_an_additional_file_are_named(exported: tuple[Any, Path, Any]):
    _lab, folder, dataset = exported
    (folder / "yolo" / "data.yaml").write_text((folder / "yolo" / "data.yaml").read_text() + "# edited\n")
    (folder / "yolo" / "notes.txt").write_text("mine")

    problems = verify_export(folder, dataset)

    assert problems == [
        "yolo/data.yaml: has changed since the export",
        "yolo/notes.txt: does not belong to the export",
    ]


def test_an_object_edited_since_changes_nothing_of_what_was_frozen(lab: Any):
    folder, dataset = export(lab)
    bolt = next(item for item in list_objects(lab.registry) if item["category"] == "bolt")
    edit_object(lab.registry, bolt["object_id"], "ann", bbox=(50, 20, 33, 12))

    assert export_equals_registry(dataset, str(folder)).passed


def test_another_dataset_a_missing_and_a_foreign_manifest_are_named(exported: tuple[Any, Path, Any], tmp_path: Path):
    _lab, folder, dataset = exported

    (other,) = verify_export(folder, dataclasses.replace(dataset, dataset_id="ds_other"))
    (missing,) = verify_export(tmp_path, dataset)
    (folder / MANIFEST).write_text("[]")
    (foreign,) = verify_export(folder, dataset)

    assert f"holds the dataset {dataset.dataset_id}, not ds_other" in other
    assert "does not exist: export the dataset first" in missing
    assert "is not the manifest of an export" in foreign


def test_a_dataset_that_is_not_exported_does_not_equal_the_registry(lab: Any):
    lab.fill(2)
    dataset = lab.freeze(lab.definition()).dataset

    verdict = export_equals_registry(dataset, None)

    assert not verdict.passed
    assert "is not exported" in verdict.figures["first_wrong"]
