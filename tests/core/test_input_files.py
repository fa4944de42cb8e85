import os
from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.input_files import MAX_TEXT_BYTES, open_regular, read_text_file


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
