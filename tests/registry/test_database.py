"""Opening, migrating and sharing the registry database."""

import io
import multiprocessing
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig
from al_dagster.registry import tables
from al_dagster.registry.database import MIGRATIONS, open_registry
from al_dagster.registry.frame_labels import FrameOutcome, record_frames
from al_dagster.registry.migrations import HEAD
from al_dagster.registry.objects import object_query
from al_dagster.registry.outbox import sync_embeddings
from al_dagster.registry.projects import save_project
from al_dagster.registry.review import delete_objects, edit_object, validate_objects
from al_dagster.registry.source_groups import regroup
from al_dagster.registry.tables import Category, Dataset, EmbeddingVersion, Frame, Object, Source, Track, TrackObject
from al_dagster.vectors.chroma import ChromaStore


def open_and_close(url: str) -> str:
    registry = open_registry(url)
    with registry.reader() as session:
        revision = session.scalar(text("SELECT version_num FROM alembic_version"))
    registry.dispose()
    return revision


def alembic_config(**options) -> Config:
    config = Config(**options)
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def test_the_migrations_make_exactly_the_declared_tables(registry):
    with registry.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_the_declared_head_is_the_newest_revision():
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_the_migrations_also_speak_postgres():
    printed = io.StringIO()
    config = alembic_config(output_buffer=printed)
    config.set_main_option("sqlalchemy.url", "postgresql://")
    command.upgrade(config, "head", sql=True)
    assert "LANGUAGE plpgsql" in printed.getvalue()
    assert "CREATE TABLE embedding_outbox" in printed.getvalue()
    assert "strftime" not in printed.getvalue()


def test_a_downgrade_takes_everything_back(registry):
    config = alembic_config()
    with registry.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        left = connection.scalars(text("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")).all()
    assert [name for name in left if "alembic" not in name] == []


def test_the_connection_is_prepared(registry):
    with registry.session() as session:
        found = {
            name: session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        }
    assert found == {"journal_mode": "wal", "busy_timeout": 30_000, "foreign_keys": 1, "synchronous": 1}


def test_several_processes_may_open_a_new_registry_at_once(registry_url):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(open_and_close, [registry_url] * 6) == [HEAD] * 6


