"""Files that are whole."""

import os
import stat
from pathlib import Path

import pytest

from al_dagster.core.files import move_whole, write_whole


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "some" / "folder" / "a.txt"
    write_whole(path, b"first")
    write_whole(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, b"first")

    def half(file) -> None:
        file.write(b"sec")
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_whole(path, half)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path):
    write_whole(tmp_path / ("a" * 255), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_leaves_whatever_the_old_one_had(tmp_path, umask, mode):
    (tmp_path / "a.txt").touch(0o640)
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.txt", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(kind_of(number)), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("rename"), replace(path, to))[1])
    write_whole(tmp_path / "a.txt", b"x")
    assert done == ["file", "rename", "folder"]


def test_a_folder_is_moved_with_all_that_is_in_it_on_the_disk(tmp_path, monkeypatch):
    staged = tmp_path / ".staged"
    (staged / "inner").mkdir(parents=True)
    (staged / "inner" / "a").write_text("a")
    (staged / "b").hardlink_to(staged / "inner" / "a")
    (staged / "gone").symlink_to("nowhere")
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(kind_of(number)), fsync(number))[1])
    move_whole(staged, tmp_path / "place")
    assert (tmp_path / "place" / "inner" / "a").read_text() == "a"
    assert sorted(synced) == ["file", "folder", "folder", "folder"]


def kind_of(descriptor: int) -> str:
    return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
