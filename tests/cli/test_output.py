"""What the command writes to a terminal and to a pipe, whatever is in the names of files and classes."""

import contextlib
import os
import pty
import re
import shutil
import subprocess

import pytest
from PIL import Image as Pillow

from al_dagster.cli.output import progress_bars
from al_dagster.core.progress import report
from tests.cli.conftest import AL

TITLE = "\x1b]0;owned\x07"
LONG = "photo_" + "x" * 120
NASTY = f"{LONG}{TITLE}\x1b[2J\x9b31mred\u202etxt.bmp"
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture(scope="module")
def nasty(al, draw_shapes, labelled_place, tmp_path_factory):
    """A home whose files, folder and class have names that steer a terminal; what its ingest said."""
    root = tmp_path_factory.mktemp("nasty")
    images, examples = root / "folder\x1b[31m", root / "examples"
    images.mkdir()
    draw_shapes(images / NASTY, 0)
    (images / f"broken{NASTY}").write_text("no image")
    for folder, name in (("square", "square"), ("disc", "disc\x1b[5m")):
        shutil.copytree(labelled_place.support / folder, examples / name)
    classes = "square,disc\x1b[5m"
    said = al(root / "home", "ingest", images, "-p", "shapes", "-c", classes, "--support", examples)
    return root / "home", images, examples, said


def _object(al, home):
    return al(home, "objects", "list", "--json").json[0]


@pytest.mark.slow
def test_names_that_steer_a_terminal_are_written_out_by_every_command(nasty, al):
    home, images, _, ingested = nasty
    assert ingested.status == 0, ingested.err
    found = _object(al, home)
    assert al(home, "dataset", "create", "--name", "shapes", "-p", "shapes").status == 0
    commands = [
        ["status"],
        ["objects", "list"],
        ["images", "list", "-p", "shapes"],
        ["images", "list", "-p", "shapes", "--state", "failed"],
        ["lineage", found["object_id"]],
        ["lineage", found["source_id"]],
        ["search", found["object_id"]],
        ["search", images / f"broken{NASTY}"],
        ["dataset", "list"],
        ["dataset", "build", "shapes"],
        ["doctor"],
        ["ingest", images / "none", "-p", "shapes"],
        ["ingest", images, "-p", "shapes", "-c", f"square,{TITLE}"],
        ["status", TITLE],
        ["dataset", "create", f"{TITLE}.yaml"],
        ["objects", "delete", TITLE],
    ]
    shown = [("ingest", ingested.out + ingested.err)]
    for command in commands:
        said = al(home, *command)
        shown.append((str(command), said.out + said.err))
    assert [(command, STEERS.search(text)) for command, text in shown if STEERS.search(text)] == []
    assert "\\x1b[2J\\x9b31mred\\u202etxt.bmp" in "".join(text for _, text in shown)


def test_json_holds_the_names_as_they_are_and_is_fit_for_a_terminal(nasty, al):
    home, images, _, _ = nasty
    said = al(home, "status", "--json")
    assert not STEERS.search(said.out)
    (row,) = said.json["quarantined"]
    assert row["file"] == str(images / f"broken{NASTY}")


def _on_a_terminal(home, *arguments):
    """What a command writes where its output is a terminal of 80 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "AL_HOME": str(home), "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([AL, *arguments], env=environment, stdout=follower, stderr=follower) as process:
        os.close(follower)
        written = b""
        # Reading fails when the last process has closed the other end.
        with contextlib.suppress(OSError):
            while chunk := os.read(leader, 65536):
                written += chunk
        assert process.wait(240) == 0
    os.close(leader)
    return written


@pytest.mark.slow
def test_progress_bars_show_no_name_that_steers_the_terminal(nasty):
    home, images, examples, _ = nasty
    command = ["ingest", images, "-p", "shapes", "-c", "square,disc\x1b[5m", "--support", examples]
    written = _on_a_terminal(home.parent / "other", *command)
    assert b"shapes" in written
    assert not any(bad in written for bad in (b"\x1b]0;", b"\x07", b"\x1b[5m", "\x9b".encode(), "\u202e".encode()))


def test_a_pipe_gets_whole_lines_and_a_terminal_its_width(nasty, here, monkeypatch):
    home = nasty[0]
    monkeypatch.delenv("COLUMNS")
    objects = here("objects", "list", "--json", home=home).json
    out = here("objects", "list", home=home).out
    rows = [line for line in out.splitlines() if "obj_" in line]
    assert len(rows) == len(objects)
    assert all(LONG in row and row.endswith("txt.bmp") for row in rows)
    assert not any(line.endswith(" ") for line in out.splitlines())
    assert LONG in here("lineage", objects[0]["object_id"], home=home).out
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _on_a_terminal(home, "objects", "list").decode())
    assert max(map(len, shown.split("\r\n"))) <= 80


def test_what_takes_minutes_says_a_line_a_stage_where_standard_error_is_no_terminal(capfd):
    with progress_bars(title="parts", lines=True):
        for done in range(1, 4):
            report("detections", done, 3)
        report("masks\x1b[31m", 1, 1)
    assert capfd.readouterr().err.splitlines() == ["parts", "parts: detections 3/3", "parts: masks\\x1b[31m 1/1"]


def test_a_damaged_file_leaves_no_noise_of_a_decoder(al, tmp_path, draw_shapes):
    draw_shapes(tmp_path / "a.bmp", 0)
    photos = tmp_path / "photos"
    photos.mkdir()
    with Pillow.open(tmp_path / "a.bmp") as picture:
        picture.save(photos / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\xff\xff\x7f\x08\0\0\0")
        picture.save(photos / "b.jpg")
    content = (photos / "b.jpg").read_bytes()
    malformed = b"\xff\xe2\x00\x0eMPF\0II*\0\x08\0\0\0"
    (photos / "b.jpg").write_bytes(content[:2] + malformed + content[2:])
    said = al(tmp_path / "home", "ingest", photos, "-p", "x", "-c", "face")
    assert (said.status, said.err) == (0, "")
