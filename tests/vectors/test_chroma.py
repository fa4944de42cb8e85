import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from al_dagster.core import disk
from al_dagster.core.disk import DiskFullError
from al_dagster.core.errors import UserError
from al_dagster.vectors import chroma
from al_dagster.vectors.chroma import ChromaError, ChromaStore, ChromaStuckError
from al_dagster.vectors.protocols import VectorStore

DIMENSION = 8

WRITER = """
import sys
import numpy as np
from pathlib import Path
from al_dagster.vectors.chroma import ChromaStore

with ChromaStore(Path(sys.argv[1]), "hog_v1", 8) as store:
    store.upsert([sys.argv[2]], np.full((1, 8), float(sys.argv[3]), dtype=np.float32))
"""

KILLED_WRITER = """
import sys
import numpy as np
from pathlib import Path
from al_dagster.vectors.chroma import ChromaStore

store = ChromaStore(Path(sys.argv[1]), "hog_v1", 8)
vectors = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
for start in range(0, 10_000_000, 500):
    store.upsert([f"o{start + i}" for i in range(500)], vectors)
    print(start + 500, flush=True)
"""


def run_writer(folder: Path, object_id: str, value: float) -> None:
    subprocess.run([sys.executable, "-c", WRITER, str(folder), object_id, str(value)], check=True, timeout=120)


def unit_vectors(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    with ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION) as store:
        yield store


def test_a_stored_vector_is_its_own_nearest_neighbour_with_similarity_one(store):
    vectors = unit_vectors(200)
    store.upsert([f"o{i}" for i in range(200)], vectors)
    (first, similarity), *others = store.query(vectors[17], 5)
    assert first == "o17"
    assert similarity == pytest.approx(1.0, abs=1e-5)
    assert len(others) == 4


def test_similarity_is_the_cosine_and_falls_from_the_first_to_the_last(store):
    vectors = unit_vectors(50)
    store.upsert([f"o{i}" for i in range(50)], 3 * vectors)
    query = unit_vectors(1, seed=5)[0]
    found = store.query(query, 50)
    expected = {f"o{i}": float(vectors[i] @ query) for i in range(50)}
    assert {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()} == dict(found)
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)


def test_similarity_is_a_plain_float_within_minus_one_and_one(store):
    vector = np.full((1, DIMENSION), 0.1, dtype=np.float32)
    store.upsert(["same", "opposite"], np.concatenate([vector, -vector]))
    found = store.query(vector[0], 2)
    assert all(type(value) is float and -1.0 <= value <= 1.0 for _, value in found)
    assert [name for name, _ in found] == ["same", "opposite"]


def test_more_neighbours_than_there_are_gives_all_there_are(store):
    store.upsert(["a", "b"], unit_vectors(2))
    assert len(store.query(unit_vectors(1)[0], 100)) == 2


def test_an_empty_store_finds_nothing(store):
    assert store.query(unit_vectors(1)[0], 10) == []
    assert store.get(["a"]) == {}
    assert list(store.ids()) == []
    assert store.count() == 0


def test_empty_calls_change_nothing(store):
    store.upsert([], np.empty((0, DIMENSION), dtype=np.float32))
    store.delete([])
    assert store.get([]) == {}
    assert store.count() == 0


def test_upserting_again_replaces_the_vector(store):
    old, new = unit_vectors(2)
    store.upsert(["a"], old[None])
    store.upsert(["a"], new[None], [{"project": "parts", "category": "nut"}])
    assert store.count() == 1
    np.testing.assert_allclose(store.get(["a"])["a"], new, rtol=1e-5)


def test_get_returns_the_vectors_that_were_given_and_passes_over_unknown_ids(store):
    vectors = unit_vectors(20)
    store.upsert([f"o{i}" for i in range(20)], vectors)
    found = store.get(["o7", "nobody", "o3", "o7"])
    assert found.keys() == {"o3", "o7"}
    assert found["o7"].dtype == np.float32
    np.testing.assert_allclose(found["o7"], vectors[7], rtol=1e-5)


def test_deleting_twice_and_deleting_strangers_is_no_error(store):
    store.upsert(["a", "b"], unit_vectors(2))
    store.delete(["a", "nobody"])
    store.delete(["a"])
    assert list(store.ids()) == ["b"]


