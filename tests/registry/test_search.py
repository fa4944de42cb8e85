from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert, update

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig
from al_dagster.registry import search
from al_dagster.registry.embedding_versions import ensure_version
from al_dagster.registry.labelling import LabelledObject, register_batch
from al_dagster.registry.outbox import sync_embeddings
from al_dagster.registry.projects import save_project
from al_dagster.registry.queueing import queue_upserts
from al_dagster.registry.search import search_object, search_vectors
from al_dagster.registry.tables import Category, EmbeddingOutbox, Frame, Object, Source
from al_dagster.vectors.chroma import ChromaStore

VERSION = "hog_v1"
DIMENSION = 16
CATEGORIES = ("nut", "bolt", "washer")
COUNT = 300


def name(i: int) -> str:
    return f"obj_{i:04d}"


@pytest.fixture
def store(tmp_path):
    with ChromaStore(tmp_path / "chroma", VERSION, DIMENSION) as store:
        yield store


@pytest.fixture
def vectors(registry, store) -> np.ndarray:
    """300 searchable objects: categories by turns, even ones of project parts, confidence i / 300."""
    ensure_version(registry, VERSION, "opencv-hog-color", "hog", DIMENSION)
    vectors = np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).astype(np.float32)
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
    objects = [
        {
            "object_id": name(i),
            "source_id": "src_1",
            "category_id": 1 + i % 3,
            "project_id": "people" if i % 2 else "parts",
            "confidence": i / COUNT,
            "embedding_version": VERSION,
            **box,
        }
        for i in range(COUNT)
    ]
    with registry.session() as session:
        session.execute(insert(Source).values(source_id="src_1", source_type="image", group_key="src_1"))
        session.execute(insert(Category), [{"category_id": 1 + i, "name": each} for i, each in enumerate(CATEGORIES)])
        session.execute(insert(Object), objects)
        session.execute(
            insert(EmbeddingOutbox),
            [
                {
                    "object_id": name(i),
                    "version_id": VERSION,
                    "operation": "upsert",
                    "embedding": vectors[i].tobytes(),
                }
                for i in range(COUNT)
            ],
        )
    sync_embeddings(registry, store)
    return vectors


def by_similarity(vectors: np.ndarray, query: np.ndarray, keep) -> list[tuple[int, float]]:
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    return [(i, float(cosines[i])) for i in np.argsort(-cosines) if keep(i)]


@pytest.mark.parametrize(
    ("conditions", "keep"),
    [
        ({}, lambda i: True),
        ({"category": "bolt"}, lambda i: i % 3 == 1),
        ({"project": "parts"}, lambda i: i % 2 == 0),
        ({"min_confidence": 0.9}, lambda i: i / COUNT >= 0.9),
        ({"category": "nut", "project": "people", "min_confidence": 0.8}, lambda i: i % 6 == 3 and i / COUNT >= 0.8),
    ],
)
@pytest.mark.parametrize("top_k", [1, 5, 40])
@pytest.mark.parametrize("one_by_one", [0, 2000])
def test_the_nearest_objects_that_meet_the_conditions_are_found_in_order(
    registry, store, vectors, monkeypatch, conditions, keep, top_k, one_by_one
):
    monkeypatch.setattr(search, "COMPARED_ONE_BY_ONE", one_by_one)
    query = np.random.default_rng(7).normal(size=DIMENSION)
    hits = search_vectors(registry, store, query, top_k=top_k, **conditions)
    expected = by_similarity(vectors, query, keep)[:top_k]
    assert [hit.object["object_id"] for hit in hits] == [name(i) for i, _ in expected]
    assert [hit.similarity for hit in hits] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)


def test_a_hit_carries_the_objects_fields(registry, store, vectors):
    (hit,) = search_vectors(registry, store, vectors[4], top_k=1)
    assert hit.similarity == pytest.approx(1.0, abs=1e-5)
    assert {key: hit.object[key] for key in ("object_id", "category", "project_id", "state", "bbox_w")} == {
        "object_id": name(4),
        "category": "bolt",
        "project_id": "parts",
        "state": "active",
        "bbox_w": 9,
    }


