import numpy as np
import pyarrow as pa
import pytest

from al_dagster.labelling import quality
from al_dagster.registry.embedding_versions import list_versions


def planted(table: pa.Table, column: str, value: object, row: int = 0) -> pa.Table:
    rows = table.to_pylist()
    rows[row][column] = value
    return pa.Table.from_pylist(rows, schema=table.schema)


def dimensions(chain) -> dict[str, int]:
    return {version.version_id: version.dimension for version in list_versions(chain.registry)}


@pytest.fixture
def labelled(chain):
    chain.up_to("objects")
    return chain


def test_a_sound_batch_passes_every_rule(labelled):
    detections, frames, masks = (labelled.last(stage) for stage in ("detections", "frames", "masks"))
    verdicts = [
        quality.quarantined_share(labelled.last("sources")),
        quality.boxes_inside_image(detections, frames),
        quality.no_duplicate_boxes(detections),
        quality.masks_inside_boxes(masks, detections, frames, labelled.masks),
        quality.embeddings_well_formed(labelled.last("embeddings"), dimensions(labelled)),
    ]
    assert all(verdict.passed for verdict in verdicts), verdicts
    assert [verdict.figures.get("wrong", 0) for verdict in verdicts] == [0] * 5


def test_an_empty_batch_passes_every_rule(labelled):
    detections, frames, masks = (labelled.last(stage).slice(0, 0) for stage in ("detections", "frames", "masks"))
    assert quality.quarantined_share(labelled.last("sources").slice(0, 0)).passed
    assert quality.boxes_inside_image(detections, frames).passed
    assert quality.no_duplicate_boxes(detections).passed
    assert quality.masks_inside_boxes(masks, detections, frames, labelled.masks).passed
    assert quality.embeddings_well_formed(labelled.last("embeddings").slice(0, 0), {}).passed


def test_more_than_a_tenth_quarantined_fails(labelled):
    verdict = quality.quarantined_share(planted(labelled.last("sources"), "status", "quarantined"))
    assert (verdict.passed, verdict.figures["quarantined_share"]) == (False, 0.5)


@pytest.mark.parametrize(
    ("column", "value"), [("bbox_x", -1.0), ("bbox_y", 115.0), ("bbox_w", 200.0), ("bbox_h", 0.0), ("bbox_w", -3.0)]
)
def test_a_box_that_leaves_its_image_or_has_no_area_fails(labelled, column, value):
    detections = planted(labelled.last("detections"), column, value, row=2)
    verdict = quality.boxes_inside_image(detections, labelled.last("frames"))
    assert not verdict.passed
    assert verdict.figures == {"rows": 4, "wrong": 1, "first_wrong": detections["object_id"][2].as_py()}


def test_a_second_box_for_the_same_thing_fails(labelled):
    detections = labelled.last("detections")
    twice = pa.concat_tables([detections, detections.slice(0, 1)])
    twice = planted(planted(twice, "object_id", "obj_again", row=4), "bbox_x", twice["bbox_x"][0].as_py() + 0.1, row=4)
    verdict = quality.no_duplicate_boxes(twice)
    assert (verdict.passed, verdict.figures["wrong"], verdict.figures["first_wrong"]) == (False, 1, "obj_again")


def test_the_same_box_of_another_label_or_another_frame_is_no_duplicate(labelled):
    detections = labelled.last("detections")
    twice = pa.concat_tables([detections, detections.slice(0, 1), detections.slice(0, 1)])
    other_frame = detections["frame_id"][3].as_py()
    twice = planted(planted(twice, "label", "person", row=4), "frame_id", other_frame, row=5)
    assert quality.no_duplicate_boxes(twice).passed


@pytest.mark.parametrize("side", range(4))
def test_a_mask_one_pixel_outside_its_box_fails(labelled, side):
    detections, masks, frames = (labelled.last(stage) for stage in ("detections", "masks", "frames"))
    x, y, w, h = (detections[column][0].as_py() for column in ("bbox_x", "bbox_y", "bbox_w", "bbox_h"))
    left, top, right, bottom = np.floor(x), np.floor(y), np.ceil(x + w), np.ceil(y + h)
    touched = [left, top, left, bottom, right, bottom, right, top]
    outside = [[left - 1, top], [left, top - 1], [right + 1, top], [left, bottom + 1]][side]

    assert quality.masks_inside_boxes(planted(masks, "polygon", [touched]), detections, frames, labelled.masks).passed
    verdict = quality.masks_inside_boxes(
        planted(masks, "polygon", [touched + outside]), detections, frames, labelled.masks
    )
    assert (verdict.passed, verdict.figures["wrong"]) == (False, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("polygon", [[0.0, 0.0, 159.0, 0.0, 159.0, 119.0]]),
        ("polygon", []),
        ("area", 0.0),
        ("mask_path", "ab/cd/obj_missing-12345678.png"),
    ],
)
def test_a_mask_that_leaves_its_box_is_empty_or_has_no_file_fails(labelled, column, value):
    masks = planted(labelled.last("masks"), column, value)
    verdict = quality.masks_inside_boxes(masks, labelled.last("detections"), labelled.last("frames"), labelled.masks)
    assert (verdict.passed, verdict.figures["wrong"]) == (False, 1)


def test_a_vector_of_another_length_or_norm_fails(labelled):
    embeddings, known = labelled.last("embeddings"), dimensions(labelled)
    assert not quality.embeddings_well_formed(embeddings, {name: known[name] + 1 for name in known}).passed
    longer = planted(embeddings, "embedding", [value * 1.1 for value in embeddings["embedding"][0].as_py()])
    verdict = quality.embeddings_well_formed(longer, known)
    assert (verdict.passed, verdict.figures["wrong"]) == (False, 1)
    (dimension,) = known.values()
    for value in (0.0, float("nan")):
        assert not quality.embeddings_well_formed(planted(embeddings, "embedding", [value] * dimension), known).passed


def test_each_vector_is_held_against_the_version_that_it_was_made_with(labelled):
    embeddings = labelled.last("embeddings")
    older = planted(planted(embeddings, "embedding", [0.6, 0.8]), "version_id", "older_v1")
    assert quality.embeddings_well_formed(older, {**dimensions(labelled), "older_v1": 2}).passed
    verdict = quality.embeddings_well_formed(older, dimensions(labelled))
    assert (verdict.passed, verdict.figures["wrong"]) == (False, 1), "a version that nobody knows"
