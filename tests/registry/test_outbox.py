import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, insert, select, update

from al_dagster.core import disk
from al_dagster.core.disk import DiskFullError
from al_dagster.registry.embedding_versions import ensure_version
from al_dagster.registry.outbox import outbox_counts, reconcile, sync_embeddings
from al_dagster.registry.tables import EmbeddingOutbox, Object, Source
from al_dagster.vectors.chroma import ChromaStore

VERSION = "hog_v1"
DIMENSION = 8

# Registers nothing: opens the registry and the index by their paths and syncs, dying where the test says.
SYNC = """
import os, signal, sys
from pathlib import Path
from al_dagster.core.failpoints import set_failpoint
from al_dagster.registry import outbox
from al_dagster.registry.database import open_registry
from al_dagster.vectors.chroma import ChromaStore

url, folder, die_before_mark = sys.argv[1:4]
if die_before_mark != "never":
    chunks = iter(range(100))
    def die():
        if next(chunks) == int(die_before_mark):
            os.kill(os.getpid(), signal.SIGKILL)
    set_failpoint("vectors written", die)
with ChromaStore(Path(folder), "hog_v1", 8) as store:
    outbox.sync_embeddings(open_registry(url), store, chunk=20)
"""


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def add_objects(registry, count: int, batch_key: str = "parts--1", prefix: str = "obj") -> list[str]:
    ensure_version(registry, VERSION, "opencv-hog-color", "hog", DIMENSION)
    object_ids = [f"{prefix}_{i:04d}" for i in range(count)]
    box, made = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}, {"embedding_version": VERSION}
    with registry.session() as session:
        if session.get(Source, "src_1") is None:
            session.execute(insert(Source).values(source_id="src_1", source_type="image", group_key="src_1"))
        session.execute(
            insert(Object),
            [{"object_id": name, "source_id": "src_1", "batch_key": batch_key, **made, **box} for name in object_ids],
        )
    return object_ids


def queue(registry, object_ids, embeddings=None) -> None:
    """Queue upserts of these vectors, or deletes."""
    rows = [
        {
            "object_id": object_id,
            "version_id": VERSION,
            "operation": "delete" if embeddings is None else "upsert",
            "embedding": None if embeddings is None else embeddings[i].tobytes(),
        }
        for i, object_id in enumerate(object_ids)
    ]
    with registry.session() as session:
        session.execute(insert(EmbeddingOutbox), rows)


def rows_of(registry, object_id: str) -> list[EmbeddingOutbox]:
    with registry.reader() as session:
        statement = select(EmbeddingOutbox).where(EmbeddingOutbox.object_id == object_id).order_by(EmbeddingOutbox.id)
        return list(session.scalars(statement))


def set_state(registry, object_ids, state: str) -> None:
    with registry.session() as session:
        session.execute(update(Object).where(Object.object_id.in_(object_ids)).values(state=state))


@pytest.fixture
def index(tmp_path) -> Path:
    return tmp_path / "chroma"


@pytest.fixture
def store(index):
    with ChromaStore(index, VERSION, DIMENSION) as store:
        yield store


def opener(index: Path):
    return lambda version_id, dimension: ChromaStore(index, version_id, dimension)


def test_the_outbox_goes_to_the_vector_store_and_is_marked(registry, store):
    names, embedded = add_objects(registry, 30), vectors(30)
    queue(registry, names, embedded)
    report = sync_embeddings(registry, store)
    assert (report.synced, report.failed, report.pending) == (30, 0, 0)
    stored = store.get(names)
    np.testing.assert_allclose(np.stack([stored[name] for name in names]), embedded, rtol=1e-5)
    assert outbox_counts(registry) == {"pending": 0, "synced": 30, "failed": 0}
    assert all(row.synced_at is not None and row.retry_count == 0 for row in rows_of(registry, names[0]))


def test_syncing_again_does_nothing(registry, store):
    queue(registry, add_objects(registry, 3), vectors(3))
    sync_embeddings(registry, store)
    assert sync_embeddings(registry, store).synced == 0
    assert store.count() == 3


def test_on_a_full_disk_no_change_counts_as_refused(registry, store, monkeypatch):
    names = add_objects(registry, 5)
    queue(registry, names, vectors(5))
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
    for _ in range(4):
        with pytest.raises(DiskFullError):
            sync_embeddings(registry, store)
    assert outbox_counts(registry) == {"pending": 5, "synced": 0, "failed": 0}
    assert rows_of(registry, names[0])[0].retry_count == 0
    monkeypatch.undo()
    assert sync_embeddings(registry, store).synced == 5


