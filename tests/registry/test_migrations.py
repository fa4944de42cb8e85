"""Databases that an older version wrote."""

import random
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from al_dagster.registry import tables
from al_dagster.registry.database import MIGRATIONS, open_registry
from al_dagster.registry.datasets import list_datasets
from al_dagster.registry.grouping import find_standing
from al_dagster.registry.labelling import register_batch
from al_dagster.registry.objects import get_object
from al_dagster.registry.reviews import list_reviews

ROWS = (
    "INSERT INTO projects (project_id, name, classes) VALUES ('parts', 'parts', '[\"nut\"]')",
    "INSERT INTO sources (source_id, source_type, group_key) VALUES ('src_a', 'image', 'src_a')",
    "INSERT INTO frames VALUES ('frm_a', 'src_a', 0, 0)",
    "INSERT INTO categories (category_id, name) VALUES (7, 'nut')",
    """INSERT INTO objects (object_id, source_id, frame_id, project_id, category_id, bbox_x, bbox_y, bbox_w, bbox_h,
        confidence, detection_model, detection_id, is_validated, validated_by, edited_at)
        VALUES ('obj_seen', 'src_a', 'frm_a', 'parts', 7, 1, 2, 30, 40, 0.5, 'm@1', 'obj_seen', 1, 'Ada', NULL),
               ('obj_moved', 'src_a', 'frm_a', 'parts', 7, 50, 2, 30, 40, 0.5, 'm@1', 'obj_moved', 1, 'Ada',
                '2026-01-02 03:04:05')""",
    "INSERT INTO tracks (track_id, source_id) VALUES ('trk_a', 'src_a')",
    "INSERT INTO track_objects VALUES ('trk_a', 'obj_seen', 0)",
    "INSERT INTO conflicts (object_id, detection_id, category, bbox_x, bbox_y, bbox_w, bbox_h, iou) "
    "VALUES ('obj_seen', 'obj_x', 'nut', 1, 2, 3, 4, 0.6)",
)


@pytest.fixture
def old_url(tmp_path: Path) -> str:
    """A database of the first revision with a row in several tables."""
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for row in ROWS:
            connection.execute(text(row))
    engine.dispose()
    return url


def dump(connection) -> dict[str, list[dict]]:
    names = ("projects", "sources", "frames", "categories", "objects", "tracks", "track_objects", "conflicts")
    return {
        name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY 1")).mappings()]
        for name in names
    }


def test_a_database_of_the_first_revision_keeps_every_row_and_gets_the_declared_tables(old_url):
    engine = create_engine(old_url)
    with engine.connect() as connection:
        before = dump(connection)
    engine.dispose()
    with open_registry(old_url) as registry, registry.engine.connect() as connection:
        after = dump(connection)
        added = {
            "objects": ("p_label", "p_box", "calibrated_confidence", "validation_rule", "machine_label", "mask_rle"),
            "sources": ("captured_at", "thumbnail"),
            "frames": ("width", "height"),
        }
        assert {row.pop(name) for table, names in added.items() for row in after[table] for name in names} == {None}
        assert {row.pop("is_stale") for row in after["objects"]} == {0}
        assert after == before
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_the_triggers_outlive_the_migration(old_url):
    with open_registry(old_url) as registry, registry.session() as session:
        before = session.scalar(text("SELECT updated_at FROM objects WHERE object_id = 'obj_seen'"))
        session.execute(text("UPDATE objects SET is_difficult = 1"))
        assert session.scalar(text("SELECT updated_at FROM objects WHERE object_id = 'obj_seen'")) > before


def test_old_reviews_count_where_what_the_machine_said_is_still_known(old_url):
    with open_registry(old_url) as registry:
        assert [(review.object_id, review.correct) for review in list_reviews(registry, "parts")] == [
            ("obj_seen", True)
        ]


def test_labelling_again_leaves_the_old_human_work_as_it_was(old_url):
    with open_registry(old_url) as registry:
        before = [get_object(registry, name) for name in ("obj_seen", "obj_moved")]
        register_batch(registry, project_id="parts", batch_key="b", run_id="r", frame_ids=["frm_a"], objects=[])
        assert [get_object(registry, name) for name in ("obj_seen", "obj_moved")] == before


def test_the_counts_of_old_datasets_are_those_of_their_rows(old_url):
    engine = create_engine(old_url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO datasets (dataset_id, name) VALUES ('ds_a', 'a'), ('ds_b', 'b')"))
        connection.execute(
            text("INSERT INTO dataset_objects VALUES ('ds_a', 'obj_seen', 'val'), ('ds_a', 'obj_moved', 'train')")
        )
    engine.dispose()
    with open_registry(old_url) as registry:
        counts = {record.name: record.objects_by_split for record in list_datasets(registry)}
    assert counts == {"a": {"train": 1, "val": 1}, "b": {}}


def test_a_near_duplicate_joins_the_group_that_it_would_have_joined_before(tmp_path):
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    known = [random.Random(place).getrandbits(256) for place in range(20)]
    known += known[:5]  # the same picture in other files, which came later and are of groups of their own
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for place, value in enumerate(known):
            connection.execute(
                text(
                    "INSERT INTO sources (source_id, source_type, group_key, perceptual_hash, created_at) "
                    "VALUES (:id, 'image', :id, :hash, :at)"
                ),
                {"id": f"src_{place}", "hash": f"{value:064x}", "at": f"2026-01-01 00:00:{place:02d}.000"},
            )
    engine.dispose()
    with open_registry(url) as registry, registry.reader() as session:
        groups = session.execute(text("SELECT source_id, group_key FROM sources")).all()
        assert all(source == group for source, group in groups)
        wanted = [f"{value ^ 0b111 << place:064x}" for place, value in enumerate(known[:20])]
        for distance in (6, 20):
            nearest = find_standing(session, wanted, distance).nearest
            assert [nearest[value].group_key for value in wanted] == [f"src_{place}" for place in range(20)]
