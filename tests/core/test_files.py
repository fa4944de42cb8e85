import os
import tempfile
from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.files import MAX_TEXT_BYTES, open_regular, plain_path, read_text_file
from al_dagster.core.settings import Settings


def refusal(path: Path, max_bytes: int = 100) -> str:
    with pytest.raises(UserError) as refused, open_regular(path, max_bytes=max_bytes):
        pass
    return str(refused.value)


def test_a_regular_file_and_a_link_to_one_are_opened(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "link").symlink_to("a.txt")
    for name in ("a.txt", "link"):
        with open_regular(tmp_path / name, max_bytes=4) as file:
            assert file.read() == b"text"


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        assert refusal(tmp_path / name) == "is not a regular file"


def test_a_file_that_is_too_large_is_refused(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(5_000_000_000)
    assert refusal(tmp_path / "sparse", 4_000_000) == "has 5,000 MB; the limit is 4"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"\xff"), "is not UTF-8 text"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "the table cannot be read: No such file or directory"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), MAX_TEXT_BYTES + 1), "has 67 MB; the limit"),
    ],
)
def test_what_is_no_text_is_answered_with_one_sentence_that_names_it(tmp_path, make, reason):
    path = tmp_path / "table.csv"
    make(path)
    with pytest.raises(UserError) as refused:
        read_text_file(path, what="the table")
    assert str(refused.value).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("name", ["plain", "with space", "[1] (2) #3 100%", "한글"])
def test_a_path_that_libraries_can_take_is_left_as_it_is(tmp_path, name):
    assert plain_path(tmp_path / name) == tmp_path / name
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["it's", "what?"])
def test_a_path_that_libraries_trip_over_is_reached_by_a_link(tmp_path, name, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    link = plain_path(tmp_path / name)
    assert not set("'?") & set(str(link))
    assert link.resolve() == (tmp_path / name).resolve()
    assert link.parent.stat().st_mode & 0o777 == 0o700
    link.unlink()
    link.symlink_to(tmp_path)
    assert plain_path(tmp_path / name).readlink() == tmp_path / name
    assert Settings(home=tmp_path / name).scratch_dir.parent == link.parent
    assert len({plain_path(tmp_path / f"{place}?") for place in range(3)}) == 3
