import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.engine import make_url

from al_dagster.core.errors import UserError
from al_dagster.core.ids import frame_id
from al_dagster.core.project import ProjectConfig
from al_dagster.datasets.selection import Pool, open_pool, read_polygons, read_pool
from al_dagster.datasets.snapshot import snapshot
from al_dagster.registry.frame_labels import FrameOutcome, record_frames
from al_dagster.registry.labelling import LabelledObject, register_batch
from al_dagster.registry.projects import save_project
from al_dagster.registry.tables import Frame, Object, SourceGroup

NUT = [("nut", (1.0, 1.0, 20.0, 20.0), 0.9)]


@pytest.fixture
def other(lab: Any) -> str:
    save_project(lab.registry, ProjectConfig(name="other", classes=("nut",)))
    return "other"


def read(lab: Any, project: str = "parts") -> Pool:
    with open_pool(lab.registry, project) as connection:
        return read_pool(connection, project)


def frames(lab: Any, project: str = "parts") -> dict[str, dict[str, Any]]:
    return {row["source_id"]: row for row in read(lab, project).frames.to_pylist()}


def copy(source: Path, folder: str) -> Path:
    target = source.parent.parent / folder / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, target))


def test_selecting_sees_what_is_committed_while_another_process_writes(lab: Any):
    lab.fill(2)
    path = make_url(lab.registry.url).database
    writer = sqlite3.connect(str(path), isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE objects SET state = 'deleted'")
        pool = read(lab)
    finally:
        writer.execute("ROLLBACK")
        writer.close()

    assert (pool.objects.num_rows, pool.deleted.num_rows) == (4, 0)


@pytest.mark.parametrize("url", ["postgresql://al:secret@host/al", "sqlite://", "sqlite:///:memory:"])
def test_a_registry_that_is_no_sqlite_file_gets_a_clear_sentence(url: str):
    with pytest.raises(UserError, match="datasets need a registry in a SQLite file") as raised:
        snapshot(url, "parts", {}).__enter__()
    assert "secret" not in str(raised.value)


def test_another_projects_objects_and_frames_stay_out(lab: Any, other: str):
    shared = lab.draw("shared.png", 0)
    lab.label({shared: NUT})
    lab.label({shared: [("nut", (30, 30, 20, 20), 0.9)], lab.draw("theirs.png", 1): NUT}, project=other)

    built = lab.build()

    assert sum(built.report.objects.values()) == 1
    assert built.report.left_out == ()


def test_each_project_has_the_path_at_which_it_saw_the_content_last(lab: Any, other: str):
    first = lab.draw("a/part.png", 0)
    second, third = copy(first, "b"), copy(first, "c")
    (source,) = lab.label({first: NUT}).values()
    lab.label({second: NUT}, project=other)
    lab.label({third: []}, register=False)

    assert frames(lab)[source]["file_path"] == str(third)
    assert frames(lab, other)[source]["file_path"] == str(second)
    assert [image.file_path for image in lab.build().dataset.images] == [str(third)]


def test_an_image_whose_file_now_holds_another_is_left_out_and_reported(lab: Any):
    path = lab.draw("a.png", 0)
    lab.label({path: NUT})
    lab.draw("a.png", 1, size=(80, 80))
    (new_source,) = lab.label({path: [("bolt", (2, 2, 20, 20), 0.9)]}).values()

    built = lab.build()

    assert [image.source_id for image in built.dataset.images] == [new_source]
    (left_out,) = built.report.left_out
    assert (left_out.reason, left_out.unit, left_out.examples) == (
        "gone, or replaced by another file",
        "frames",
        (str(path),),
    )


def test_an_image_whose_file_now_holds_what_cannot_be_read_is_left_out_and_reported(lab: Any):
    path = lab.draw("a.png", 0)
    lab.label({path: NUT, lab.draw("stays.png", 5): NUT})
    path.write_bytes(path.read_bytes()[:100])
    lab.label({path: []})

    built = lab.build()

    assert [item.sentence for item in built.report.left_out] == ["1 frame gone, or replaced by another file"]
    path.write_bytes(lab.draw("a.png", 0).read_bytes())
    lab.label({path: []}, register=False)
    assert lab.build().report.left_out == ()


def test_content_that_one_of_its_paths_still_holds_is_not_replaced(lab: Any):
    first = lab.draw("a/part.png", 0)
    second = copy(first, "b")
    (source,) = lab.label({first: NUT}).values()
    lab.label({second: []}, register=False)
    first.write_bytes(lab.draw("new.png", 1).read_bytes())
    lab.label({first: [("bolt", (2, 2, 20, 20), 0.9)]})

    built = lab.build()

    assert {image.source_id: image.file_path for image in built.dataset.images}[source] == str(second)
    assert built.report.left_out == ()


def test_content_that_another_project_saw_replaced_is_replaced(lab: Any, other: str):
    path = lab.draw("a.png", 0)
    lab.label({path: NUT, lab.draw("stays.png", 5): NUT})
    path.write_bytes(lab.draw("new.png", 1).read_bytes())
    lab.label({path: NUT}, project=other)

    assert [item.sentence for item in lab.build().report.left_out] == ["1 frame gone, or replaced by another file"]


def test_the_group_is_that_of_the_project_and_without_one_that_of_the_source(lab: Any):
    sources = lab.label({lab.draw("a.png", 0): NUT, lab.draw("b.png", 1): NUT})
    one, two = sources.values()
    with lab.registry.session() as session:
        session.query(SourceGroup).delete()
        session.add(SourceGroup(project_id="parts", source_id=one, group_key="tray 7", rule="folder"))

    assert {source: row["group_key"] for source, row in frames(lab).items()} == {one: "tray 7", two: two}


def test_each_page_of_a_file_is_a_frame_with_its_own_size_and_background(lab: Any):
    (source,) = lab.label({lab.draw("scan.png", 0): NUT}).values()
    pages = [frame_id(source, page) for page in (1, 2)]
    with lab.registry.session() as session:
        session.add(Frame(frame_id=pages[0], source_id=source, frame_idx=1, timestamp_ms=0, width=300, height=200))
        session.add(Frame(frame_id=pages[1], source_id=source, frame_idx=2, timestamp_ms=0))
    bolt = LabelledObject("obj_page", pages[0], source, "bolt", (200, 100, 50, 50), 0.9, "model@1")
    register_batch(lab.registry, project_id="parts", batch_key="b", run_id="run", frame_ids=[pages[0]], objects=[bolt])
    record_frames(lab.registry, "parts", "b", {pages[0]: FrameOutcome(), pages[1]: FrameOutcome()})

    built = lab.build()

    found = {image.frame_idx: (image.width, image.height, len(image.objects)) for image in built.dataset.images}
    assert found == {0: (96, 64, 1), 1: (300, 200, 1), 2: (96, 64, 0)}
    assert sum(built.report.background.values()) == 1
    assert len({image.split for image in built.dataset.images}) == 1


def test_frames_and_objects_are_of_one_state_while_somebody_writes_all_the_time(lab: Any):
    path = lab.draw("a.png", 0)
    lab.label({path: NUT})
    flip = (
        "UPDATE objects SET state = CASE state WHEN 'active' THEN 'deleted' ELSE 'active' END",
        "UPDATE frame_labels SET is_unsure = 1 - is_unsure",
    )
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(str(make_url(lab.registry.url).database), timeout=30)) as writer:
            while not stop.is_set():
                with writer:
                    for statement in flip:
                        writer.execute(statement)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        pools = [read(lab) for _ in range(10)]
    finally:
        stop.set()
        thread.join()

    for pool in pools:
        is_unsure = pool.frames["is_unsure"].to_pylist() == [True]
        assert (pool.objects.num_rows, pool.deleted.num_rows) == ((0, 1) if is_unsure else (1, 0))


def test_polygons_come_in_the_order_in_which_they_are_asked_for_and_empty_where_there_are_none(lab: Any):
    lab.fill(2)
    rows = read(lab).objects.select(["object_id", "rle"]).to_pylist()
    asked = [rows[3]["object_id"], None, rows[0]["object_id"], "obj_none", rows[3]["object_id"]]
    with open_pool(lab.registry, "parts", with_polygons=True) as connection:
        found = read_polygons(connection, pa.chunked_array([pa.array(asked, pa.string())])).to_pylist()
    has_mask = [rows[3]["rle"] is not None, False, rows[0]["rle"] is not None, False, rows[3]["rle"] is not None]
    assert [polygon is not None for polygon in found] == has_mask
    assert any(has_mask)
    with lab.registry.reader() as session:
        for object_id, polygon in zip(asked, found, strict=True):
            stored = session.get(Object, object_id) if object_id else None
            assert polygon == (stored.polygon if stored else None)
