"""The groups of a project's sources: by its own rule, by recording, by content, and for good."""

import hashlib
from datetime import datetime, timedelta

import cv2
import numpy as np
import pytest
from sqlalchemy import select

from al_dagster.core import ids
from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig
from al_dagster.core.schemas import SOURCES
from al_dagster.registry.batches import FileEntry, claim_files
from al_dagster.registry.projects import get_project, save_project
from al_dagster.registry.source_groups import grouped, regroup
from al_dagster.registry.sources import get_source, register_frames, register_sources
from al_dagster.registry.tables import Frame, SourceGroup, SourceTie

NOON = datetime(2026, 5, 1, 12)


def named(path):
    return ids.source_id(hashlib.sha256(path.encode()).hexdigest())


def row(path, seconds=None, thumbnail=None, perceptual_hash=None):
    sha256 = hashlib.sha256(path.encode()).hexdigest()
    return dict.fromkeys(SOURCES.names) | {
        "file_path": path,
        "status": "ready",
        "source_id": ids.source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "perceptual_hash": perceptual_hash,
        "size_bytes": 10,
        "mtime_ns": 1,
        "captured_at": None if seconds is None else NOON + timedelta(seconds=seconds),
        "thumbnail": thumbnail,
    }


def frame_of_a_recording(number):
    """A camera pans over hills by a cell a frame."""
    hills = np.random.default_rng(0).integers(0, 256, (6, 16), dtype=np.uint8)
    scenery = cv2.resize(hills, (80, 32), interpolation=cv2.INTER_CUBIC)
    return scenery[:, number : number + 32].tobytes()


def frames(numbers, folder="/in"):
    return [row(f"{folder}/f{number:03d}.jpg", thumbnail=frame_of_a_recording(number)) for number in numbers]


@pytest.fixture
def take(registry):
    def register(*rows, project="parts"):
        (key,) = claim_files(registry, project, [FileEntry(one["file_path"], 10, 1) for one in rows], 1000)
        register_sources(registry, key, rows, 6)
        return key

    return register


@pytest.fixture
def configure(registry):
    def save(project="parts", **grouping):
        save_project(registry, ProjectConfig(name=project, classes=("nut",), grouping=grouping))

    return save


@pytest.fixture
def groups(registry):
    def read(project="parts"):
        with registry.reader() as session:
            query = select(SourceGroup.source_id, SourceGroup.group_key, SourceGroup.rule)
            return {row[0]: tuple(row[1:]) for row in session.execute(query.where(SourceGroup.project_id == project))}

    return read


def test_files_of_one_recording_are_one_group_and_others_are_their_own(take, groups, registry):
    take(*frames(range(20)), row("/in/other.jpg"))
    found = groups()
    first = named("/in/f000.jpg")
    assert {found[named(f"/in/f{n:03d}.jpg")] for n in range(20)} == {(f"recording:{first}", "recording")}
    assert found[named("/in/other.jpg")] == (named("/in/other.jpg"), "content")
    counts = grouped(registry, "parts")
    assert (counts.groups, counts.recordings, counts.in_recordings, counts.uncovered) == (2, 1, 20, 0)
    assert counts.sources == {"recording": 20, "content": 1}


def test_files_that_come_later_join_the_recording_that_they_continue(take, groups):
    take(*frames(range(12)))
    before = groups()
    take(*frames(range(12, 14)))
    take(*frames(range(14, 24)))
    after = groups()
    assert {key for key, _ in after.values()} == {f"recording:{named('/in/f000.jpg')}"}
    assert {source: after[source] for source in before} == before


def test_files_that_fill_a_gap_join_the_recording_before_it_and_move_nothing(take, groups):
    take(*frames([*range(10), *range(18, 28)]))
    before = groups()
    assert len(set(before.values())) == 2
    take(*frames(range(10, 18)))
    after = groups()
    assert {source: after[source] for source in before} == before
    assert after[named("/in/f010.jpg")][0] == before[named("/in/f009.jpg")][0]
    assert {key for key, _ in after.values()} == {key for key, _ in before.values()}


