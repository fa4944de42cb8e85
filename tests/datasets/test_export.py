import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from al_dagster.core.errors import UserError
from al_dagster.core.progress import listening
from al_dagster.datasets.export import Export, export_dataset
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.verify import verify_export
from al_dagster.media.reading import read_image
from al_dagster.registry.datasets import get_dataset

THIRDS = {"train": 0.4, "val": 0.3, "test": 0.3}


def build(lab: Any, **values: Any) -> FrozenDataset:
    definition = lab.definition(**{"split": THIRDS, **values})
    return lab.freeze(definition).dataset


def export(lab: Any, dataset: FrozenDataset, folder: str = "exports") -> Export:
    return export_dataset(lab.registry, dataset, lab.root / folder, max_pixels=lab.max_pixels)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def exported_image(done: Export, name: str) -> Path:
    (path,) = (done.folder / "yolo" / "images").rglob(f"{name}.*")
    return path


def test_an_export_has_a_folder_for_each_format_and_equals_the_registry(lab: Any):
    lab.fill(9)
    lab.label({lab.draw("empty.png", 900): []})
    dataset = build(lab)

    done = export(lab, dataset)

    assert done.folder == lab.root / "exports" / "parts" / "1.0"
    assert sorted(path.name for path in done.folder.iterdir()) == ["coco", "manifest.json", "yolo", "yolo-seg"]
    assert verify_export(done.folder, dataset) == []
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
    assert verify_export(done.folder, dataset) == []
    more = export(lab, build(lab, formats=["coco", "yolo"]))
    assert not more.reused
    assert sorted(path.name for path in more.folder.iterdir()) == ["coco", "manifest.json", "yolo"]


def test_two_exports_are_equal_to_the_byte(lab: Any, make_lab: Callable[[str], Any]):
    lab.fill(8)
    first = export(lab, build(lab))
    other = make_lab("elsewhere")
    other.fill(8)
    second = export(other, build(other), "else where")

    assert tree(first.folder) == tree(second.folder)
    assert len(tree(first.folder)) == 1 + 3 * 8 + 2 * (8 + 1) + 3


def test_a_whole_export_is_used_again_untouched(lab: Any):
    lab.fill(4)
    dataset = build(lab)
    first = export(lab, dataset)
    inode = first.folder.stat().st_ino
    (first.folder / "yolo" / "labels" / "train.cache").write_bytes(b"left by training")

    again = export(lab, dataset)

    assert again.reused
    assert again.folder.stat().st_ino == inode
    assert verify_export(again.folder, dataset) == []


def damage_label(folder: Path) -> None:
    path = next(path for path in sorted((folder / "yolo" / "labels").rglob("*.txt")))
    path.write_text(path.read_text().replace("0.", "0.1", 1))


def remove_image(folder: Path) -> None:
    next(iter(sorted((folder / "coco" / "images").rglob("*.png")))).unlink()


def truncate_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


@pytest.mark.parametrize("damage", [damage_label, remove_image, truncate_manifest])
def test_a_damaged_export_is_noticed_and_repaired(lab: Any, damage: Callable[[Path], None]):
    lab.fill(6)
    dataset = build(lab)
    first = export(lab, dataset)
    whole = tree(first.folder)
    damage(first.folder)
    assert verify_export(first.folder, dataset)

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


def test_plain_images_are_links_shared_by_the_formats(lab: Any):
    sources = lab.fill(4)

    done = export(lab, build(lab))

    assert (done.linked, done.copied, done.written) == (4, 0, 0)
    for path, source in sources.items():
        (coco,) = (done.folder / "coco" / "images").rglob(f"{source}.*")
        assert exported_image(done, source).samefile(path)
        assert coco.samefile(path)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system at /dev/shm")
def test_where_links_are_impossible_images_are_copied_once_each(lab: Any, tmp_path: Path):
    import tempfile

    sources = lab.fill(4)
    dataset = build(lab)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        done = export_dataset(lab.registry, dataset, Path(other), max_pixels=lab.max_pixels)

        assert (done.linked, done.copied) == (0, 4)
        for path, source in sources.items():
            assert exported_image(done, source).read_bytes() == path.read_bytes()
        assert verify_export(done.folder, dataset) == []


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
    assert verify_export(done.folder, dataset) == []


def test_odd_names_and_other_plain_files_are_linked_under_their_id(lab: Any):
    names = ["two words.png", "quo\"te's.png", "new\nline.png", "너트.jpg", "grey.jpg", "photo.BMP", "a.webp"]
    paths = [lab.draw(name, seed) for seed, name in enumerate(names)]
    Pillow.open(paths[4]).convert("L").save(paths[4])
    sources = lab.label({path: [("nut", (3, 4, 20, 30), 0.9)] for path in paths})
    dataset = build(lab)

    done = export(lab, dataset)

    assert done.linked == len(names) == len(sources)
    for path, source in sources.items():
        assert exported_image(done, source).samefile(path)
        assert exported_image(done, source).name == f"{source}{path.suffix.lower()}"
    assert verify_export(done.folder, dataset) == []


def test_an_original_behind_a_symbolic_link_is_linked_itself(lab: Any):
    target = lab.draw("target.png", 1)
    link = target.with_name("link.png")
    link.symlink_to(target)
    (source,) = lab.label({link: [("nut", (3, 4, 20, 30), 0.9)]}).values()

    done = export(lab, build(lab))

    assert exported_image(done, source).samefile(target)
    assert not exported_image(done, source).is_symlink()


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
    assert verify_export(done.folder, old) == []