def test_more_vectors_than_one_chroma_call_takes_are_written_read_and_deleted(store):
    count = 6000
    ids = [f"o{i}" for i in range(count)]
    store.upsert(ids, unit_vectors(count))
    assert store.count() == count
    assert sorted(store.ids()) == sorted(ids)
    assert len(store.get(ids)) == count
    store.delete(ids[1:])
    assert list(store.ids()) == ["o0"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, DIMENSION), dtype=np.float64), "float32.*float64"),
        (np.ones((2, DIMENSION + 1), dtype=np.float32), r"\(2, 8\).*\(2, 9\)"),
        (np.ones((3, DIMENSION), dtype=np.float32), r"\(2, 8\).*\(3, 8\)"),
        (np.ones(DIMENSION, dtype=np.float32), r"\(2, 8\).*\(8,\)"),
        (np.full((2, DIMENSION), np.nan, dtype=np.float32), "finite"),
        (np.full((2, DIMENSION), np.inf, dtype=np.float32), "finite"),
        (np.zeros((2, DIMENSION), dtype=np.float32), "zero"),
        ([[1.0] * DIMENSION] * 2, "float32.*list"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_nothing_is_written(store, vectors, message):
    with pytest.raises(ValueError, match=message):
        store.upsert(["a", "b"], vectors)
    assert store.count() == 0


def test_an_id_that_comes_twice_is_refused(store):
    with pytest.raises(ValueError, match="unique"):
        store.upsert(["a", "a"], unit_vectors(2))


def test_metadata_must_come_for_each_id(store):
    with pytest.raises(ValueError, match="2 ids, got 1"):
        store.upsert(["a", "b"], unit_vectors(2), [{"project": "parts"}])


@pytest.mark.parametrize(
    ("vector", "n"),
    [
        (np.ones(DIMENSION - 1, dtype=np.float32), 5),
        (np.ones((1, DIMENSION), dtype=np.float32), 5),
        (np.ones(DIMENSION, dtype=np.float64), 5),
        (np.ones(DIMENSION, dtype=np.float32), 0),
    ],
)
def test_a_query_that_does_not_fit_is_refused(store, vector, n):
    with pytest.raises(ValueError, match=r"expected|at least 1"):
        store.query(vector, n)


def test_a_closed_store_can_be_opened_again_with_all_it_had(tmp_path):
    vectors = unit_vectors(30)
    with ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION) as store:
        store.upsert([f"o{i}" for i in range(30)], vectors)
        store.close()
    with ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION) as store:
        assert store.count() == 30
        assert store.query(vectors[4], 1)[0][0] == "o4"


def test_two_versions_in_one_folder_are_open_at_once_and_do_not_mix(tmp_path):
    with (
        ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION) as first,
        ChromaStore(tmp_path / "chroma", "dinov2_base_v1", 4, lock_timeout=0.1) as second,
    ):
        first.upsert(["a"], unit_vectors(1))
        second.upsert(["b"], unit_vectors(1, dimension=4))
        assert (list(first.ids()), list(second.ids())) == (["a"], ["b"])
        first.close()
        assert second.count() == 1


def test_a_version_cannot_change_its_dimension(tmp_path):
    ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION).close()
    with pytest.raises(ValueError, match="hog_v1 has vectors of dimension 8, not 9"):
        ChromaStore(tmp_path / "chroma", "hog_v1", 9)
    with FileLock(tmp_path / "chroma.lock", timeout=0):
        pass


@pytest.mark.parametrize(("version", "dimension"), [("a b", 8), ("", 8), ("v_", 8), ("hog_v1", 0)])
def test_a_version_that_chroma_could_not_name_is_refused(tmp_path, version, dimension):
    with pytest.raises(ValueError, match="got"):
        ChromaStore(tmp_path / "chroma", version, dimension)


def test_opening_while_another_process_has_the_index_names_the_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "chroma")], stdout=subprocess.PIPE, text=True
    )
    try:
        holder.stdout.readline()
        with pytest.raises(UserError, match=r"chroma\.lock: another process is writing"):
            ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION, lock_timeout=0.2)
    finally:
        holder.kill()
        holder.communicate()
    ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION, lock_timeout=5).close()


def test_a_store_opened_later_sees_what_another_process_wrote_meanwhile(tmp_path):
    folder = tmp_path / "chroma"
    with ChromaStore(folder, "hog_v1", DIMENSION) as store:
        store.upsert(["here"], unit_vectors(1))
        assert store.query(unit_vectors(1)[0], 10)
    run_writer(folder, "elsewhere", 0.5)
    with ChromaStore(folder, "hog_v1", DIMENSION) as store:
        assert set(store.ids()) == {"here", "elsewhere"}
        assert {name for name, _ in store.query(unit_vectors(1)[0], 10)} == {"here", "elsewhere"}
        store.delete(["elsewhere"])
    run_writer(folder, "elsewhere", 0.25)
    with ChromaStore(folder, "hog_v1", DIMENSION) as store:
        assert store.get(["elsewhere"])["elsewhere"][0] == pytest.approx(0.25)


