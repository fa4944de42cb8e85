import dataclasses
import glob
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image as Pillow
from pycocotools import mask as coco_masks

from al_dagster.core.errors import UserError
from al_dagster.core.progress import listening
from al_dagster.core.project import ProjectConfig
from al_dagster.core.rle import decode
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.export import Export, export_dataset
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.verify import verify_export
from al_dagster.media.reading import read_image
from al_dagster.registry.datasets import get_dataset
from al_dagster.registry.projects import save_project

THIRDS = {"train": 0.4, "val": 0.3, "test": 0.3}


def build(lab: Any, **values: Any) -> FrozenDataset:
    return lab.build(**{"split": THIRDS, **values}).dataset


def export(lab: Any, dataset: FrozenDataset, folder: str = "exports") -> Export:
    return export_dataset(lab.registry, dataset, lab.root / folder, max_pixels=lab.max_pixels)


def problems(done: Export, dataset: FrozenDataset) -> list[str]:
    return verify_export(done.folder, dataset).problems


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def exported_image(done: Export, source: str, name: str = "yolo") -> Path:
    (file,) = [file for file, origin in done.manifest["images"].items() if origin["source_id"] == source]
    (path,) = (done.folder / name / "images").rglob(glob.escape(file))
    return path


def test_an_export_has_a_folder_for_each_format_and_equals_the_registry(lab: Any):
    lab.fill(9)
    lab.label({lab.draw("empty.png", 900): []})
    dataset = build(lab)

    done = export(lab, dataset)

    assert done.folder == lab.root / "exports" / "parts" / "1.0"
    assert sorted(path.name for path in done.folder.iterdir()) == ["coco", "manifest.json", "yolo", "yolo-seg"]
    assert problems(done, dataset) == []
    assert get_dataset(lab.registry, "parts").export_path == str(done.folder)
    assert {name: counts["images"] for name, counts in done.manifest["counts"].items()} == {
        split: sum(image.split == split for image in dataset.images) for split in THIRDS
    }
    background = next(image for image in dataset.images if not image.objects)
    for name in ("yolo", "yolo-seg"):
        assert (done.folder / name / "labels" / background.split / f"{background.name}.txt").read_bytes() == b""
    assert not [path for path in done.folder.parent.iterdir() if path.suffix in (".staging", ".old")]


def test_only_the_formats_asked_for_are_written(lab: Any):
    lab.fill(3)
    dataset = build(lab, formats=["coco"])

    done = export(lab, dataset)

    assert sorted(path.name for path in done.folder.iterdir()) == ["coco", "manifest.json"]
    assert problems(done, dataset) == []
    more = export(lab, build(lab, formats=["coco", "yolo"]))
    assert not more.reused
    assert sorted(path.name for path in more.folder.iterdir()) == ["coco", "manifest.json", "yolo"]


def test_two_exports_are_equal_to_the_byte(lab: Any):
    lab.fill(8)
    dataset = build(lab)
    first, second = export(lab, dataset), export(lab, dataset, "else where")

    assert tree(first.folder) == tree(second.folder)
    assert len(tree(first.folder)) == 1 + 3 * 8 + 2 * (8 + 1) + 3


def test_exports_of_the_same_files_in_other_registries_are_equal_to_the_byte(
    lab: Any, make_lab: Callable[[str], Any], tmp_path: Path
):
    labels = {lab.draw(f"{seed}.png", seed): [("nut", (4, 5, 20, 15), 0.9)] for seed in range(8)}
    other = make_lab("elsewhere")
    lab.label(labels)
    other.label(dict(reversed(labels.items())))

    assert tree(export(lab, build(lab)).folder) == tree(export(other, build(other)).folder)


def test_a_whole_export_is_used_again_untouched(lab: Any):
    lab.fill(4)
    dataset = build(lab)
    first = export(lab, dataset)
    inode = first.folder.stat().st_ino
    (first.folder / "yolo" / "labels" / "train.cache").write_bytes(b"left by training")

    again = export(lab, dataset)

    assert again.reused
    assert again.folder.stat().st_ino == inode
    assert problems(again, dataset) == []


def damage_label(folder: Path) -> None:
    path = next(path for path in sorted((folder / "yolo" / "labels").rglob("*.txt")))
    path.write_text(path.read_text().replace("0.", "0.1", 1))


def remove_image(folder: Path) -> None:
    next(iter(sorted((folder / "coco" / "images").rglob("*.png")))).unlink()


