"""Masks and vectors of objects whose box a person moved."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from al_dagster.core.errors import UserError
from al_dagster.labelling.index import index_vectors, outbox_drained, sync_all
from al_dagster.labelling.masks import corners
from al_dagster.labelling.refresh import refresh_objects
from al_dagster.labelling.search import search_like
from al_dagster.media.reading import read_image
from al_dagster.registry.masks import MaskStore
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.outbox import outbox_counts, reconcile
from al_dagster.registry.review import delete_objects, edit_object, validate_objects
from al_dagster.registry.sources import get_source
from al_dagster.registry.tables import BatchFile, EmbeddingOutbox
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision.crops import crop_object
from al_dagster.vision.hog_color import HogColorEmbedder

MAX_PIXELS = 10_000_000


class Acting:
    """A segmenter beside which something happens at each call."""

    def __init__(self, segmenter, act) -> None:
        self._segmenter, self._act = segmenter, act
        self.model_id, self.revision, self.images_per_call = segmenter.model_id, segmenter.revision, 1

    def segment(self, images, boxes):
        self._act()
        return self._segmenter.segment(images, boxes)


@pytest.fixture
def refresh(chain):
    def run(models=None, object_ids=None):
        return refresh_objects(
            chain.registry,
            chain.project,
            models or chain.models,
            chain.masks,
            max_pixels=MAX_PIXELS,
            object_ids=object_ids,
        )

    return run


@pytest.fixture
def discs(chain):
    """The objects of two pictures are registered and indexed; the two discs."""
    chain.up_to("objects")
    return [row for row in list_objects(chain.registry) if row["category"] == "disc"]


def moved(row) -> tuple[float, float, float, float]:
    """The left part of an object's box."""
    return row["bbox_x"], row["bbox_y"], row["bbox_w"] - 9, row["bbox_h"]


def move(chain, row) -> None:
    edit_object(chain.registry, row["object_id"], "ann", bbox=moved(row))


def newest(chain, object_id: str) -> tuple[str, str, bytes | None]:
    with chain.registry.reader() as session:
        row = session.query(EmbeddingOutbox).filter_by(object_id=object_id).order_by(EmbeddingOutbox.id.desc()).first()
        return row.version_id, row.operation, row.embedding


def test_mask_and_vector_are_of_what_the_new_box_shows(chain, refresh, discs):
    before = discs[0]
    move(chain, before)
    done = refresh()
    assert (done.refreshed, done.changed, done.unreadable) == (1, 0, {})
    stands = get_object(chain.registry, before["object_id"])
    image = read_image(get_source(chain.registry, before["source_id"])["file_path"], max_pixels=MAX_PIXELS)
    box = corners([stands])
    mask = chain.models.segmenter.segment([image], [box])[0][0]
    vector = chain.models.embedder.embed([crop_object(image, box[0], mask)])[0]
    assert (stands["is_stale"], stands["area"]) == (False, mask.area)
    assert 0 < stands["area"] < before["area"]
    assert stands["mask_path"] != before["mask_path"]
    height, width = image.shape[:2]
    np.testing.assert_array_equal(MaskStore(chain.masks.root).read(stands["mask_path"]), mask.full(width, height))
    assert max(stands["polygon"][0][::2]) <= moved(before)[0] + moved(before)[2]
    assert newest(chain, before["object_id"]) == (chain.models.embedder.version_id, "upsert", vector.tobytes())
    assert (stands["is_validated"], stands["validated_by"], stands["category"]) == (True, "ann", "disc")


def test_with_nothing_waiting_nothing_is_done(chain, refresh, discs):
    assert refresh().refreshed == 0
    move(chain, discs[0])
    assert refresh().refreshed == 1
    before = get_object(chain.registry, discs[0]["object_id"]), outbox_counts(chain.registry)

    def fail() -> None:
        raise AssertionError("nothing is to be segmented")

    assert refresh(replace(chain.models, segmenter=Acting(chain.models.segmenter, fail))).refreshed == 0
    assert (get_object(chain.registry, discs[0]["object_id"]), outbox_counts(chain.registry)) == before


def test_only_the_objects_that_are_asked_for_are_refreshed_and_no_deleted_one(chain, refresh, discs):
    for row in discs:
        move(chain, row)
    assert refresh(object_ids=[discs[1]["object_id"], "obj_unknown"]).refreshed == 1
    assert get_object(chain.registry, discs[0]["object_id"])["is_stale"] is True
    delete_objects(chain.registry, [discs[0]["object_id"]], "ann")
    assert refresh().refreshed == 0


@pytest.mark.parametrize(("harm", "reason"), [("removed", "has vanished"), ("overwritten", "has changed since")])
def test_an_object_whose_image_is_not_there_as_it_was_goes_on_waiting_and_others_do_not(
    chain, refresh, discs, shapes, save_picture, harm, reason
):
    for row in discs:
        move(chain, row)
    path = Path(get_source(chain.registry, discs[0]["source_id"])["file_path"])
    kept = path.read_bytes()
    if harm == "removed":
        path.unlink()
    else:
        save_picture(path, shapes(77))
    done = refresh()
    assert (done.refreshed, list(done.unreadable)) == (1, [discs[0]["object_id"]])
    assert f"{path} {reason}" in done.unreadable[discs[0]["object_id"]]
    stands = get_object(chain.registry, discs[0]["object_id"])
    assert (stands["is_stale"], stands["mask_path"]) == (True, None)
    path.write_bytes(kept)
    assert refresh().refreshed == 1


