from dataclasses import replace
from functools import partial

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.schemas import VECTOR_INDEX
from al_dagster.labelling.index import index_vectors, outbox_drained, sync_all
from al_dagster.labelling.intake import take_folder
from al_dagster.labelling.search import search_like
from al_dagster.registry.objects import list_objects
from al_dagster.registry.outbox import pending_versions
from al_dagster.registry.review import delete_objects, edit_object, validate_objects
from al_dagster.vectors.chroma import ChromaStore


@pytest.fixture
def indexed(chain, home):
    chain.up_to("objects")
    open_store = partial(ChromaStore, home.settings.chroma_dir)

    def index():
        return index_vectors(chain.registry, open_store, chain.key)

    return index


def test_every_object_of_the_batch_is_in_the_store_and_the_outbox_is_drained(chain, indexed):
    result = indexed()
    assert set(result.table["object_id"].to_pylist()) == {row["object_id"] for row in list_objects(chain.registry)}
    assert (result.computed, result.reused) == (4, 0)
    assert outbox_drained(chain.registry, chain.key, result.table).passed


def test_indexing_again_pushes_nothing(indexed):
    first = indexed()
    again = indexed()
    assert (again.computed, again.reused) == (0, 4)
    assert again.table.equals(first.table)


def test_the_outbox_is_not_drained_before_indexing_nor_after_a_later_change(chain, indexed):
    assert not outbox_drained(chain.registry, chain.key, VECTOR_INDEX.empty_table()).passed
    result = indexed()
    delete_objects(chain.registry, [list_objects(chain.registry)[0]["object_id"]], "ann")
    assert not outbox_drained(chain.registry, chain.key, result.table).passed


def test_an_object_that_the_store_lost_fails_the_rule(chain, indexed):
    assert not outbox_drained(chain.registry, chain.key, indexed().table.slice(1)).passed


def test_an_object_that_a_person_deleted_leaves_the_store_when_the_batch_is_indexed_again(chain, indexed):
    indexed()
    gone = list_objects(chain.registry)[0]["object_id"]
    delete_objects(chain.registry, [gone], "ann")
    result = indexed()
    assert gone not in result.table["object_id"].to_pylist()
    assert outbox_drained(chain.registry, chain.key, result.table).passed


def test_a_deletion_that_was_pushed_since_fails_nothing(chain, indexed, home):
    result = indexed()
    delete_objects(chain.registry, [list_objects(chain.registry)[0]["object_id"]], "ann")
    sync_all(home.settings)
    assert outbox_drained(chain.registry, chain.key, result.table).passed


class Renamed:
    """An embedder whose vectors are of another version."""

    def __init__(self, embedder, version_id: str) -> None:
        self._embedder, self.version_id, self.revision = embedder, version_id, version_id

    def __getattr__(self, name: str):
        return getattr(self._embedder, name)


@pytest.mark.parametrize("touched", ["nobody", "validated", "moved", "deleted"])
def test_after_the_embedder_was_changed_nothing_waits_of_either_version(chain, indexed, touched):
    indexed()
    one = list_objects(chain.registry)[0]["object_id"]
    if touched == "validated":
        validate_objects(chain.registry, [one], "ann")
    elif touched == "moved":
        edit_object(chain.registry, one, "ann", bbox=(2.0, 3.0, 20.0, 30.0))
    elif touched == "deleted":
        delete_objects(chain.registry, [one], "ann")
    chain.models = replace(chain.models, embedder=Renamed(chain.models.embedder, "another"))
    chain.up_to("objects")
    result = indexed()
    assert outbox_drained(chain.registry, chain.key, result.table).passed
    assert pending_versions(chain.registry) == set()


def test_what_waits_of_an_earlier_batch_is_drained_with_the_next(chain, home):
    open_store = partial(ChromaStore, home.settings.chroma_dir)
    chain.up_to("objects")
    first, table = chain.key, index_vectors(chain.registry, open_store, chain.key).table
    deleted, moved, *_ = (row["object_id"] for row in list_objects(chain.registry))
    home.pictures(1, first=7)
    chain.key = take_folder(chain.registry, home.path / "images", chain.project, batch_size=256)[-1]
    chain.tables = {}
    chain.models = replace(chain.models, embedder=Renamed(chain.models.embedder, "another"))
    chain.up_to("objects")
    delete_objects(chain.registry, [deleted], "ann")
    edit_object(chain.registry, moved, "ann", bbox=(2.0, 3.0, 20.0, 30.0))
    second = index_vectors(chain.registry, open_store, chain.key)
    assert pending_versions(chain.registry) == set()
    assert outbox_drained(chain.registry, chain.key, second.table).passed
    assert outbox_drained(chain.registry, first, table).passed


def test_what_waits_in_the_outbox_can_be_pushed_without_its_batch(chain, home):
    chain.up_to("objects")
    assert sync_all(home.settings) == {"synced": 4, "failed": 0, "pending": 0}
    assert sync_all(home.settings) == {"synced": 0, "failed": 0, "pending": 0}


def test_like_an_object_are_first_the_objects_of_its_shape(chain, indexed, home):
    indexed()
    disc = next(row for row in list_objects(chain.registry) if row["category"] == "disc")
    hits = search_like(home.settings, disc["object_id"], top_k=3)
    assert hits[0]["category"] == "disc"
    assert disc["object_id"] not in {hit["object_id"] for hit in hits}
    assert hits[0]["file_path"].startswith(str(home.path / "images"))


def test_like_a_picture_are_first_the_objects_of_its_shape(indexed, home):
    indexed()
    picture = str(home.support / "bar" / "0.png")
    hits = search_like(home.settings, picture, top_k=2)
    assert [hit["category"] for hit in hits] == ["bar", "bar"]
    assert search_like(home.settings, picture, top_k=4, category="disc")[0]["category"] == "disc"


def test_a_search_that_cannot_be_made_says_why(chain, home, tmp_path):
    with pytest.raises(UserError, match="nothing is indexed yet"):
        search_like(home.settings, str(home.support / "bar" / "0.png"))
    chain.up_to("objects")
    with pytest.raises(UserError, match="there is no object 'obj_unknown'"):
        search_like(home.settings, "obj_unknown")
    text = tmp_path / "words.jpg"
    text.write_text("words")
    with pytest.raises(UserError, match="give an object id or a picture of one object"):
        search_like(home.settings, str(text))
    with pytest.raises(UserError, match="give an object id or a picture of one object"):
        search_like(home.settings, str(tmp_path / "nowhere.jpg"))
