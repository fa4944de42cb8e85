"""What `al ingest` and `al status` tell of files that are labelled only in part, and of files that belong together."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image as Pillow

GROUPS = "14 files in 3 groups, by content; 12 files look like 1 recording and share a split"


@pytest.fixture(scope="module")
def film(al, tmp_path_factory):
    """A home whose project film holds 12 frames of a pan, an animation and a scan whose second page is damaged."""
    root = tmp_path_factory.mktemp("film")
    photos, home = root / "photos", root / "home"
    photos.mkdir()
    random = np.random.default_rng(0)
    hills = Pillow.fromarray(random.integers(0, 256, (6, 24, 3), dtype=np.uint8)).resize((480, 120))
    for number in range(12):
        hills.crop((3 * number, 0, 3 * number + 160, 120)).save(photos / f"frame_{number:03d}.png")
    other = [Pillow.fromarray(random.integers(0, 256, (90, 90, 3), dtype=np.uint8)) for _ in range(3)]
    other[0].save(photos / "moving.gif", save_all=True, append_images=other[1:])
    path = photos / "scan.tif"
    other[1].save(path, save_all=True, append_images=other[2:], compression="tiff_adobe_deflate")
    with Pillow.open(path) as opened:
        opened.seek(1)
        place = opened.tag_v2[273][0]
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    said = al(home, "ingest", photos, "-p", "film", "-c", "face")
    assert said.status == 0, said.err
    return home, photos, said.out


def test_ingest_says_that_files_are_labelled_in_part(film):
    out = film[2].splitlines()
    assert "1 file is labelled by the first picture alone; 1 page could not be read; which files:  al status" in out


def test_ingest_says_which_files_look_like_a_recording(film):
    assert f"{GROUPS}\n" in film[2]


def test_status_names_the_files_of_which_something_is_left_out(film, here):
    home, photos, _ = film
    out = here("status", home=home).out
    assert f"  film  {photos / 'moving.gif'}: only the first of the 3 frames of this file is labelled" in out
    assert f"  film  {photos / 'scan.tif'}: page 2 of 2 is left out: it " in out
    rows = here("status", "--json", home=home).json["labelled_in_part"]
    assert [(row["project"], row["file"]) for row in rows] == [
        ("film", str(photos / name)) for name in ("moving.gif", "scan.tif")
    ]


def test_status_says_how_the_files_of_a_project_are_grouped(film, here):
    out = here("status", home=film[0]).out
    assert f"  groups   {GROUPS}\n" in out
    (project,) = here("status", "--json", home=film[0]).json["projects"]
    assert (project["grouping"]["groups"], project["grouping"]["in_recordings"]) == (3, 12)


def test_files_that_the_rule_of_a_project_does_not_cover_are_counted(here, tmp_path, draw_shapes):
    for seed, name in enumerate(("a_1", "a_2", "b_1", "other")):
        draw_shapes(tmp_path / "photos" / f"{name}.bmp", seed)
    (tmp_path / "photos" / "project.yaml").write_text(
        "classes: [face]\ngrouping: {by: pattern, pattern: '{sequence}_{n}'}\n"
    )
    said = here("ingest", tmp_path / "photos", "-p", "parts")
    told = "4 files in 3 groups, by pattern; 1 file is not covered by it\n"
    assert told in said.out
    assert f"  groups   {told}" in here("status").out


def test_a_whole_file_of_which_nothing_is_left_out_is_not_named(place, here):
    out = here("status", home=place.home).out
    assert "in part" not in out
    assert here("status", "--json", home=place.home).json["labelled_in_part"] == []


def test_images_are_listed_as_their_files_were_taken_with_their_pages(here, tmp_path, draw_shapes):
    photos = tmp_path / "photos"
    for seed in range(5):
        draw_shapes(photos / f"{seed}.bmp", seed)
    first, *others = [Pillow.open(photos / f"{seed}.bmp") for seed in (3, 4)]
    first.save(photos / "2.tif", save_all=True, append_images=others)
    (photos / "3.bmp").unlink()
    (photos / "4.bmp").unlink()
    here("ingest", photos, "-p", "scans", "-c", "face")
    rows = here("images", "list", "-p", "scans", "--json").json
    assert [(row["file_path"].rsplit("/")[-1], row["frame_idx"]) for row in rows] == [
        ("0.bmp", 0),
        ("1.bmp", 0),
        ("2.bmp", 0),
        ("2.tif", 0),
        ("2.tif", 1),
    ]
    lines = here("images", "list", "-p", "scans").out.splitlines()
    pages = [line.split()[3] for row in rows[3:] for line in lines if row["frame_id"] in line]
    assert pages == ["1", "2"]


def test_another_grouping_holds_at_once_and_asks_for_no_labelling(film, here, tmp_path):
    home, photos, _ = film
    shutil.copytree(home, tmp_path / "home")
    config = tmp_path / "project.yaml"
    config.write_text("classes: [face]\ngrouping: {recordings: false}\n")
    said = here("ingest", photos, "-p", "film", "--config", config, home=tmp_path / "home")
    assert said.out.splitlines() == [
        f"{photos}: nothing new; every file is labelled already",
        "14 files in 14 groups, by content",
    ]


def test_files_that_are_quarantined_are_not_called_labelled(place, here, tmp_path):
    text = place.images / "text.jpg"
    for path in (text, place.images):
        said = here("ingest", path, "-p", "shapes", home=place.home)
        assert said.out.splitlines() == [
            f"{path}: nothing new; every file is labelled already but 1, which is quarantined:  al status",
            "`al ingest --project shapes --again` tries quarantined files again.",
        ]
    picture = place.images / "0.bmp"
    assert here("ingest", picture, "-p", "shapes", home=place.home).out.endswith("every file is labelled already\n")


def test_a_pipe_is_not_called_labelled(here, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    said = here("ingest", tmp_path / "pipe.png", "-p", "x", "-c", "face")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "is not taken: " in said.err


def test_counts_of_one_are_singular(here, tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    said = here("ingest", tmp_path / "a.jpg", "-p", "x", "-c", "face")
    assert said.out.startswith("x: 0 objects in 1 file; 1 file quarantined\n")
