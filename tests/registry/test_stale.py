"""Objects that wait for mask and vector."""

import numpy as np
import pytest

from al_dagster.registry.objects import get_object
from al_dagster.registry.review import delete_objects, edit_object, validate_objects
from al_dagster.registry.stale import Renewal, renew_objects, stale_objects, stale_projects
from al_dagster.registry.tables import EmbeddingOutbox

VECTOR = np.eye(4, dtype=np.float32)[1]
MASK = {"mask_path": "a1/b2/new.png", "polygon": [[1.0, 1.0, 2.0, 1.0, 2.0, 2.0]], "area": 4.0, "mask_score": 0.5}


@pytest.fixture
def found(register, label, frame):
    """Three objects with a vector of tiny_v1; their ids."""
    vector = np.eye(4, dtype=np.float32)[0]
    labels = [
        label(frame, (x, 0, 50, 50), embedding=vector, embedding_version="tiny_v1", mask_path=f"a1/b2/{x}.png")
        for x in (0.0, 100.0, 200.0)
    ]
    register(*labels)
    return [one.object_id for one in labels]


def waiting(registry, version="tiny_v1", **only) -> set[str]:
    return {one.object_id for one in stale_objects(registry, "parts", version, **only)}


def test_a_moved_object_waits_as_it_stands(registry, found, frame):
    assert waiting(registry) == set()
    edit_object(registry, found[0], "Ada", bbox=(5, 0, 45, 50))
    (one,) = stale_objects(registry, "parts", "tiny_v1")
    stands = get_object(registry, found[0])
    assert (one.object_id, one.frame_id, one.frame_idx, one.is_stale) == (found[0], frame, 0, True)
    assert (one.source_id, one.box, one.mask_path) == (stands["source_id"], (5, 0, 45, 50), None)
    assert stale_objects(registry, "people", "tiny_v1") == []


def test_only_those_asked_for_and_active_wait(registry, found):
    for name in found:
        edit_object(registry, name, "Ada", bbox=(5, 0, 45, 50))
    assert waiting(registry, object_ids=[found[0], found[0], "obj_x"]) == {found[0]}
    assert waiting(registry, object_ids=[]) == set()
    delete_objects(registry, [found[1]], "Ada")
    assert waiting(registry) == {found[0], found[2]}


def test_what_labelling_again_leaves_alone_waits_where_its_vector_is_of_another_version(registry, found):
    validate_objects(registry, [found[0]], "Ada")
    edit_object(registry, found[1], "Ada", is_difficult=True)
    assert waiting(registry) == set()
    assert waiting(registry, "tiny_v2") == set(found[:2])
    assert not any(one.is_stale for one in stale_objects(registry, "parts", "tiny_v2"))


def test_the_hash_of_a_project_changes_with_each_move_and_with_which_objects_wait(registry, found):
    assert stale_projects(registry) == {}
    seen = set()
    for box in ((5, 0, 45, 50), (6, 0, 45, 50), (5, 0, 45, 50)):
        edit_object(registry, found[0], "Ada", bbox=box)
        assert stale_projects(registry) == stale_projects(registry)
        seen.add(stale_projects(registry)["parts"])
    edit_object(registry, found[1], "Ada", bbox=(5, 0, 45, 50))
    seen.add(stale_projects(registry)["parts"])
    assert len(seen) == 4
    for name in found[:2]:
        delete_objects(registry, [name], "Ada")
    assert stale_projects(registry) == {}


def test_a_renewed_object_has_its_mask_and_a_queued_vector(registry, found):
    edit_object(registry, found[0], "Ada", bbox=(5, 0, 45, 50))
    (one,) = stale_objects(registry, "parts", "tiny_v1")
    assert renew_objects(registry, [Renewal(one, MASK, "tiny_v1", VECTOR)]) == [found[0]]
    stands = get_object(registry, found[0])
    assert {name: stands[name] for name in MASK} == MASK
    assert (stands["is_stale"], stands["validated_by"]) == (False, "Ada")
    with registry.reader() as session:
        rows = session.query(EmbeddingOutbox).filter_by(object_id=found[0]).order_by(EmbeddingOutbox.id).all()
    assert [row.operation for row in rows] == ["upsert", "delete", "upsert"]
    assert rows[-1].embedding == VECTOR.tobytes()
    assert waiting(registry) == set()


@pytest.mark.parametrize("meanwhile", ["moved", "deleted", "renewed"])
def test_an_object_that_changed_meanwhile_is_not_renewed(registry, found, contents, meanwhile):
    edit_object(registry, found[0], "Ada", bbox=(5, 0, 45, 50))
    (one,) = stale_objects(registry, "parts", "tiny_v1")
    if meanwhile == "moved":
        edit_object(registry, found[0], "Ben", bbox=(6, 0, 45, 50))
    elif meanwhile == "deleted":
        delete_objects(registry, [found[0]], "Ben")
    else:
        renew_objects(registry, [Renewal(one, {**MASK, "area": 5.0}, "tiny_v1", VECTOR)])
    before = contents()
    assert renew_objects(registry, [Renewal(one, MASK, "tiny_v1", VECTOR)]) == []
    assert contents() == before


def test_a_vector_that_does_not_fit_its_version_renews_nothing(registry, found, contents):
    edit_object(registry, found[0], "Ada", bbox=(5, 0, 45, 50))
    (one,) = stale_objects(registry, "parts", "tiny_v1")
    before = contents()
    with pytest.raises(ValueError, match="must have shape"):
        renew_objects(registry, [Renewal(one, MASK, "tiny_v1", np.ones(3, np.float32))])
    assert contents() == before