def truncate_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def add_image(folder: Path) -> None:
    train = folder / "yolo" / "images" / "train"
    shutil.copyfile(next(iter(sorted(train.iterdir()))), train / "slipped in.png")


@pytest.mark.parametrize("damage", [damage_label, remove_image, truncate_manifest, add_image])
def test_a_damaged_export_is_noticed_and_repaired(lab: Any, damage: Callable[[Path], None]):
    lab.fill(6)
    dataset = build(lab)
    first = export(lab, dataset)
    whole = tree(first.folder)
    damage(first.folder)
    assert problems(first, dataset)

    again = export(lab, dataset)

    assert not again.reused
    assert tree(again.folder) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
from al_dagster.core.lake import Lake
from al_dagster.core.progress import listening
from al_dagster.datasets.export import export_dataset
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.registry.database import open_registry

url, lake, exports, victim = sys.argv[1:]
dataset = FrozenDataset.from_table(Lake(lake).read("dataset", "parts"))

def kill_at_half(step, done, total):
    if victim == "placing" and done == total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

def kill_at_rename(event, arguments):
    if event == "os.rename" and str(arguments[0]).endswith(victim):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_at_rename)
with listening(kill_at_half):
    export_dataset(open_registry(url), dataset, Path(exports), max_pixels=10**7)
