import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from al_dagster.core.errors import UserError
from al_dagster.media.inbox import FileStat, is_settled, list_projects, project_file, scan_folder
from al_dagster.media.inspection import inspect_file


def write(path: Path, content: str = "x", changed: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if changed is not None:
        os.utime(path, (changed, changed))
    return path


def names(folder: Path, **options: object) -> list[str]:
    options = {"settle_seconds": 0, **options}
    return [os.path.relpath(file.path, folder) for file in scan_folder(folder, **options)]


def test_files_of_all_subfolders_come_sorted_with_size_and_time(tmp_path):
    second = write(tmp_path / "b.jpg", "four")
    first = write(tmp_path / "a" / "deep" / "z.jpg", "seven77")
    assert scan_folder(tmp_path, settle_seconds=0) == [
        FileStat(str(first), 7, first.stat().st_mtime_ns),
        FileStat(str(second), 4, second.stat().st_mtime_ns),
    ]


def test_paths_are_absolute_but_links_above_are_kept(tmp_path, monkeypatch):
    write(tmp_path / "real" / "a.jpg")
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in scan_folder(Path("alias"), settle_seconds=0)] == [str(tmp_path / "alias" / "a.jpg")]


def test_hidden_project_and_support_files_are_left_out(tmp_path):
    for name in (
        "project.yaml",
        "project.yml",
        ".DS_Store",
        ".hidden/a.jpg",
        "support/nut/a.jpg",
        "half.jpg.part",
        "half.png.CRDOWNLOAD",
    ):
        write(tmp_path / name)
    for name in ("a.jpg", "notes.txt", "deep/project.yaml", "deep/support/b.jpg"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a.jpg", "deep/project.yaml", "deep/support/b.jpg", "notes.txt"]


def test_a_support_folder_of_another_name_can_be_left_out(tmp_path):
    write(tmp_path / "examples" / "nut" / "a.jpg")
    write(tmp_path / "b.jpg")
    assert names(tmp_path, skip=[tmp_path / "examples"]) == ["b.jpg"]


def test_a_file_still_being_written_waits_for_a_later_scan(tmp_path):
    write(tmp_path / "old.jpg", changed=1000)
    write(tmp_path / "new.jpg", changed=1008)
    assert names(tmp_path, settle_seconds=5, now=1010) == ["old.jpg"]
    assert names(tmp_path, settle_seconds=5, now=1013) == ["new.jpg", "old.jpg"]


def test_a_file_that_grows_waits_until_it_is_left_alone(tmp_path):
    path = write(tmp_path / "a.jpg")
    for _ in range(3):
        with path.open("a") as file:
            file.write("more")
        assert names(tmp_path, settle_seconds=5) == []
    assert names(tmp_path, settle_seconds=5, now=time.time() + 6) == ["a.jpg"]


def test_a_file_from_the_future_is_taken_once_this_machine_has_not_touched_it_for_a_while(tmp_path):
    write(tmp_path / "a.jpg", changed=time.time() + 86_400)
    assert names(tmp_path, settle_seconds=5) == []
    assert names(tmp_path, settle_seconds=5, now=time.time() + 6) == ["a.jpg"]


@given(changed=st.integers(0, 2_000), now=st.integers(0, 2_000), settle=st.integers(0, 100))
def test_a_settled_file_stays_settled(changed: int, now: int, settle: int):
    status = os.stat_result((0o100644, 1, 1, 1, 0, 0, 1, changed, changed, changed))
    if is_settled(status, settle_seconds=settle, now=now):
        assert is_settled(status, settle_seconds=settle, now=now + 1)
    assert is_settled(status, settle_seconds=settle, now=changed + settle)
    assert settle == 0 or not is_settled(status, settle_seconds=settle, now=changed + settle - 1)


@pytest.mark.parametrize("name", ["with space.jpg", "quo'te\".jpg", "new\nline.jpg", "사진 한 장.jpg", "\\back.jpg"])
def test_any_name_that_is_utf8_is_returned(tmp_path, name):
    write(tmp_path / name)
    assert names(tmp_path) == [name]


def test_a_name_that_is_not_utf8_is_left_out_with_one_warning(tmp_path):
    write(tmp_path / "good.jpg")
    for name in (b"caf\xe9.jpg", b"\xff.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    with capture_logs() as logs:
        assert names(tmp_path) == ["good.jpg"]
    (warning,) = logs
    assert (warning["log_level"], warning["count"]) == ("warning", 2)
    assert warning["first"] == [f"{tmp_path}/\\xff.jpg", f"{tmp_path}/caf\\xe9.jpg"]


def test_links_inside_count_as_their_target(tmp_path):
    target = write(tmp_path / "a.jpg", "twelve chars", changed=1000)
    (tmp_path / "b.jpg").symlink_to(target)
    assert [file.size_bytes for file in scan_folder(tmp_path, settle_seconds=5)] == [12, 12]


def test_links_that_lead_out_or_nowhere_are_returned_for_the_quarantine(tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "circle.jpg").symlink_to(inbox / "circle.jpg")
    (inbox / "nowhere.jpg").symlink_to(inbox / "gone.jpg")
    (inbox / "out.jpg").symlink_to(write(tmp_path / "secret.jpg", "s" * 5000))
    files = scan_folder(inbox, settle_seconds=0)
    rows = [inspect_file(file.path, root=inbox, max_pixels=100) for file in files]
    assert [row["reason"] for row in rows] == [
        "is a link that leads in a circle",
        "is a link to a file that does not exist",
        "links to a file outside the folder",
    ]
    assert [(row["size_bytes"], row["mtime_ns"]) for row in rows] == [
        (file.size_bytes, file.mtime_ns) for file in files
    ]
    assert 5000 not in [file.size_bytes for file in files]


def test_links_to_folders_are_not_followed_and_circles_do_not_hang(tmp_path):
    write(tmp_path / "inbox" / "a.jpg")
    write(tmp_path / "outside" / "b.jpg")
    (tmp_path / "inbox" / "circle").symlink_to(tmp_path / "inbox")
    (tmp_path / "inbox" / "out").symlink_to(tmp_path / "outside")
    assert names(tmp_path / "inbox") == ["a.jpg"]


def test_pipes_are_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == []


def test_a_file_that_vanishes_during_the_scan_is_left_out(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path / name)
    real = os.walk

    def walk_then_remove(*args, **options):
        for found in real(*args, **options):
            (tmp_path / "a.jpg").unlink()
            yield found

    monkeypatch.setattr(os, "walk", walk_then_remove)
    assert names(tmp_path) == ["b.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_left_out_with_a_warning(tmp_path):
    write(tmp_path / "a.jpg")
    write(tmp_path / "closed" / "b.jpg").parent.chmod(0)
    with capture_logs() as logs:
        assert names(tmp_path) == ["a.jpg"]
    (tmp_path / "closed").chmod(0o700)
    assert logs[0]["folder"] == str(tmp_path / "closed")


def test_an_inbox_that_does_not_exist_is_empty(tmp_path):
    assert list_projects(tmp_path / "none") == []


def test_an_inbox_that_is_a_file_says_so(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Not a directory; AL_INBOX must be a folder"):
        list_projects(write(tmp_path / "inbox"))


def test_projects_are_the_folders_of_the_inbox(tmp_path):
    write(tmp_path / "inbox" / "parts" / "project.yaml")
    write(tmp_path / "inbox" / "people" / "project.yml")
    write(tmp_path / "inbox" / "bare" / "a.jpg")
    write(tmp_path / "inbox" / ".hidden" / "a.jpg")
    write(tmp_path / "inbox" / "loose.jpg")
    (tmp_path / "inbox" / "link").symlink_to(tmp_path)
    folders = list_projects(tmp_path / "inbox")
    assert [path.name for path in folders] == ["bare", "parts", "people"]
    assert [project_file(path) for path in folders] == [None, folders[1] / "project.yaml", folders[2] / "project.yml"]