@pytest.mark.parametrize("conditions", [{"category": "screw"}, {"project": "none"}, {"min_confidence": 1.0}])
def test_conditions_that_nothing_meets_give_an_empty_list(registry, store, vectors, conditions):
    assert search_vectors(registry, store, vectors[0], **conditions) == []


def test_an_empty_store_gives_an_empty_list(registry, store):
    ensure_version(registry, VERSION, "opencv-hog-color", "hog", DIMENSION)
    assert search_vectors(registry, store, np.ones(DIMENSION)) == []


def test_objects_that_are_not_active_are_not_found_even_before_the_index_has_followed(registry, store, vectors):
    with registry.session() as session:
        session.execute(update(Object).where(Object.object_id == name(0)).values(state="deleted"))
        session.execute(update(Object).where(Object.object_id == name(1)).values(state="superseded"))
    for i in (0, 1):
        assert name(i) not in {hit.object["object_id"] for hit in search_vectors(registry, store, vectors[i])}


def test_an_edited_category_counts_at_once(registry, store, vectors):
    with registry.session() as session:
        session.execute(update(Object).where(Object.object_id == name(0)).values(category_id=3))
    assert search_vectors(registry, store, vectors[0], category="washer")[0].object["object_id"] == name(0)


def test_an_object_finds_others_like_it_but_not_itself(registry, store, vectors):
    hits = search_object(registry, store, name(9), top_k=20)
    expected = by_similarity(vectors, vectors[9], lambda i: i != 9)[:20]
    assert [hit.object["object_id"] for hit in hits] == [name(i) for i, _ in expected]


def test_an_object_that_the_index_has_not_yet_is_searched_by_its_outbox_vector(registry, store, vectors):
    store.delete([name(9)])
    hits = search_object(registry, store, name(9), top_k=3)
    expected = by_similarity(vectors, vectors[9], lambda i: i != 9)[:3]
    assert [hit.object["object_id"] for hit in hits] == [name(i) for i, _ in expected]


def test_asking_for_more_than_there_are_gives_all(registry, store, vectors):
    assert len(search_vectors(registry, store, vectors[0], top_k=1000)) == COUNT


def test_an_unknown_object_is_said_to_be_so(registry, store, vectors):
    with pytest.raises(UserError, match="obj_nobody"):
        search_object(registry, store, "obj_nobody")


def test_an_object_without_an_embedding_is_said_to_be_so(registry, store, vectors):
    with registry.session() as session:
        box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
        session.execute(insert(Object).values(object_id="obj_bare", source_id="src_1", **box))
    with pytest.raises(UserError, match="obj_bare has no embedding of version hog_v1"):
        search_object(registry, store, "obj_bare")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(DIMENSION + 1), r"shape \(17,\), but embeddings of hog_v1 have \(16,\)"),
        (np.ones((1, DIMENSION)), r"shape \(1, 16\)"),
        (np.zeros(DIMENSION), "not all zero"),
        (np.full(DIMENSION, np.nan), "finite"),
        (["a"] * DIMENSION, "16 numbers"),
    ],
)
def test_a_vector_that_does_not_fit_is_said_to_be_so(registry, store, vectors, vector, message):
    with pytest.raises(UserError, match=message):
        search_vectors(registry, store, vector)


def test_searching_for_less_than_one_object_is_refused(registry, store, vectors):
    with pytest.raises(UserError, match="at least 1, got 0"):
        search_vectors(registry, store, vectors[0], top_k=0)


def test_before_anything_was_embedded_the_search_says_so(registry, store):
    with pytest.raises(UserError, match="'hog_v1' is not in the registry; known: none"):
        search_vectors(registry, store, np.ones(DIMENSION))


def test_the_index_is_a_folder_that_outlives_the_process_state(registry, store, vectors, tmp_path: Path):
    store.close()
    with ChromaStore(tmp_path / "chroma", VERSION, DIMENSION) as opened:
        assert search_vectors(registry, opened, vectors[5], top_k=1)[0].object["object_id"] == name(5)


