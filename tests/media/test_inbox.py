import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core.errors import UserError
from al_dagster.media.inbox import FileStat, absolute, is_settled, list_projects, project_file, scan_folder
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


def test_a_name_that_is_not_utf8_is_left_out_and_reported_once(tmp_path):
    write(tmp_path / "good.jpg")
    for name in (b"caf\xe9.jpg", b"\xff.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    told: list[str] = []
    assert names(tmp_path, report=told.append) == ["good.jpg"]
    assert told == [
        f"{tmp_path}: files left out since their names are not UTF-8: 2, such as {tmp_path}/\\xff.jpg; rename them"
    ]


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
    files = scan_folder(inbox, settle_seconds=0, within=inbox)
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


def test_links_to_folders_are_followed_once_and_circles_do_not_hang(tmp_path):
    write(tmp_path / "photos" / "a.jpg")
    write(tmp_path / "photos" / "deep" / "c.jpg")
    write(tmp_path / "outside" / "b.jpg")
    (tmp_path / "photos" / "circle").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos" / "deep")
    (tmp_path / "photos" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "photos" / "twice").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "back").symlink_to(tmp_path / "photos")
    told: list[str] = []
    found = names(tmp_path / "photos", report=told.append)
    assert sorted(os.path.basename(name) for name in found) == ["a.jpg", "b.jpg", "c.jpg"]  # noqa: PTH119
    assert told == []


def test_a_link_to_a_folder_that_leads_out_of_the_bounds_is_reported(tmp_path):
    write(tmp_path / "inbox" / "parts" / "a.jpg")
    write(tmp_path / "inbox" / "shared" / "b.jpg")
    write(tmp_path / "outside" / "c.jpg")
    (tmp_path / "inbox" / "parts" / "shared").symlink_to(tmp_path / "inbox" / "shared")
    (tmp_path / "inbox" / "parts" / "out").symlink_to(tmp_path / "outside")
    told: list[str] = []
    found = names(tmp_path / "inbox" / "parts", within=tmp_path / "inbox", report=told.append)
    assert found == ["a.jpg", "shared/b.jpg"]
    assert told == [f"{tmp_path}/inbox/parts/out: links to a folder outside {tmp_path}/inbox; its files are left out"]


def test_folders_of_storage_systems_are_left_out(tmp_path):
    for name in ("a.jpg", "@eaDir/a.jpg", "deep/#recycle/b.jpg", "__MACOSX/c.jpg"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a.jpg"]


def test_a_place_has_one_path_however_it_is_spelt(tmp_path, monkeypatch):
    write(tmp_path / "few" / "a.jpg")
    (tmp_path / "alias").symlink_to(tmp_path / "few")
    (tmp_path / "other" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    assert absolute(Path("../few")) == absolute(Path("deep/../../few")) == tmp_path / "few"
    assert absolute(tmp_path / "alias") == tmp_path / "alias"
    assert [file.path for file in scan_folder(Path("../few"), settle_seconds=0)] == [f"{tmp_path}/few/a.jpg"]


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
def test_a_folder_that_may_not_be_read_is_left_out_and_reported(tmp_path):
    write(tmp_path / "a.jpg")
    write(tmp_path / "closed" / "b.jpg").parent.chmod(0)
    told: list[str] = []
    assert names(tmp_path, report=told.append) == ["a.jpg"]
    (tmp_path / "closed").chmod(0o700)
    assert told == [f"{tmp_path}/closed: the folder is left out, since it cannot be read: Permission denied"]


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