def test_a_writer_killed_at_work_leaves_an_index_with_all_that_it_had_confirmed(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "chroma")], stdout=subprocess.PIPE, text=True
    )
    confirmed = 0
    while confirmed < 6000:
        confirmed = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    with ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION) as store:
        assert {f"o{i}" for i in range(confirmed)} <= set(store.ids())
        assert len(store.get([f"o{i}" for i in range(confirmed)])) == confirmed
        assert len(store.query(unit_vectors(1)[0], 10)) == 10


def test_a_call_that_does_not_return_is_given_up_and_the_index_can_be_opened_again(tmp_path):
    folder = tmp_path / "chroma"
    store = ChromaStore(folder, "hog_v1", DIMENSION, call_timeout=3)
    store.upsert(["a"], unit_vectors(1))
    os.kill(store.process_id, signal.SIGSTOP)
    with pytest.raises(ChromaStuckError, match="did not answer within 3 s and was given up"):
        store.count()
    store.close()
    with FileLock(tmp_path / "chroma.lock", timeout=0):
        pass
    with ChromaStore(folder, "hog_v1", DIMENSION) as again:
        assert list(again.ids()) == ["a"]


def test_a_store_whose_process_was_killed_says_so_and_the_next_one_works(tmp_path):
    folder = tmp_path / "chroma"
    with ChromaStore(folder, "hog_v1", DIMENSION) as store:
        store.upsert(["a"], unit_vectors(1))
        os.kill(store.process_id, signal.SIGKILL)
        with pytest.raises(ChromaError, match="its process ended with status -9"):
            store.count()
        with pytest.raises(ChromaError, match="is gone"):
            store.count()
    with ChromaStore(folder, "hog_v1", DIMENSION) as again:
        assert list(again.ids()) == ["a"]


def test_an_interrupted_call_does_not_give_its_answer_to_the_next(tmp_path):
    folder = tmp_path / "chroma"
    run_writer(folder, "a", 1.0)
    code = (
        WRITER
        + """
    import os, signal, threading
    os.kill(store.process_id, signal.SIGSTOP)
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        store.count()
    except KeyboardInterrupt:
        print("interrupted")
with ChromaStore(Path(sys.argv[1]), "hog_v1", 8) as store:
    print(sorted(store.ids()))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), "b", "0.5"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "interrupted\n['a', 'b']\n"


def test_a_store_on_a_disk_without_room_is_neither_made_nor_written(tmp_path, monkeypatch):
    with ChromaStore(tmp_path / "chroma", "hog_v1", DIMENSION) as store:
        store.upsert(["a"], unit_vectors(1))
        monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
        for write in (lambda: store.upsert(["b"], unit_vectors(1)), lambda: store.delete(["a"])):
            with pytest.raises(DiskFullError, match="the disk is full"):
                write()
        assert list(store.ids()) == ["a"]
    with pytest.raises(DiskFullError, match="the disk is full"):
        ChromaStore(tmp_path / "new", "hog_v1", DIMENSION)
    assert not (tmp_path / "new").exists()


def test_a_write_that_the_disk_refuses_is_a_full_disk_and_the_index_stands(tmp_path, monkeypatch):
    folder = tmp_path / "chroma"
    with ChromaStore(folder, "hog_v1", DIMENSION) as store:
        store.upsert(["a"], unit_vectors(1))
        # From now on its files cannot grow, as on a full disk.
        resource.prlimit(store.process_id, resource.RLIMIT_FSIZE, (4096, 4096))
        monkeypatch.setattr(chroma, "require_space", lambda path: None)
        monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
        with pytest.raises(DiskFullError, match="the disk is full"):
            store.upsert([f"o{i}" for i in range(2000)], unit_vectors(2000))
        with pytest.raises(ChromaError, match="is gone"):
            store.count()
    monkeypatch.undo()
    with ChromaStore(folder, "hog_v1", DIMENSION) as again:
        again.upsert(["b"], unit_vectors(1))
        assert {"a", "b"} <= set(again.ids())


def test_threads_share_one_folder(tmp_path):
    folder = tmp_path / "chroma"
    failures = []

    def write(number: int) -> None:
        try:
            for turn in range(3):
                with ChromaStore(folder, "hog_v1", DIMENSION) as store:
                    store.upsert([f"t{number}-{turn}"], unit_vectors(1, seed=number))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with ChromaStore(folder, "hog_v1", DIMENSION) as store:
        assert store.count() == 12


def test_a_folder_that_is_no_index_is_said_to_be_so(tmp_path):
    folder = tmp_path / "chroma"
    folder.mkdir()
    (folder / "chroma.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match="cannot be opened"):
        ChromaStore(folder, "hog_v1", DIMENSION)
    with FileLock(tmp_path / "chroma.lock", timeout=0):
        pass


def test_chroma_store_is_a_vector_store(store):
    typed: VectorStore = store
    assert (typed.version_id, typed.dimension) == ("hog_v1", DIMENSION)
