from functools import partial

import pytest

from al_dagster.core.errors import UserError
from al_dagster.labelling.index import index_vectors, outbox_drained, sync_all
from al_dagster.labelling.search import search_like
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import delete_objects
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
    assert outbox_drained(chain.registry, chain.key, result.table.num_rows).passed


def test_indexing_again_pushes_nothing(indexed):
    first = indexed()
    again = indexed()
    assert (again.computed, again.reused) == (0, 4)
    assert again.table.equals(first.table)


def test_the_outbox_is_not_drained_before_indexing_nor_after_a_later_change(chain, indexed):
    assert not outbox_drained(chain.registry, chain.key, 4).passed
    indexed()
    delete_objects(chain.registry, [list_objects(chain.registry)[0]["object_id"]], "ann")
    assert not outbox_drained(chain.registry, chain.key, 3).passed


def test_an_object_that_the_store_lost_fails_the_rule(chain, indexed):
    assert not outbox_drained(chain.registry, chain.key, indexed().table.num_rows - 1).passed


def test_an_object_that_a_person_deleted_leaves_the_store_when_the_batch_is_indexed_again(chain, indexed):
    indexed()
    gone = list_objects(chain.registry)[0]["object_id"]
    delete_objects(chain.registry, [gone], "ann")
    result = indexed()
    assert gone not in result.table["object_id"].to_pylist()
    assert outbox_drained(chain.registry, chain.key, result.table.num_rows).passed


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
