import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from al_dagster.core.text import printable
from al_dagster.labelling.intake import take_inbox
from al_dagster.registry.database import open_registry
from al_dagster.registry.sources import quarantined_files

ODD_NAME = 'it\'s "a" photo,\nof 나사 100%.png'
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def save(picture: Image.Image, path: Path, **options: object) -> None:
    picture.save(path, **options)


def write_good_files(folder: Path, shapes: Callable[..., np.ndarray]) -> set[str]:
    """Pictures of a disc and a bar in every form that can be read."""
    picture = Image.fromarray(shapes(1))
    save(picture.convert("CMYK"), folder / "cmyk.jpg", quality=95)
    deep = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
    save(Image.fromarray(deep), folder / "sixteen_bit.png")
    palette = picture.convert("RGBA").quantize(64)
    save(palette, folder / "palette_alpha.png", transparency=0)
    for orientation, undo in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = picture.transpose(undo)
        save(turned, folder / f"exif_{orientation}.jpg", exif=exif, quality=95 + orientation // 5, subsampling=0)
    save(
        picture,
        folder / "animated.gif",
        save_all=True,
        append_images=[Image.fromarray(shapes(2))],
        duration=100,
    )
    save(Image.fromarray(shapes(1)[:1, :1]), folder / "one_pixel.png")
    save(Image.fromarray(np.tile(shapes(1)[:10], (1, 125, 1))), folder / "wide.png")
    save(Image.fromarray(shapes(3)), folder / ODD_NAME)
    save(Image.fromarray(shapes(4)), folder / "plain.png")
    return {path.name for path in folder.iterdir()}


def write_bad_files(folder: Path, shapes: Callable[..., np.ndarray]) -> dict[str, str]:
    """Files that cannot be labelled, with a part of what their reason says."""
    picture = Image.fromarray(shapes(5))
    (folder / "empty.jpg").write_bytes(b"")
    save(picture, folder / "whole.jpg", quality=95)
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    (folder / "whole.jpg").unlink()
    (folder / "text.jpg").write_text("This is no picture.")
    save(Image.new("1", (20_000, 20_000)), folder / "bomb.png")
    (folder / "film.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(64))
    outside = folder.parent.parent / "outside.png"
    save(picture, outside)
    (folder / "link.png").symlink_to(outside)
    save(picture, folder / "vanishes.png")
    save(picture, folder / "grows.png")
    return {
        "empty.jpg": "is empty",
        "truncated.jpg": "",
        "text.jpg": "",
        "bomb.png": "decodes to 400 megapixels; the limit is 200",
        "film.mp4": "is a video, which is not read: give its frames as images",
        "link.png": "links to a file outside the folder",
        "vanishes.png": "",
        "grows.png": "changed after it was taken into this batch",
    }


@pytest.fixture
def odd_batch(bench, shapes):
    """A batch from the inbox with every odd file, and what is to become of them."""
    folder = bench.home.settings.inbox / "shapes"
    folder.mkdir(parents=True)
    good = write_good_files(folder, shapes)
    bad = write_bad_files(folder, shapes)
    (folder / "plain copy.png").write_bytes((folder / "plain.png").read_bytes())
    config = {"classes": ["disc", "bar"], "support": str(bench.home.support), "classification": {"threshold": 0.4}}
    (folder / "project.yaml").write_text(yaml.safe_dump(config))
    with open_registry(bench.home.settings.database_url) as registry:
        (key,) = take_inbox(registry, bench.home.settings.inbox, batch_size=256, settle_seconds=0).unfinished
    bench.instance.add_dynamic_partitions("batch", [key])
    (folder / "vanishes.png").unlink()
    with (folder / "grows.png").open("ab") as file:
        file.write(b"more")
    return key, good, bad


def test_no_odd_file_fails_its_batch_and_each_gets_its_reason(bench, odd_batch):
    key, good, bad = odd_batch
    result = bench.run(key, checks=True)
    assert result.success
    rows = {os.path.basename(row["file_path"]): row for row in bench.lake.read("sources", key).to_pylist()}  # noqa: PTH119
    by_status = {
        status: {name for name, row in rows.items() if row["status"] == status}
        for status in ("ready", "quarantined", "duplicate")
    }
    repeated = {"plain.png", "plain copy.png"}
    assert by_status["quarantined"] == set(bad)
    assert len(by_status["duplicate"]) == 1
    assert by_status["duplicate"] < repeated
    assert by_status["ready"] == (good | repeated) - by_status["duplicate"]
    for name, says in bad.items():
        assert says in rows[name]["reason"]
        assert len(rows[name]["reason"]) > 5
        assert "\n" not in rows[name]["reason"]
    failed = {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}
    assert failed == {"quarantined_share"}


def test_quarantined_files_are_counted_in_the_metadata_and_listed_by_the_registry(bench, odd_batch):
    key, _, bad = odd_batch
    result = bench.run(key, only=["sources"])
    metadata = bench.metadata(result, "sources")
    assert (metadata["quarantined"], metadata["duplicates"]) == (len(bad), 1)
    table = [record.data for record in metadata["quarantined_files"].records]
    assert {Path(row["file"]).name for row in table} == {printable(name) for name in bad}
    assert all(any(says in row["reason"] for says in bad.values()) for row in table)
    with open_registry(bench.home.settings.database_url) as registry:
        listed = {Path(path).name for _, path, _ in quarantined_files(registry)}
    assert listed == set(bad)


def test_pictures_of_every_form_are_labelled_like_a_plain_one(bench, odd_batch):
    key, good, _ = odd_batch
    bench.run(key)
    frames = {row["frame_id"]: Path(row["file_path"]).name for row in bench.lake.read("frames", key).to_pylist()}
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in good}
    for row in bench.objects().values():
        name = frames[row["frame_id"]]
        found.setdefault(name, []).append((row["category"], row["bbox_x"]))
    like_plain = {"cmyk.jpg", "animated.gif", ODD_NAME, *(f"exif_{orientation}.jpg" for orientation in UPRIGHT)}
    for name in like_plain:
        assert sorted(category for category, _ in found[name]) == ["bar", "disc"], name
    for orientation in UPRIGHT:
        (bar, disc) = sorted(found[f"exif_{orientation}.jpg"])
        assert disc[1] < 80 < bar[1]
    assert found["one_pixel.png"] == []


def test_a_second_run_over_odd_files_calls_no_model(bench, odd_batch):
    key, _, bad = odd_batch
    bench.run(key)
    again = bench.run(key)
    assert bench.calls == {}
    assert bench.metadata(again, "sources")["computed"] == len(bad)
    assert bench.metadata(again, "objects")["superseded"] == 0
