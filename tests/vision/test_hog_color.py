import cv2
import numpy as np
import pytest

from al_dagster.vision.crops import crop_object
from al_dagster.vision.hog_color import WEIGHTS, HogColorEmbedder, aligned
from al_dagster.vision.protocols import Mask


def _drawn(corners, angle, color=(180, 170, 160), aspect=1.0):
    """A crop of a regular polygon, or an ellipse where corners is 0, turned by an angle in degrees."""
    pixels = np.zeros((160, 160), np.uint8)
    if corners:
        turns = np.arange(corners) * 2 * np.pi / corners
        points = np.stack([np.cos(turns) * 60, np.sin(turns) * 60 * aspect], axis=1)
    else:
        turns = np.linspace(0, 2 * np.pi, 90)
        points = np.stack([np.cos(turns) * 60, np.sin(turns) * 60 * aspect], axis=1)
    tilt = np.radians(angle)
    rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    cv2.fillPoly(pixels, [np.round(points @ rotation + 80).astype(np.int32)], 1)
    image = np.full((160, 160, 3), color, np.uint8)
    return crop_object(image, np.array([0, 0, 160, 160]), Mask(pixels.astype(bool), 0, 0, 1.0))


def test_vectors_have_length_one_and_the_promised_shape():
    embedder = HogColorEmbedder()
    crops = [np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (1, 2, 7, 300)]
    vectors = embedder.embed(crops)
    assert vectors.shape == (4, embedder.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(vectors).all()


def test_each_group_of_features_has_its_share_of_a_vector():
    embedder = HogColorEmbedder()
    assert len(embedder.groups) == len(WEIGHTS)
    vectors = embedder.embed([np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)])
    lengths = [np.linalg.norm(part) for part in np.split(vectors[0], np.cumsum(embedder.groups)[:-1])]
    assert lengths == pytest.approx(np.array(list(WEIGHTS.values())) / np.linalg.norm(list(WEIGHTS.values())), abs=1e-5)


def test_the_embedding_version_is_another_for_each_revision():
    first, same, other = HogColorEmbedder(), HogColorEmbedder(cv2.__version__), HogColorEmbedder("4.0.0")
    assert (first.version_id, first.revision) == (same.version_id, same.revision)
    assert first.revision != other.revision
    assert {each.version_id for each in (first, other)} == {f"hog_color_{each.revision}" for each in (first, other)}


def test_no_crops_give_no_vectors():
    embedder = HogColorEmbedder()
    assert embedder.embed([]).shape == (0, embedder.dimension)


@pytest.mark.parametrize("angle", [17, 45, 90, 133])
def test_a_turned_bar_is_more_like_itself_than_like_another_shape(angle):
    bar, turned, disc = HogColorEmbedder().embed([_drawn(4, 0, aspect=0.3), _drawn(4, angle, aspect=0.3), _drawn(0, 0)])
    assert bar @ turned > 0.9
    assert bar @ turned > bar @ disc + 0.2


@pytest.mark.parametrize("angle", [0, 10, 25, 31, 44])
def test_a_hexagon_is_told_from_a_disc_by_a_hexagon_in_a_few_turns(angle):
    embedder = HogColorEmbedder()
    examples = embedder.embed([_drawn(6, turn) for turn in range(0, 60, 15)])
    turned, disc = embedder.embed([_drawn(6, angle), _drawn(0, 0)])
    assert (examples @ turned).max() > (examples @ disc).max() + 0.05


def test_a_round_thing_is_left_as_it_lies():
    level, tilted = (aligned(_drawn(6, angle))[1] for angle in (0, 30))
    assert np.array_equal(level, aligned(_drawn(6, 0))[1])
    assert (level != tilted).mean() > 0.03


def test_another_colour_is_less_alike():
    grey, same, gold = HogColorEmbedder().embed([_drawn(6, 0), _drawn(6, 0), _drawn(6, 0, (200, 150, 20))])
    assert grey @ same > grey @ gold


def test_the_same_crop_gives_the_same_vector_in_any_batch():
    embedder = HogColorEmbedder()
    alone = embedder.embed([_drawn(6, 10)])
    together = embedder.embed([_drawn(0, 0), _drawn(6, 10)])
    assert np.array_equal(alone[0], together[1])