def test_any_file_that_holds_the_content_serves(chain, refresh, discs, tmp_path):
    move(chain, discs[0])
    path = Path(get_source(chain.registry, discs[0]["source_id"])["file_path"])
    other = tmp_path / "elsewhere.png"
    path.rename(other)
    with chain.registry.session() as session:
        values = {"batch_key": chain.key, "project_id": "shapes", "source_id": discs[0]["source_id"]}
        size = other.stat().st_size
        session.add(BatchFile(file_path=str(other), size_bytes=size, mtime_ns=1, status="duplicate", **values))
    assert refresh().refreshed == 1


def test_a_box_that_is_moved_again_meanwhile_is_not_given_the_mask_of_the_one_before(chain, refresh, discs):
    row = discs[0]
    move(chain, row)
    again = (row["bbox_x"] + 3, row["bbox_y"], row["bbox_w"] - 3, row["bbox_h"])
    acting = Acting(chain.models.segmenter, lambda: edit_object(chain.registry, row["object_id"], "ben", bbox=again))
    done = refresh(replace(chain.models, segmenter=acting))
    assert (done.refreshed, done.changed) == (0, 1)
    stands = get_object(chain.registry, row["object_id"])
    assert (stands["is_stale"], stands["mask_path"], stands["bbox_x"]) == (True, None, again[0])
    assert newest(chain, row["object_id"])[1] == "delete"
    assert refresh().refreshed == 1


def test_what_a_person_deletes_meanwhile_gets_no_vector(chain, refresh, discs):
    row = discs[0]
    move(chain, row)
    acting = Acting(chain.models.segmenter, lambda: delete_objects(chain.registry, [row["object_id"]], "ben"))
    assert refresh(replace(chain.models, segmenter=acting)).changed == 1
    assert newest(chain, row["object_id"])[1] == "delete"


def test_a_refresh_that_dies_half_way_is_completed_by_the_next(chain, refresh, discs):
    for row in discs:
        move(chain, row)
    calls = iter(range(9))

    def die() -> None:
        if next(calls):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(replace(chain.models, segmenter=Acting(chain.models.segmenter, die)))
    assert sorted(get_object(chain.registry, row["object_id"])["is_stale"] for row in discs) == [False, True]
    assert refresh().refreshed == 1
    assert not any(get_object(chain.registry, row["object_id"])["is_stale"] for row in discs)


def test_a_stale_object_is_in_no_search_until_it_is_refreshed(chain, refresh, discs, home):
    first, second = (row["object_id"] for row in discs)
    sync_all(home.settings)

    def found() -> set[str]:
        return {hit["object_id"] for hit in search_like(home.settings, second, top_k=9)}

    assert first in found()
    move(chain, discs[0])
    assert first not in found()
    with pytest.raises(UserError, match=f"{first} was moved by a person .* run `al objects refresh`"):
        search_like(home.settings, first)
    open_store = partial(ChromaStore, home.settings.chroma_dir)
    reconcile(chain.registry, open_store)
    with open_store(chain.models.embedder.version_id, chain.models.embedder.dimension) as store:
        assert first not in set(store.ids())
    result = index_vectors(chain.registry, open_store, chain.key)
    assert first not in result.table["object_id"].to_pylist()
    assert outbox_drained(chain.registry, chain.key, result.table).passed
    refresh()
    sync_all(home.settings)
    assert first in found()
    assert second in {hit["object_id"] for hit in search_like(home.settings, first, top_k=9)}


def test_labelling_again_by_another_revision_moves_the_vectors_and_search_never_mixes(chain, refresh, discs, home):
    old, new = chain.models.embedder, HogColorEmbedder("99.0")
    kept, follows = (row["object_id"] for row in discs)
    validate_objects(chain.registry, [kept], "ann")
    open_store = partial(ChromaStore, home.settings.chroma_dir)
    index_vectors(chain.registry, open_store, chain.key)

    def held() -> list[set[str]]:
        found = []
        for embedder in (old, new):
            with open_store(embedder.version_id, embedder.dimension) as store:
                found.append(set(store.ids()))
        return found

    everything = {row["object_id"] for row in list_objects(chain.registry)}
    assert held() == [everything, set()]
    chain.models = replace(chain.models, embedder=new)
    assert chain.embeddings().computed == 4
    chain.classifications()
    chain.objects("again")
    result = index_vectors(chain.registry, open_store, chain.key)
    assert held() == [{kept}, everything - {kept}]
    assert outbox_drained(chain.registry, chain.key, result.table).passed
    reconcile(chain.registry, open_store)
    assert held() == [{kept}, everything - {kept}]
    assert {hit["object_id"] for hit in search_like(home.settings, follows, top_k=9)} == everything - {kept, follows}
    assert search_like(home.settings, kept, top_k=9) == []

    mask = get_object(chain.registry, kept)["mask_path"]
    assert refresh().refreshed == 1
    assert refresh().refreshed == 0
    stands = get_object(chain.registry, kept)
    assert (stands["mask_path"], stands["embedding_version"], stands["validated_by"]) == (mask, new.version_id, "ann")
    sync_all(home.settings)
    assert held() == [set(), everything]
    with pytest.raises(UserError, match=f"vectors of {new.version_id}, which this machine cannot make of a picture"):
        search_like(home.settings, str(home.support / "bar" / "0.png"))