def test_an_empty_outbox_is_synced_at_once(registry, store):
    assert sync_embeddings(registry, store).synced == 0
    assert outbox_counts(registry) == {"pending": 0, "synced": 0, "failed": 0}


def test_the_rows_of_a_batch_are_counted_by_themselves(registry, store):
    first = add_objects(registry, 3, "parts--1", "one")
    second = add_objects(registry, 2, "parts--2", "two")
    queue(registry, second, vectors(2))
    assert sync_embeddings(registry, store).synced == 2
    queue(registry, first, vectors(3))
    assert outbox_counts(registry)["pending"] == 3
    assert outbox_counts(registry, batch_key="parts--2") == {"pending": 0, "synced": 2, "failed": 0}


def test_only_the_rows_of_the_stores_version_are_synced(registry, index, store):
    ensure_version(registry, "dinov2_base_v1", "dinov2-base", "dinov2", 4)
    queue(registry, add_objects(registry, 2), vectors(2))
    with ChromaStore(index, "dinov2_base_v1", 4) as other:
        assert sync_embeddings(registry, other).synced == 0
        assert other.count() == 0
    assert outbox_counts(registry)["pending"] == 2


def test_progress_ends_at_the_total(registry, store):
    queue(registry, add_objects(registry, 25), vectors(25))
    calls = []
    sync_embeddings(registry, store, chunk=10, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(10, 25), (20, 25), (25, 25)]


def test_of_several_changes_of_an_object_only_the_newest_is_applied_and_all_are_settled(registry, store):
    names = add_objects(registry, 3)
    old, new = vectors(3, seed=1), vectors(3, seed=2)
    queue(registry, names, old)
    queue(registry, names[:1], new[:1])
    queue(registry, names[1:2])
    queue(registry, names[2:])
    queue(registry, names[2:], new[2:])
    report = sync_embeddings(registry, store, chunk=2)
    assert (report.synced, report.pending) == (7, 0)
    stored = store.get(names)
    assert stored.keys() == {names[0], names[2]}
    np.testing.assert_allclose(stored[names[0]], new[0], rtol=1e-5)
    np.testing.assert_allclose(stored[names[2]], new[2], rtol=1e-5)
    assert {row.status for name in names for row in rows_of(registry, name)} == {"synced"}


def test_an_older_upsert_is_not_applied_after_a_newer_delete_was(registry, store):
    names = add_objects(registry, 1)
    queue(registry, names, vectors(1))
    sync_embeddings(registry, store)
    queue(registry, names)
    sync_embeddings(registry, store)
    with registry.session() as session:
        first = select(func.min(EmbeddingOutbox.id)).scalar_subquery()
        session.execute(update(EmbeddingOutbox).where(EmbeddingOutbox.id == first).values(status="pending"))
    assert sync_embeddings(registry, store).synced == 0
    assert store.count() == 0


def test_a_change_refused_three_times_has_failed_and_keeps_the_error(registry, index):
    names = add_objects(registry, 4)
    queue(registry, names, vectors(4))
    with ChromaStore(index / "wrong", VERSION, DIMENSION + 1) as wrong:
        for tried in (1, 2):
            report = sync_embeddings(registry, wrong)
            assert (report.synced, report.failed, report.pending) == (0, 0, 4)
            assert [row.retry_count for row in rows_of(registry, names[0])] == [tried]
        assert sync_embeddings(registry, wrong).failed == 4
        assert (sync_embeddings(registry, wrong).failed, wrong.count()) == (0, 0)
    (row,) = rows_of(registry, names[0])
    assert (row.status, row.retry_count) == ("failed", 3)
    assert "expected an embedding of 9 float32 values, got 32 bytes" in row.error_message
    assert outbox_counts(registry) == {"pending": 0, "synced": 0, "failed": 4}


def test_a_bad_row_does_not_hold_up_the_others_of_its_chunk(registry, store):
    names = add_objects(registry, 50)
    embedded = list(vectors(50))
    embedded[7] = np.zeros(DIMENSION, dtype=np.float32)
    embedded[30] = np.full(DIMENSION, np.nan, dtype=np.float32)
    embedded[31] = np.ones(3, dtype=np.float32)
    queue(registry, names, embedded)
    report = sync_embeddings(registry, store)
    assert (report.synced, report.failed, report.pending) == (47, 0, 3)
    assert set(names) - set(store.ids()) == {names[7], names[30], names[31]}
    assert "zero" in rows_of(registry, names[7])[0].error_message
    assert "finite" in rows_of(registry, names[30])[0].error_message