"""


@pytest.mark.parametrize("victim", ["placing", "1.0", ".staging"])
def test_a_process_killed_while_exporting_leaves_nothing_half_done(lab: Any, victim: str):
    from al_dagster.core.lake import Lake

    lab.fill(8)
    dataset = build(lab)
    whole = tree(export(lab, dataset, "undisturbed").folder)
    Lake(str(lab.root / "lake")).write("dataset", "parts", dataset.to_table())
    if victim == "1.0":
        # The old export is moved aside only where one stands that must be replaced.
        damage_label(export(lab, dataset).folder)

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, lab.registry.url, str(lab.root / "lake"), str(lab.root / "exports"), victim],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    again = export(lab, dataset)

    assert tree(again.folder) == whole
    assert sorted(path.name for path in again.folder.parent.iterdir()) == [".1.0.lock", "1.0"]


def test_progress_is_reported(lab: Any):
    lab.fill(3)
    seen: list[tuple[str, int, int]] = []

    with listening(lambda *report: seen.append(report)):
        export(lab, build(lab))

    assert seen == [("export", 1, 3), ("export", 2, 3), ("export", 3, 3)]


def test_editing_an_exported_image_never_changes_the_original(lab: Any):
    sources = lab.fill(4)
    before = {path: path.read_bytes() for path in sources}

    done = export(lab, build(lab))

    assert (done.cloned + done.copied, done.linked, done.written) == (4, 0, 0)
    for source in sources.values():
        with exported_image(done, source).open("r+b") as file:
            file.write(b"edited")
    assert {path: path.read_bytes() for path in sources} == before


def test_the_formats_share_one_copy_of_an_image(lab: Any):
    sources = lab.fill(4)

    done = export(lab, build(lab))

    for source in sources.values():
        assert exported_image(done, source, "coco").samefile(exported_image(done, source))
        assert exported_image(done, source, "yolo-seg").samefile(exported_image(done, source))


def test_images_are_links_to_the_originals_where_that_is_asked_for(lab: Any):
    sources = lab.fill(4)
    copied = export(lab, build(lab))

    done = export(lab, build(lab, images="link"))

    assert not done.reused
    assert (done.cloned, done.copied, done.linked, done.written) == (0, 0, 4, 0)
    assert copied.folder == done.folder
    for path, source in sources.items():
        assert exported_image(done, source).samefile(path)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system at /dev/shm")
def test_where_links_are_impossible_images_are_copied(lab: Any, tmp_path: Path):
    import tempfile

    sources = lab.fill(4)
    dataset = build(lab, images="link")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        done = export_dataset(lab.registry, dataset, Path(other), max_pixels=lab.max_pixels)

        assert (done.linked, done.copied) == (0, 4)
        for path, source in sources.items():
            assert exported_image(done, source).read_bytes() == path.read_bytes()
        assert problems(done, dataset) == []


def _oriented(lab: Any) -> Path:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return lab.draw("turned.jpg", 1, exif=exif)


def _cmyk(lab: Any) -> Path:
    path = lab.draw("cmyk.jpg", 2)
    Pillow.open(path).convert("CMYK").save(path)
    return path


def _deep(lab: Any) -> Path:
    path = lab.draw("deep.png", 3)
    Pillow.fromarray(np.arange(96 * 64, dtype=np.uint16).reshape(64, 96) * 10).save(path)
    return path


def _palette(lab: Any) -> Path:
    path = lab.draw("palette.png", 4)
    Pillow.open(path).quantize(16).save(path, transparency=3)
    return path


def _alpha(lab: Any) -> Path:
    path = lab.draw("alpha.png", 5)
    picture = Pillow.open(path).convert("RGBA")
    picture.putalpha(120)
    picture.save(path)
    return path


def _animated(lab: Any) -> Path:
    path = lab.draw("moving.gif", 6)
    frames = [Pillow.new("RGB", (96, 64), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def _cut(lab: Any) -> Path:
    path = lab.draw("trailing.jpg", 7)
    path.write_bytes(path.read_bytes() + b"\x00\x00")
    return path


def _misnamed(lab: Any) -> Path:
    return lab.draw("png in disguise.jpg", 8, format="PNG")


ODD = [_oriented, _cmyk, _deep, _palette, _alpha, _animated, _cut, _misnamed]


def test_images_that_are_not_plain_become_upright_pngs(lab: Any):
    paths = [make(lab) for make in ODD]
    before = {path: path.read_bytes() for path in paths}
    sources = lab.label({path: [("nut", (3, 4, 20, 30), 0.9)] for path in paths})
    dataset = build(lab)

    done = export(lab, dataset)

    assert done.written == len(ODD) == len(sources)
    for path, source in sources.items():
        written = exported_image(done, source)
        assert written.suffix == ".png", path.name
        with Pillow.open(written) as picture:
            assert picture.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(picture), read_image(path, max_pixels=lab.max_pixels))
        assert not written.samefile(path)
        assert path.read_bytes() == before[path]
    assert problems(done, dataset) == []


def test_plain_files_keep_their_bytes_and_odd_names_become_safe_ones(lab: Any):
    names = {
        "two words.png": "two words.png",
        "quo\"te's.png": "quo_te's.png",
        "new\nline.png": "new_line.png",
        "너트.jpg": "너트.jpg",
        "grey.jpeg": "grey.jpg",
        "photo.v2.BMP": "photo.v2.bmp",
        ".hidden.webp": "_hidden.webp",
    }
    paths = [lab.draw(name, seed) for seed, name in enumerate(names)]
    Pillow.open(paths[4]).convert("L").save(paths[4])
    sources = lab.label({path: [("nut", (3, 4, 20, 30), 0.9)] for path in paths})
    dataset = build(lab)

    done = export(lab, dataset)

    assert done.cloned + done.copied == len(names) == len(sources)
    for path, source in sources.items():
        assert exported_image(done, source).name == names[path.name]
        assert exported_image(done, source).read_bytes() == path.read_bytes()
    assert problems(done, dataset) == []


def test_manifest_and_coco_say_where_each_image_comes_from(lab: Any):
    paths = [lab.draw("a/photo.png", 1), lab.draw("b/Photo.jpg", 2), lab.draw("b/other.png", 3)]
    sources = lab.label({path: [("nut", (3, 4, 20, 30), 0.9)] for path in paths})

    done = export(lab, build(lab, split={"train": 1, "val": 0, "test": 0}))

    images = done.manifest["images"]
    assert {origin["original"]: name for name, origin in images.items()} == {
        str(paths[0]): f"photo_{sources[paths[0]][4:]}.png",
        str(paths[1]): f"Photo_{sources[paths[1]][4:]}.jpg",
        str(paths[2]): "other.png",
    }
    document = json.loads((done.folder / "coco" / "annotations" / "instances_train.json").read_text())
    keys = ("source_id", "frame_idx", "original")
    assert {entry["file_name"]: [entry[key] for key in keys] for entry in document["images"]} == {
        name: [origin[key] for key in keys] for name, origin in images.items()
    }


def test_the_pages_of_a_file_are_exported_each_under_its_number(lab: Any):
    path = lab.draw("scan.tif", 1)
    pages = [Pillow.new("RGB", (96, 64), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    (source,) = lab.label({path: [("nut", (3, 4, 20, 30), 0.9)]}).values()
    dataset = build(lab, split={"train": 1, "val": 0, "test": 0})
    (row,) = dataset.table.to_pylist()
    rows = [{**row, "frame_idx": index, "object_id": f"obj_{index}"} for index in range(3)]
    dataset = dataclasses.replace(dataset, table=pa.Table.from_pylist(rows, schema=DATASET))

    done = export(lab, dataset)

    assert done.written == 3
    for index, name in enumerate(("scan.png", "scan_p0002.png", "scan_p0003.png")):
        assert done.manifest["images"][name]["frame_idx"] == index
        with Pillow.open(done.folder / "yolo" / "images" / "train" / name) as picture:
            assert picture.getpixel((5, 5)) == pages[index].getpixel((5, 5))
    assert {origin["source_id"] for origin in done.manifest["images"].values()} == {source}
    assert problems(done, dataset) == []


def test_an_original_behind_a_symbolic_link_is_linked_itself(lab: Any):
    target = lab.draw("target.png", 1)
    link = target.with_name("link.png")
    link.symlink_to(target)
    (source,) = lab.label({link: [("nut", (3, 4, 20, 30), 0.9)]}).values()

    done = export(lab, build(lab, images="link", split={"train": 1, "val": 0, "test": 0}))

    assert exported_image(done, source).samefile(target)
    assert not exported_image(done, source).is_symlink()


def test_any_file_that_still_holds_the_content_serves(lab: Any):
    paths = [lab.draw(f"mine/{seed}.png", seed) for seed in range(4)]
    copies = [lab.root / "inbox" / "theirs" / path.name for path in paths]
    copies[0].parent.mkdir()
    for path, copy in zip(paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    save_project(lab.registry, ProjectConfig(name="theirs", classes=("nut",)))
    sources = lab.label({path: [("nut", (3, 4, 20, 30), 0.9)] for path in paths})
    lab.label({copy: [("nut", (3, 4, 20, 30), 0.9)] for copy in copies}, project="theirs")
    dataset = build(lab)
    paths[0].unlink()
    lab.draw("mine/1.png", 99)

    done = export(lab, dataset)

    for path, copy in zip(paths, copies, strict=True):
        assert exported_image(done, sources[path]).read_bytes() == copy.read_bytes()
    shutil.rmtree(copies[0].parent)
    with pytest.raises(UserError) as raised:
        export(lab, dataset, "again")
    assert f"{paths[0]} has vanished" in str(raised.value)
    assert f"{paths[1]} has changed since it was labelled" in str(raised.value)


def ignoring(dataset: FrozenDataset, *object_ids: str) -> FrozenDataset:
    rows = dataset.table.to_pylist()
    for row in rows:
        row["is_ignored"] = row["object_id"] in object_ids
    return dataclasses.replace(dataset, table=pa.Table.from_pylist(rows, schema=DATASET))


def test_ignored_objects_are_painted_over_and_are_crowds_in_coco_and_nothing_in_yolo(lab: Any):
    path = lab.draw("photo.png", 1)
    boxes = {"nut": (10, 10, 20, 20), "bolt": (20, 5, 40, 40), "washer": (70, 20, 10.5, 10.5)}
    lab.label({path: [(category, box, 0.9) for category, box in boxes.items()]})
    dataset = build(lab, split={"train": 1, "val": 0, "test": 0})
    ids = {item.category: item.object_id for item in dataset.images[0].objects}
    dataset = ignoring(dataset, ids["nut"], ids["washer"])

    done = export(lab, dataset)

    original = read_image(path, max_pixels=lab.max_pixels)
    exported = read_image(done.folder / "yolo" / "images" / "train" / "photo.png", max_pixels=lab.max_pixels)
    grey = (exported == 114).all(axis=2)
    mask = decode(next(item.rle for item in dataset.images[0].ignored if item.category == "nut"), 96, 64)
    kept = np.zeros_like(mask)
    kept[5:45, 20:60] = True
    washer = np.zeros_like(mask)
    washer[20:31, 70:81] = True
    assert grey[(mask | washer) & ~kept].all()
    np.testing.assert_array_equal(exported[kept], original[kept])
    around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    np.testing.assert_array_equal(exported[~(around | washer)], original[~(around | washer)])
    assert done.manifest["counts"]["train"] == {"images": 1, "background": 0, "objects": 1, "ignored": 2}
    assert done.written == 1
    for name in ("yolo", "yolo-seg"):
        assert len((done.folder / name / "labels" / "train" / "photo.txt").read_text().splitlines()) == 1
    document = json.loads((done.folder / "coco" / "annotations" / "instances_train.json").read_text())
    crowds = {row["object_id"]: row for row in document["annotations"] if row["iscrowd"]}
    assert set(crowds) == {ids["nut"], ids["washer"]}
    assert np.array_equal(coco_masks.decode(crowds[ids["nut"]]["segmentation"]), mask)
    assert np.array_equal(coco_masks.decode(crowds[ids["washer"]]["segmentation"]), washer)
    assert problems(done, dataset) == []


def test_an_image_of_ignored_objects_only_is_background(lab: Any):
    lab.label({lab.draw("photo.png", 1): [("bolt", (10, 10, 20, 20), 0.4)]})
    dataset = build(lab, split={"train": 1, "val": 0, "test": 0})
    dataset = ignoring(dataset, *(item.object_id for item in dataset.images[0].objects))

    done = export(lab, dataset)

    assert done.manifest["counts"]["train"] == {"images": 1, "background": 1, "objects": 0, "ignored": 1}
    assert (done.folder / "yolo" / "labels" / "train" / "photo.txt").read_bytes() == b""
    assert problems(done, dataset) == []


@pytest.mark.parametrize(("w", "h"), [(0.00009, 30), (30, 0.00009), (0, 30), (-4, 5)])
def test_a_box_that_rounds_to_nothing_is_in_no_format(lab: Any, w: float, h: float):
    lab.fill(1)
    dataset = build(lab, split={"train": 1, "val": 0, "test": 0})
    rows = dataset.table.to_pylist()
    rows[0] |= {"bbox_x": 20.0, "bbox_y": 20.0, "bbox_w": float(w), "bbox_h": float(h)}
    dataset = dataclasses.replace(dataset, table=pa.Table.from_pylist(rows, schema=DATASET))

    done = export(lab, dataset)

    for path in (done.folder / "coco" / "annotations").glob("*.json"):
        assert all(min(row["bbox"][2:]) > 0 for row in json.loads(path.read_text())["annotations"])
    (label,) = (done.folder / "yolo" / "labels").rglob("*.txt")
    assert [min(map(float, line.split()[3:])) > 0 for line in label.read_text().splitlines()] == [True]
    assert problems(done, dataset) == []


def test_data_yaml_names_no_split_without_images(lab: Any):
    lab.fill(3)

    done = export(lab, build(lab, split={"train": 1, "val": 0, "test": 0}))

    for name in ("yolo", "yolo-seg"):
        text = (done.folder / name / "data.yaml").read_text()
        data = yaml.safe_load(text)
        assert (data["train"], data["val"], data.get("test")) == ("images/train", "images/train", None)
        assert "# The val split has no images" in text
        # Scripts look into all three folders.
        assert {path.name: len(list(path.iterdir())) for path in (done.folder / name / "images").iterdir()} == {
            "train": 3,
            "val": 0,
            "test": 0,
        }


def test_a_dataset_without_train_images_is_refused_in_a_format_for_training(lab: Any):
    lab.fill(3)
    dataset = build(lab, formats=["coco"])
    rows = [{**row, "split": "test"} for row in dataset.table.to_pylist()]
    dataset = dataclasses.replace(dataset, table=pa.Table.from_pylist(rows, schema=DATASET))
    assert problems(export(lab, dataset), dataset) == []
    of_yolo = dataclasses.replace(dataset, definition=lab.definition(formats=["yolo-seg"]))

    with pytest.raises(UserError, match="has no images in its train split"):
        export(lab, of_yolo)


def test_originals_that_vanished_or_changed_are_listed_and_nothing_is_left_behind(lab: Any):
    paths = list(lab.fill(4))
    dataset = build(lab)
    paths[0].unlink()
    lab.draw(paths[1].name, 999)

    with pytest.raises(UserError) as raised:
        export(lab, dataset)

    assert f"{paths[0]} has vanished" in str(raised.value)
    assert f"{paths[1]} has changed since it was labelled" in str(raised.value)
    assert str(paths[2]) not in str(raised.value)
    assert [path.name for path in (lab.root / "exports" / "parts").iterdir()] == [".1.0.lock"]


def test_an_older_version_can_be_exported_after_the_data_has_moved_on(lab: Any):
    lab.fill(4)
    old = build(lab)
    lab.fill(4, start=4)
    new = build(lab)

    assert export(lab, new).folder.name == "1.1"
    done = export(lab, old)

    assert done.folder.name == "1.0"
    assert problems(done, old) == []
