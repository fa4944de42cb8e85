import os

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from al_dagster.core.ids import frame_id
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.objects import list_objects
from al_dagster.registry.sources import quarantined_files


def test_files_become_sources_and_sources_become_frames(chain):
    result = chain.sources()
    assert result.table["status"].to_pylist() == ["ready", "ready"]
    assert (result.computed, result.reused) == (2, 0)
    assert result.figures == {
        "files": 2,
        "ready": 2,
        "quarantined": 0,
        "duplicates": 0,
        "animations": 0,
        "pages_left_out": 0,
    }
    frames = chain.frames().table
    assert frames["source_id"].to_pylist() == result.table["source_id"].to_pylist()
    assert set(frames["width"].to_pylist()) == {160}


def test_files_that_stand_as_they_were_claimed_are_not_read_again(chain):
    first = chain.sources()
    again = chain.sources()
    assert (again.computed, again.reused) == (0, 2)
    assert again.table.equals(first.table)


def test_a_file_that_changed_after_its_claim_is_quarantined_and_the_others_go_on(chain, shapes, save_picture, home):
    changed = save_picture(home.path / "images" / "picture_0.png", shapes(77))
    result = chain.sources()
    rows = {row["file_path"]: row for row in result.table.to_pylist()}
    assert rows[str(changed)]["status"] == "quarantined"
    assert "changed after it was taken" in rows[str(changed)]["reason"]
    assert chain.frames().table.num_rows == 1


def test_the_new_version_of_a_changed_file_is_taken_by_the_next_batch(chain, shapes, save_picture, home):
    changed = save_picture(home.path / "images" / "picture_0.png", shapes(77))
    chain.sources()
    chain.up_to("objects")
    first, second = take_folder(chain.registry, home.path / "images", chain.project, batch_size=256)
    assert first == chain.key  # which is asked for until its vectors are stored
    chain.key = second
    chain.tables.clear()
    result = chain.sources()
    assert result.table["file_path"].to_pylist() == [str(changed)]
    assert result.table["status"].to_pylist() == ["ready"]
    assert quarantined_files(chain.registry) == []


def test_a_file_that_vanished_is_quarantined(chain, home):
    (home.path / "images" / "picture_1.png").unlink()
    result = chain.sources()
    assert result.table["status"].to_pylist() == ["ready", "quarantined"]
    assert result.figures["quarantined"] == 1


def test_a_quarantined_file_that_is_back_is_taken_when_the_batch_runs_again(chain, home):
    path = home.path / "images" / "picture_1.png"
    content, changed = path.read_bytes(), path.stat().st_mtime_ns
    path.unlink()
    assert chain.sources().figures["quarantined"] == 1
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))
    again = chain.sources()
    assert again.figures["quarantined"] == 0
    assert (again.computed, again.reused) == (1, 1)


def test_the_same_bytes_under_a_second_name_are_a_duplicate_in_this_batch_and_in_a_later_one(chain, home):
    images = home.path / "images"
    chain.sources()
    for name in ("copy.png", "copy of the copy.png"):
        (images / name).write_bytes((images / "picture_1.png").read_bytes())
    (chain.key,) = take_folder(chain.registry, images, chain.project, batch_size=256)[1:]
    chain.tables.clear()
    rows = chain.sources().table.to_pylist()
    assert [row["status"] for row in rows] == ["duplicate", "duplicate"]
    assert {row["reason"] for row in rows} == {f"same content as {images / 'picture_1.png'}"}
    assert chain.frames().table.num_rows == 0
    assert chain.sources().table.to_pylist() == rows


def test_a_batch_in_which_nothing_can_be_read_still_goes_through(chain, home):
    for path in (home.path / "images").iterdir():
        path.write_bytes(b"no picture")
    assert chain.up_to("objects").table.num_rows == 0


@pytest.fixture
def add(chain, home):
    """Replaces the pictures of the batch by one file of several pages or pictures and claims it."""

    def added(name: str, pages: list[Image.Image], **options):
        for path in (home.path / "images").iterdir():
            path.unlink()
        path = home.path / "images" / name
        pages[0].save(path, save_all=True, append_images=pages[1:], **options)
        chain.key = take_folder(chain.registry, home.path / "images", chain.project, batch_size=256)[-1]
        chain.tables.clear()
        return path

    return added


def scene(shapes, seed: int, width: int = 160) -> Image.Image:
    return Image.fromarray(np.asarray(shapes(seed))).resize((width, 120))


def test_every_page_of_a_tiff_becomes_a_frame_of_its_own_size(chain, add, shapes):
    path = add("scan.tif", [scene(shapes, 1), scene(shapes, 2, 200), scene(shapes, 3)])
    (source,) = chain.sources().table.to_pylist()
    rows = chain.frames().table.to_pylist()
    assert source["frame_count"] == 3
    assert [row["frame_idx"] for row in rows] == [0, 1, 2]
    assert [(row["width"], row["height"]) for row in rows] == [(160, 120), (200, 120), (160, 120)]
    assert [row["frame_id"] for row in rows] == [frame_id(source["source_id"], index) for index in range(3)]
    assert {(row["file_path"], row["size_bytes"], row["mtime_ns"]) for row in rows} == {
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
    }


def test_the_objects_of_every_page_are_found(chain, add, shapes):
    add("scan.tif", [scene(shapes, seed) for seed in (1, 2, 3)])
    chain.up_to("objects")
    objects = list_objects(chain.registry, batch_key=chain.key, limit=None)
    assert {row["frame_id"] for row in objects} == set(chain.last("frames")["frame_id"].to_pylist())


def test_a_page_that_cannot_be_read_is_no_frame_and_is_counted(chain, add, shapes):
    path = add("scan.tif", [scene(shapes, seed) for seed in (1, 2, 3)], compression="tiff_adobe_deflate")
    with Image.open(path) as opened:
        opened.seek(1)
        place = opened.tag_v2[273][0]
    content, changed = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))
    result = chain.sources()
    assert result.figures["pages_left_out"] == 1
    assert result.table["reason"].to_pylist()[0].startswith("page 2 of 3 is left out: ")
    assert chain.frames().table["frame_idx"].to_pylist() == [0, 2]
    again = chain.sources()
    assert again.reused == 1
    assert again.table.equals(result.table)


def test_an_animation_is_labelled_by_its_first_picture_and_says_so(chain, add, shapes):
    add("a.gif", [scene(shapes, seed) for seed in (1, 2, 3)])
    for _ in range(2):
        result = chain.sources()
        assert result.figures["animations"] == 1
        assert result.table["reason"].to_pylist() == ["only the first of the 3 frames of this file is labelled"]
    assert chain.frames().table.num_rows == 1


def test_sources_of_an_older_version_are_inspected_again(chain, add, shapes):
    add("scan.tif", [scene(shapes, seed) for seed in (1, 2)])
    rows = chain.sources().table.to_pylist()
    older = [{**row, "thumbnail": None, "frame_count": 1, "metadata": None} for row in rows]
    chain.tables["sources"] = pa.Table.from_pylist(older, schema=chain.last("sources").schema)
    result = chain.sources()
    assert (result.computed, result.table.to_pylist()) == (1, rows)


def test_a_link_out_of_a_folder_that_a_person_names_is_read(chain, home):
    links = home.path / "links"
    links.mkdir()
    (links / "link.png").symlink_to(home.path / "images" / "picture_0.png")
    chain.sources()
    chain.tables.clear()
    (chain.key,) = take_folder(chain.registry, links, chain.project, batch_size=256)[1:]
    assert chain.sources().table["status"].to_pylist() == ["duplicate"]