def test_a_registered_batch_is_found_after_its_embeddings_are_synced(registry, store):
    ensure_version(registry, VERSION, "opencv-hog-color", "hog", DIMENSION)
    save_project(registry, ProjectConfig(name="parts", classes=("nut", "bolt")))
    vectors = np.random.default_rng(3).normal(size=(20, DIMENSION)).astype(np.float32)
    with registry.session() as session:
        session.execute(insert(Source).values(source_id="src_1", source_type="image", group_key="src_1"))
        session.execute(insert(Frame).values(frame_id="frm_1", source_id="src_1", frame_idx=0))
    labels = [
        LabelledObject(
            object_id=name(i),
            frame_id="frm_1",
            source_id="src_1",
            category="nut" if i < 12 else "bolt",
            bbox=(20.0 * i, 0.0, 15.0, 15.0),
            confidence=0.5 + i / 100,
            detection_model="proposals@1",
            embedding=vectors[i],
            embedding_version=VERSION,
        )
        for i in range(20)
    ]
    batch = {"project_id": "parts", "batch_key": "parts--1", "run_id": "run-1", "frame_ids": ["frm_1"]}
    register_batch(registry, objects=labels, **batch)
    assert sync_embeddings(registry, store).synced == 20
    (hit,) = search_vectors(registry, store, vectors[15], top_k=1)
    assert (hit.object["object_id"], hit.object["category"]) == (name(15), "bolt")
    nuts = search_object(registry, store, name(15), top_k=20, category="nut", project="parts", min_confidence=0.55)
    assert {found.object["object_id"] for found in nuts} == {name(i) for i in range(5, 12)}
    register_batch(registry, objects=labels[:10], **batch)
    assert sync_embeddings(registry, store).synced == 10
    assert sorted(store.ids()) == [name(i) for i in range(10)]


def test_stale_objects_are_not_found_and_cannot_be_searched_by(registry, store, vectors):
    with registry.session() as session:
        session.execute(update(Object).where(Object.object_id.in_([name(0), name(1)])).values(is_stale=True))
    for conditions in ({}, {"category": "nut"}, {"project": "parts"}):
        found = {
            hit.object["object_id"] for hit in search_vectors(registry, store, vectors[0], top_k=COUNT, **conditions)
        }
        assert found
        assert not found & {name(0), name(1)}
    with pytest.raises(UserError, match="obj_0000 was moved by a person and its vector is not made anew yet: run"):
        search_object(registry, store, name(0))


def test_an_object_whose_new_vector_is_not_in_the_index_yet_is_not_found_by_its_old_one(registry, store, vectors):
    with registry.session() as session:
        queue_upserts(session, {}, {(name(0), VERSION): vectors[1]})
    for conditions in ({}, {"category": "nut"}, {"project": "parts"}):
        found = [hit.object["object_id"] for hit in search_vectors(registry, store, vectors[0], top_k=3, **conditions)]
        assert found
        assert name(0) not in found
    (nearest,) = search_object(registry, store, name(0), top_k=1)
    assert (nearest.object["object_id"], nearest.similarity) == (name(1), pytest.approx(1, abs=1e-5))
    sync_embeddings(registry, store)
    assert {hit.object["object_id"] for hit in search_vectors(registry, store, vectors[1], top_k=2)} == {
        name(0),
        name(1),
    }


def test_an_object_that_has_a_vector_of_another_version_by_now_is_not_found_by_its_old_one(registry, store, vectors):
    ensure_version(registry, "hog_v2", "opencv-hog-color", "hog", DIMENSION)
    with registry.session() as session:
        session.execute(update(Object).where(Object.object_id == name(0)).values(embedding_version="hog_v2"))
        queue_upserts(session, {}, {(name(0), "hog_v2"): vectors[0]})
    assert name(0) in store.ids()
    assert name(0) not in {hit.object["object_id"] for hit in search_vectors(registry, store, vectors[0])}