def test_neighbours_that_come_to_stand_in_two_groups_are_noted_once_and_forgotten_when_groups_are_made_anew(
    take, groups, registry
):
    def ties():
        with registry.reader() as session:
            return set(session.execute(select(SourceTie.source_id, SourceTie.neighbour_id)).tuples().all())

    take(*frames([*range(10), *range(18, 28)]))
    assert ties() == set()
    take(*frames(range(10, 14)))
    take(*frames(range(14, 18)))
    found, noted = groups(), ties()
    assert (named("/in/f017.jpg"), named("/in/f018.jpg")) in noted
    assert all(found[one] != found[other] for one, other in noted)
    take(row("/in/f028.jpg", thumbnail=frame_of_a_recording(28)))
    assert ties() >= noted
    regroup(registry, "parts")
    assert ties() == set()
    assert len(set(groups().values())) == 1


def test_recordings_of_two_folders_are_two_groups(take, groups):
    take(*frames(range(12), "/in/a"), *frames(range(12), "/in/a/b"))
    assert len({key for key, _ in groups().values()}) == 2


def test_a_recording_can_be_told_by_its_capture_times_alone(take, groups):
    take(row("/in/a1.jpg", 0), row("/in/a2.jpg", 1))
    take(row("/in/a3.jpg", 2), row("/in/a4.jpg", 60))
    found = groups()
    assert found[named("/in/a3.jpg")][0] == found[named("/in/a1.jpg")][0] == found[named("/in/a2.jpg")][0]
    assert found[named("/in/a4.jpg")] == (named("/in/a4.jpg"), "content")


def test_recognition_can_be_switched_off(configure, take, groups):
    configure(recordings=False)
    take(*frames(range(12)))
    assert {rule for _, rule in groups().values()} == {"content"}
    assert len(groups()) == 12


def test_a_near_duplicate_joins_the_recording_of_the_file_that_it_resembles(take, groups):
    first = frames(range(12))
    first[5]["perceptual_hash"] = f"{1 << 200:064x}"
    take(*first)
    take(row("/elsewhere/copy.png", perceptual_hash=f"{3 << 200:064x}"))
    assert groups()[named("/elsewhere/copy.png")] == (f"recording:{named('/in/f000.jpg')}", "content")


def test_near_duplicates_without_a_recording_are_a_group_under_the_key_of_their_content(take, groups, registry):
    take(row("/in/a.jpg", perceptual_hash=f"{0:064x}"), row("/in/b.jpg", perceptual_hash=f"{1:064x}"))
    key = get_source(registry, named("/in/b.jpg"))["group_key"]
    assert set(groups().values()) == {(key, "content")}


def test_the_same_source_has_a_group_in_each_project(configure, take, groups):
    configure("folders", by="folder")
    take(row("/in/a.jpg"))
    take(row("/in/a.jpg"), project="folders")
    assert groups()[named("/in/a.jpg")] == (named("/in/a.jpg"), "content")
    assert groups("folders")[named("/in/a.jpg")] == ("folder:/in", "folder")


def test_files_that_the_projects_rule_does_not_cover_fall_back_and_are_counted(configure, take, groups, registry):
    configure(by="pattern", pattern="{sequence}_{n}")
    take(row("/in/cam_1.jpg"), row("/in/cam_2.jpg"), row("/in/other.jpg"), *frames(range(12)))
    found = groups()
    assert found[named("/in/cam_1.jpg")] == found[named("/in/cam_2.jpg")] == ("pattern:/in/cam", "pattern")
    assert found[named("/in/other.jpg")][1] == "content"
    assert found[named("/in/f003.jpg")][1] == "recording"
    counts = grouped(registry, "parts")
    assert (counts.rule, counts.uncovered, counts.sources["pattern"]) == ("pattern", 13, 2)


