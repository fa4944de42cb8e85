from dataclasses import replace

import numpy as np

from al_dagster.labelling.quality import embeddings_well_formed


class Revised:
    """A segmenter of another revision."""

    def __init__(self, segmenter, revision: str) -> None:
        self.model_id, self.revision, self.segment = segmenter.model_id, revision, segmenter.segment
        self.images_per_call = segmenter.images_per_call


def test_every_mask_gets_a_vector_of_the_embedder_and_its_version(chain):
    table = chain.up_to("embeddings").table
    embedder = chain.models.embedder
    assert table["object_id"].to_pylist() == chain.last("masks")["object_id"].to_pylist()
    assert set(table["version_id"].to_pylist()) == {embedder.version_id}
    assert embeddings_well_formed(table, {embedder.version_id: embedder.dimension}).passed


def test_like_shapes_have_like_vectors(chain):
    rows = chain.up_to("embeddings").table.to_pylist()
    x = {row["object_id"]: row["bbox_x"] for row in chain.last("detections").to_pylist()}
    discs = np.array([row["embedding"] for row in rows if x[row["object_id"]] < 80])
    bars = np.array([row["embedding"] for row in rows if x[row["object_id"]] > 80])
    assert discs[0] @ discs[1] > (discs @ bars.T).max()


def test_vectors_are_not_made_again(chain):
    first = chain.up_to("embeddings")
    again = chain.embeddings()
    assert (again.computed, again.reused) == (0, 4)
    assert again.table.equals(first.table)


def test_a_new_mask_means_a_new_vector_and_the_same_mask_none(chain):
    chain.up_to("embeddings")
    chain.models = replace(chain.models, segmenter=Revised(chain.models.segmenter, "next"))
    chain.mask_table()
    assert chain.embeddings().computed == 4