def test_an_upsert_without_a_vector_is_refused_with_its_reason(registry, store):
    names = add_objects(registry, 1)
    queue(registry, names, [np.empty(0, dtype=np.float32)])
    assert sync_embeddings(registry, store).pending == 1
    assert "got 0 bytes" in rows_of(registry, names[0])[0].error_message


def test_a_good_change_settles_the_failed_one_before_it(registry, store):
    names = add_objects(registry, 1)
    queue(registry, names, [np.zeros(DIMENSION, dtype=np.float32)])
    for _ in range(3):
        sync_embeddings(registry, store)
    assert outbox_counts(registry)["failed"] == 1
    queue(registry, names, vectors(1))
    sync_embeddings(registry, store)
    assert outbox_counts(registry) == {"pending": 0, "synced": 2, "failed": 0}
    assert store.count() == 1


def test_when_the_newest_change_fails_the_older_ones_fail_with_it(registry, store):
    names = add_objects(registry, 1)
    queue(registry, names, vectors(1))
    queue(registry, names, [np.zeros(DIMENSION, dtype=np.float32)])
    for _ in range(3):
        sync_embeddings(registry, store)
    assert outbox_counts(registry) == {"pending": 0, "synced": 0, "failed": 2}
    assert store.count() == 0


@pytest.mark.parametrize("chunk", [0, 2])
def test_killed_between_store_and_mark_the_next_sync_ends_as_if_undisturbed(registry, registry_url, index, chunk):
    names, embedded = add_objects(registry, 60), vectors(60)
    queue(registry, names, embedded)
    killed = subprocess.run(
        [sys.executable, "-c", SYNC, registry_url, str(index), str(chunk)],
        timeout=120,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert outbox_counts(registry)["pending"] == 60 - 20 * chunk
    queue(registry, names[:5])
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert store.count() == 20 * (chunk + 1)
        assert sync_embeddings(registry, store).pending == 0
        stored = store.get(names)
    assert sorted(stored) == names[5:]
    np.testing.assert_allclose(np.stack([stored[name] for name in names[5:]]), embedded[5:], rtol=1e-5)
    assert outbox_counts(registry) == {"pending": 0, "synced": 65, "failed": 0}


def test_two_processes_syncing_at_once_end_in_the_right_state(registry, registry_url, index):
    names, embedded = add_objects(registry, 120), vectors(120)
    queue(registry, names, embedded)
    queue(registry, names[:40])
    command = [sys.executable, "-c", SYNC, registry_url, str(index), "never"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert outbox_counts(registry) == {"pending": 0, "synced": 160, "failed": 0}
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert sorted(store.ids()) == names[40:]


def test_two_threads_syncing_at_once_end_in_the_right_state(registry, index):
    names = add_objects(registry, 200)
    queue(registry, names, vectors(200))
    queue(registry, names[:50])

    def sync() -> None:
        with ChromaStore(index, VERSION, DIMENSION) as store:
            sync_embeddings(registry, store, chunk=15)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(sync) for _ in range(3)]:
            future.result()
    assert outbox_counts(registry) == {"pending": 0, "synced": 250, "failed": 0}
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert sorted(store.ids()) == names[50:]


def test_reconciling_what_agrees_finds_nothing(registry, index):
    queue(registry, add_objects(registry, 5), vectors(5))
    with ChromaStore(index, VERSION, DIMENSION) as store:
        sync_embeddings(registry, store)
    report = reconcile(registry, opener(index))
    assert (report.missing_in_store, report.missing_in_registry, report.retried, report.repaired) == (0, 0, 0, 0)


def test_reconcile_writes_what_the_store_lost_with_its_newest_vector(registry, index):
    names, embedded = add_objects(registry, 30), vectors(30, seed=3)
    queue(registry, names, vectors(30, seed=1))
    queue(registry, names, embedded)
    with ChromaStore(index, VERSION, DIMENSION) as store:
        sync_embeddings(registry, store)
        store.delete(names[10:])
    report = reconcile(registry, opener(index))
    assert (report.missing_in_store, report.repaired, report.unsynced) == (20, 20, 0)
    with ChromaStore(index, VERSION, DIMENSION) as store:
        stored = store.get(names)
        np.testing.assert_allclose(np.stack([stored[name] for name in names]), embedded, rtol=1e-5)
    assert outbox_counts(registry) == {"pending": 0, "synced": 60, "failed": 0}


def test_reconcile_builds_a_lost_index_again(registry, index, tmp_path):
    names = add_objects(registry, 12)
    queue(registry, names, vectors(12))
    with ChromaStore(index, VERSION, DIMENSION) as store:
        sync_embeddings(registry, store)
    index.rename(tmp_path / "moved away")
    assert reconcile(registry, opener(index)).repaired == 12
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert sorted(store.ids()) == names


def test_reconcile_deletes_strangers_and_objects_that_are_no_longer_active(registry, index):
    names = add_objects(registry, 6)
    queue(registry, names, vectors(6))
    with ChromaStore(index, VERSION, DIMENSION) as store:
        sync_embeddings(registry, store)
        store.upsert(["obj_stranger"], vectors(1))
    set_state(registry, names[:1], "deleted")
    set_state(registry, names[1:2], "superseded")
    report = reconcile(registry, opener(index))
    assert (report.missing_in_registry, report.repaired) == (3, 3)
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert sorted(store.ids()) == names[2:]


def test_reconcile_brings_back_an_active_object_whose_delete_was_synced(registry, index):
    names, embedded = add_objects(registry, 2), vectors(2)
    queue(registry, names, embedded)
    queue(registry, names[:1])
    with ChromaStore(index, VERSION, DIMENSION) as store:
        sync_embeddings(registry, store)
    assert reconcile(registry, opener(index)).repaired == 1
    with ChromaStore(index, VERSION, DIMENSION) as store:
        np.testing.assert_allclose(store.get(names)[names[0]], embedded[0], rtol=1e-5)
        assert reconcile(registry, opener(index)).missing_in_store == 0


def test_reconcile_tries_failed_changes_again(registry, index):
    names = add_objects(registry, 3)
    queue(registry, names, vectors(3))
    with ChromaStore(index / "wrong", VERSION, DIMENSION + 1) as wrong:
        for _ in range(3):
            sync_embeddings(registry, wrong)
    assert outbox_counts(registry)["failed"] == 3
    report = reconcile(registry, opener(index))
    assert (report.retried, report.missing_in_store, report.unsynced) == (3, 0, 0)
    assert outbox_counts(registry) == {"pending": 0, "synced": 3, "failed": 0}


def test_reconcile_reports_what_the_store_still_refuses(registry, index):
    names = add_objects(registry, 3)
    queue(registry, names, [*vectors(2), np.zeros(DIMENSION, dtype=np.float32)])
    for _ in range(2):
        report = reconcile(registry, opener(index))
        assert (report.missing_in_store, report.missing_in_registry, report.unsynced) == (0, 0, 1)


def test_reconcile_covers_every_embedding_version(registry, index):
    names = add_objects(registry, 2)
    ensure_version(registry, "dinov2_base_v1", "dinov2-base", "dinov2", 4)
    queue(registry, names, vectors(2))
    with ChromaStore(index, "dinov2_base_v1", 4) as other:
        other.upsert(["obj_stranger"], np.ones((1, 4), dtype=np.float32))
    report = reconcile(registry, opener(index))
    assert (report.missing_in_registry, report.repaired) == (1, 1)
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert sorted(store.ids()) == names


def test_reconcile_killed_at_work_is_made_good_by_the_next(registry, registry_url, index):
    names = add_objects(registry, 60)
    queue(registry, names, vectors(60))
    with ChromaStore(index, VERSION, DIMENSION) as store:
        sync_embeddings(registry, store)
        store.delete(names)
        store.upsert(["obj_stranger"], vectors(1))
    script = SYNC.replace(
        "sync_embeddings(open_registry(url), store, chunk=20)", "reconcile(open_registry(url), opener)"
    )
    script = script.replace(
        "with ChromaStore", "opener = lambda *version: ChromaStore(Path(folder), *version)\nwith ChromaStore"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, registry_url, str(index), "0"], timeout=120, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    reconcile(registry, opener(index))
    with ChromaStore(index, VERSION, DIMENSION) as store:
        assert sorted(store.ids()) == names
    assert outbox_counts(registry) == {"pending": 0, "synced": 60, "failed": 0}


def test_reconciling_does_not_put_back_the_vector_of_a_stale_object_or_of_an_older_version(registry, index, store):
    stale, older, sound = add_objects(registry, 3)
    queue(registry, [stale, older, sound], vectors(3))
    sync_embeddings(registry, store)
    with registry.session() as session:
        session.execute(update(Object).where(Object.object_id == stale).values(is_stale=True))
        session.execute(update(Object).where(Object.object_id == older).values(embedding_version="another_v1"))
    report = reconcile(registry, opener(index))
    assert (report.missing_in_store, report.missing_in_registry) == (0, 2)
    assert list(store.ids()) == [sound]
    assert reconcile(registry, opener(index)).repaired == 0