def test_by_time_photos_taken_close_together_are_a_group_also_of_several_batches(configure, take, groups, registry):
    configure(by="time", gap_seconds=10)
    take(row("/a/x.jpg", 0), row("/b/y.jpg", 9), row("/a/z.jpg", 30), row("/a/no_time.jpg"))
    take(row("/c/w.jpg", 19), row("/c/v.jpg", 41))
    found = groups()
    assert {found[named(path)] for path in ("/a/x.jpg", "/b/y.jpg", "/c/w.jpg")} == {
        (f"time:{named('/a/x.jpg')}", "time")
    }
    assert found[named("/a/z.jpg")] == (f"time:{named('/a/z.jpg')}", "time")
    assert found[named("/c/v.jpg")] == (f"time:{named('/c/v.jpg')}", "time")
    assert found[named("/a/no_time.jpg")][1] == "content"
    assert grouped(registry, "parts").uncovered == 1


def test_by_time_five_seconds_are_close_unless_said_otherwise(configure, take, groups):
    configure(by="time")
    take(row("/a/x.jpg", 0), row("/a/y.jpg", 5), row("/a/z.jpg", 11))
    assert len({key for key, _ in groups().values()}) == 2


def test_by_column_the_table_says_the_group(configure, take, groups, tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text(f"file,group\n{tmp_path}/a.jpg,left\nb.jpg,left\n")
    configure(by="column", column=table)
    take(row(f"{tmp_path}/a.jpg"), row("/in/b.jpg"), row("/in/c.jpg"))
    assert sorted(groups().values())[:2] == [("column:left", "column")] * 2
    assert groups()[named("/in/c.jpg")][1] == "content"


def test_another_grouping_makes_the_groups_anew_and_another_class_does_not(configure, take, groups, registry):
    take(*frames(range(12), "/in/a"), row("/in/b/x.jpg"))
    recorded = groups()
    configure(by="folder")
    assert {key for key, _ in groups().values()} == {"folder:/in/a", "folder:/in/b"}
    configure()
    assert groups() == recorded
    with registry.session() as session:
        session.get_one(SourceGroup, ("parts", named("/in/b/x.jpg"))).group_key = "as it was"
    save_project(registry, ProjectConfig(name="parts", classes=("nut", "bolt")))
    assert groups()[named("/in/b/x.jpg")][0] == "as it was"
    regroup(registry, "parts")
    assert groups() == recorded


def test_a_table_that_cannot_be_read_leaves_the_project_as_it_is(configure, take, groups, registry, tmp_path):
    configure()
    take(row("/in/a.jpg"))
    before = groups()
    with pytest.raises(UserError, match=r"missing\.csv: the table of groups cannot be read"):
        configure(by="column", column=tmp_path / "missing.csv")
    assert groups() == before
    assert get_project(registry, "parts").grouping.by == "content"


def test_a_recording_keeps_its_group_when_a_batch_is_registered_again(take, groups, registry):
    rows = frames(range(12))
    key = take(*rows)
    before = groups()
    register_sources(registry, key, rows, 6)
    assert groups() == before


def test_capture_time_and_thumbnail_are_kept_and_filled_in_where_they_lacked(take, registry):
    key = take(row("/in/a.jpg"))
    known = row("/in/a.jpg", 3, bytes(1024))
    register_sources(registry, key, [known], 6)
    register_sources(registry, key, [row("/in/a.jpg", 9, bytes([1]) * 1024)], 6)
    source = get_source(registry, named("/in/a.jpg"))
    assert (source["captured_at"], source["thumbnail"]) == (NOON + timedelta(seconds=3), bytes(1024))


def test_a_frame_keeps_its_own_size(take, registry):
    take(row("/in/a.jpg"))
    frame = {"frame_id": "frm_a", "source_id": named("/in/a.jpg"), "frame_idx": 0, "timestamp_ms": 0}
    register_frames(registry, [frame | {"width": 640, "height": 480}, frame | {"frame_id": "frm_b", "frame_idx": 1}])
    with registry.reader() as session:
        sizes = {one.frame_id: (one.width, one.height) for one in session.scalars(select(Frame))}
    assert sizes == {"frm_a": (640, 480), "frm_b": (None, None)}