def test_a_database_of_a_newer_version_is_refused(registry, registry_url):
    with registry.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match=r"newer version of al_dagster \(revision 9999"):
        open_registry(registry_url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("not a url", "is not a database URL"),
        ("postgresql://localhost/registry", "postgresql is not supported"),
        ("sqlite://", "needs a file"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url, sentence):
    with pytest.raises(UserError, match=sentence):
        open_registry(url)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "registry.db"
    path.write_bytes(b"these are my notes, not a database" * 100)
    with pytest.raises(UserError, match="cannot be used as the registry"):
        open_registry(f"sqlite:///{path}")
    assert path.read_bytes() == b"these are my notes, not a database" * 100


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as the registry"):
        open_registry(f"sqlite:///{tmp_path / 'file' / 'registry.db'}")


def test_a_session_that_raises_leaves_nothing(registry):
    def fail() -> None:
        with registry.session() as session:
            session.add(Category(name="nut"))
            session.flush()
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    with registry.reader() as session:
        assert session.query(Category).count() == 0


def test_writers_wait_for_each_other(registry):
    def add(number: int) -> None:
        with registry.session() as session:
            count = session.query(Category).count()
            time.sleep(0.01)
            session.add(Category(name=f"c{number}", description=str(count)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    with registry.reader() as session:
        assert sorted(int(category.description) for category in session.query(Category)) == list(range(12))


def test_a_reader_does_not_wait_for_a_writer(registry):
    with registry.session() as writing, registry.reader() as reading:
        writing.add(Category(name="nut"))
        writing.flush()
        assert reading.query(Category).count() == 0


def add_object(session, **fields):
    session.add(Source(source_id="src_a", source_type="video", group_key="src_a"))
    session.flush()
    session.add(Object(object_id="obj_a", source_id="src_a", bbox_x=1, bbox_y=2, bbox_w=3, bbox_h=4, **fields))


def test_defaults_are_those_of_the_data_model(registry):
    with registry.session() as session:
        add_object(session)
        session.add(Category(name="nut"))
        session.add(Dataset(dataset_id="ds_a", name="a"))
        session.add(EmbeddingVersion(version_id="v", model_name="m", model_type="t", dimension=2))
    with registry.reader() as session:
        found = session.get_one(Object, "obj_a")
        flags = (found.is_validated, found.is_occluded, found.is_truncated, found.is_difficult)
        assert flags == (False, False, False, False)
        assert found.state == "active"
        assert found.created_at is not None
        assert session.query(Category).one().color == "#808080"
        dataset = session.get_one(Dataset, "ds_a")
        assert (dataset.format, dataset.version) == ("yolo", "1.0")
        assert dataset.split_config == {"train": 0.8, "val": 0.1, "test": 0.1}
        assert session.get_one(EmbeddingVersion, "v").is_active is True


def test_the_database_keeps_updated_at(registry):
    with registry.session() as session:
        add_object(session)
    with registry.reader() as session:
        before = session.get_one(Object, "obj_a")
    time.sleep(0.005)
    with registry.session() as session:
        session.execute(text("UPDATE objects SET is_difficult = 1"))
    with registry.reader() as session:
        after = session.get_one(Object, "obj_a")
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at


def test_the_database_keeps_the_object_count_of_tracks(registry):
    with registry.session() as session:
        add_object(session)
        session.add_all([Track(track_id="trk_a", source_id="src_a"), Track(track_id="trk_b", source_id="src_a")])
        session.flush()
        session.add(TrackObject(track_id="trk_a", object_id="obj_a", sequence_idx=0))

    def counts() -> list[int]:
        with registry.reader() as session:
            return [track.object_count for track in session.query(Track).order_by(Track.track_id)]

    assert counts() == [1, 0]
    with registry.session() as session:
        session.execute(text("UPDATE track_objects SET track_id = 'trk_b'"))
    assert counts() == [0, 1]
    with registry.session() as session:
        session.execute(text("DELETE FROM track_objects"))
    assert counts() == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [{"confidence": 1.5}, {"quality_score": -0.1}, {"state": "gone"}, {"category_id": 77}, {"frame_id": "frm_x"}],
)
def test_the_database_refuses_values_outside_the_data_model(registry, wrong):
    def write() -> None:
        with registry.session() as session:
            add_object(session, **wrong)

    with pytest.raises(IntegrityError):
        write()


def test_a_frame_index_stands_once_in_a_source(registry):
    def write() -> None:
        with registry.session() as session:
            add_object(session)
            session.add_all(
                [
                    Frame(frame_id="f1", source_id="src_a", frame_idx=0),
                    Frame(frame_id="f2", source_id="src_a", frame_idx=0),
                ]
            )

    with pytest.raises(IntegrityError):
        write()


def test_a_missing_value_in_a_json_column_is_null(registry, registry_url):
    with registry.session() as session:
        add_object(session, polygon=None)
    with sqlite3.connect(Path(registry_url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("SELECT polygon IS NULL FROM objects").fetchone() == (1,)


def test_labelling_again_with_the_same_labels_and_syncing_leave_the_state_of_the_content(
    registry, register, label, frame, tmp_path
):
    first = registry.content_state()
    labels = [label(frame, (1, 2, 30, 40), embedding=np.ones(4, dtype=np.float32), embedding_version="tiny_v1")]
    register(*labels)
    labelled = registry.content_state()
    assert labelled != first
    register(*labels)
    with ChromaStore(tmp_path / "chroma", "tiny_v1", 4) as store:
        sync_embeddings(registry, store)
    assert registry.content_state() == labelled
    for change in (
        lambda: validate_objects(registry, [labels[0].object_id], "ann"),
        lambda: edit_object(registry, labels[0].object_id, "ann", category="bolt"),
        lambda: delete_objects(registry, [labels[0].object_id], "ann"),
        lambda: record_frames(registry, "parts", "parts--1", {frame: FrameOutcome()}, None),
        lambda: regroup(registry, "parts"),
        lambda: save_project(registry, ProjectConfig(name="parts", classes=("bolt", "nut"))),
        lambda: registry_text(registry, "UPDATE sources SET width = 1"),
    ):
        before = registry.content_state()
        change()
        assert registry.content_state() != before


def registry_text(registry, statement: str) -> None:
    with registry.session() as session:
        session.execute(text(statement))


def test_the_objects_of_a_project_are_listed_in_order_without_sorting(registry):
    listed = (
        object_query()
        .where(Object.project_id == "parts", Object.state == "active")
        .order_by(Object.created_at, Object.object_id)
        .limit(20)
    )
    query = str(listed.compile(registry.engine, compile_kwargs={"literal_binds": True}))
    with registry.reader() as session:
        steps = [row.detail for row in session.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    assert not [step for step in steps if "TEMP B-TREE" in step], steps
