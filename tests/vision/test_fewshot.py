import os

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from al_dagster.core.errors import UserError
from al_dagster.core.project import UNKNOWN
from al_dagster.media.reading import read_image
from al_dagster.vision.crops import NEUTRAL, crop_object, silhouette
from al_dagster.vision.fewshot import (
    REVISION,
    TURN_STEP,
    SupportSet,
    build_support,
    classify,
    example_files,
    picture_crops,
    turned,
)
from al_dagster.vision.grabcut import GrabCutSegmenter
from al_dagster.vision.hog_color import WEIGHTS, HogColorEmbedder
from al_dagster.vision.protocols import Mask


def _unit(*rows):
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


SUPPORT = SupportSet({"a": _unit([1, 0, 0], [1, 0.2, 0]), "b": _unit([0, 1, 0])})


def test_an_object_takes_the_class_it_is_most_like():
    labels = [result.label for result in classify(_unit([1, 0.1, 0], [0.1, 1, 0]), SUPPORT, 0.5)]
    assert labels == ["a", "b"]


def test_a_score_equal_to_the_threshold_is_accepted_and_one_above_is_not():
    vector = _unit([0.9, 0.3, 0.4])
    score = classify(vector, SUPPORT, -1.0)[0].score
    assert classify(vector, SUPPORT, score)[0].label == "a"
    assert classify(vector, SUPPORT, float(np.nextafter(score, 2)))[0].label == UNKNOWN


def test_a_margin_equal_to_the_least_is_accepted_and_one_above_is_not():
    vector = _unit([0.9, 0.5, 0])
    margin = classify(vector, SUPPORT, -1.0)[0].margin
    assert classify(vector, SUPPORT, -1.0, min_margin=margin)[0].label == "a"
    assert classify(vector, SUPPORT, -1.0, min_margin=float(np.nextafter(margin, 2)))[0].label == UNKNOWN


def test_the_score_is_the_mean_of_the_nearest_examples():
    support = SupportSet({"a": _unit([1, 0, 0], [0, 1, 0], [0, 0, 1])})
    vector = _unit([1, 0, 0])
    assert [classify(vector, support, 0.0, top_k=k)[0].score for k in (1, 2, 3, 9)] == pytest.approx(
        [1, 1 / 2, 1 / 3, 1 / 3]
    )


def test_what_is_nearest_to_the_background_is_unknown():
    support = SupportSet({"a": _unit([1, 0, 0])}, background=_unit([0, 1, 0]))
    assert [result.label for result in classify(_unit([1, 0.9, 0], [0.9, 1, 0]), support, 0.0)] == ["a", UNKNOWN]


@given(st.floats(-1, 1), st.floats(0, 2), st.integers(1, 5), st.integers(0, 10_000))
def test_a_stricter_threshold_only_makes_more_unknown(threshold, margin, top_k, seed):
    rng = np.random.default_rng(seed)
    support = SupportSet({name: _unit(*rng.normal(size=(3, 4))) for name in "abc"})
    vectors = _unit(*rng.normal(size=(5, 4)))
    free = classify(vectors, support, -1.0, top_k)
    strict = classify(vectors, support, threshold, top_k, margin)
    for before, after in zip(free, strict, strict=True):
        assert (before.score, before.margin) == (after.score, after.margin)
        kept = after.score >= threshold and after.margin >= margin
        assert after.label == (before.label if kept else UNKNOWN)


def test_vectors_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 3\), got \(1, 2\)"):
        classify(_unit([1, 0]), SUPPORT, 0.5)


def test_the_revision_changes_with_the_vectors_and_not_with_their_making():
    same = SupportSet({"b": _unit([0, 1, 0]), "a": _unit([1, 0, 0], [1, 0.2, 0])})
    other = SupportSet({"a": _unit([1, 0, 0], [1, 0.3, 0]), "b": _unit([0, 1, 0])})
    assert same.revision == SUPPORT.revision != other.revision


@pytest.fixture
def folder(tmp_path):
    for number, (name, color) in enumerate({"disc": (40, 180, 200), "bar": (200, 200, 190)}.items()):
        (tmp_path / name).mkdir()
        picture = np.full((80, 80, 3), (60, 90, 120 + number), np.uint8)
        if name == "disc":
            cv2.circle(picture, (40, 40), 28, color, -1)
        else:
            cv2.rectangle(picture, (10, 34), (70, 48), color, -1)
        cv2.imwrite(str(tmp_path / name / "1.png"), picture)
    return tmp_path


TURNS = 360 // TURN_STEP


def _load(folder, read_rgb, classes=("bar", "disc")):
    return build_support(picture_crops(folder, classes, read_rgb, GrabCutSegmenter()), HogColorEmbedder())


def test_a_support_set_is_read_from_a_folder_a_class(folder, read_rgb):
    support = _load(folder, read_rgb, ("screw", "bar", "disc"))
    assert support.classes == ("bar", "disc")
    assert support.background is None
    assert _load(folder, read_rgb, ("screw", "bar", "disc")).revision == support.revision


def _write_background(folder, *things):
    """Pictures of a table in the folder ``_background``, with a thin cross on it where a thing is asked for."""
    (folder / "_background").mkdir()
    for number, thing in enumerate(things):
        picture = np.full((80, 80, 3), (60, 90, 120), np.uint8)
        if thing:
            cv2.line(picture, (16, 16), (64, 64), (220, 210, 60), 5)
            cv2.line(picture, (64, 16), (16, 64), (220, 210, 60), 5)
        cv2.imwrite(str(folder / "_background" / f"{number}.png"), picture)


def test_a_background_folder_is_no_class(folder, read_rgb):
    _write_background(folder, True)
    support = _load(folder, read_rgb)
    assert support.classes == ("bar", "disc")
    assert support.background is not None


def test_background_pictures_without_anything_are_skipped(folder, read_rgb):
    _write_background(folder, True, False, False)
    support = _load(folder, read_rgb)
    assert len(support.background) == TURNS


def test_a_background_folder_of_empty_pictures_only_is_like_none(folder, read_rgb):
    _write_background(folder, False)
    assert _load(folder, read_rgb).background is None


def test_an_example_is_taken_in_every_turn(folder, read_rgb):
    support = _load(folder, read_rgb)
    image = np.full((200, 200, 3), (120, 90, 60), np.uint8)
    corners = cv2.boxPoints(((100, 100), (60, 14), 40))
    cv2.fillPoly(image, [np.round(corners).astype(np.int32)], (190, 200, 200))
    box = np.array([[70.0, 70, 130, 130]])
    mask = GrabCutSegmenter().segment([image], [box])[0][0]
    result = classify(HogColorEmbedder().embed([crop_object(image, box[0], mask)]), support, 0.8)[0]
    assert result.label == "bar"


def test_examples_of_one_shape_are_told_apart_by_their_colours(tmp_path, read_rgb):
    rng = np.random.default_rng(0)

    def disc(color, radius):
        picture = np.full((80, 80, 3), (60, 90, 120), np.uint8)
        cv2.circle(picture, (40, 40), radius, tuple(int(level) for level in color + rng.integers(-8, 9, 3)), -1)
        return picture

    colours = {"green": np.array([60, 200, 90]), "pink": np.array([210, 120, 220])}
    for name, color in colours.items():
        (tmp_path / name).mkdir()
        for number in range(4):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), disc(color, 24 + 2 * number))
    support = _load(tmp_path, read_rgb, tuple(colours))
    embedder, box = HogColorEmbedder(), np.array([[6.0, 6, 74, 74]])
    crops = []
    for color in colours.values():
        image = disc(color, 27)[..., ::-1].copy()
        crops.append(crop_object(image, box[0], GrabCutSegmenter().segment([image], [box])[0][0]))
    results = classify(embedder.embed(crops), support, 0.75)
    assert [result.label for result in results] == list(colours)
    shares = dict(zip(WEIGHTS, support.weights.learnt, strict=True))
    assert shares["colour"] > 0.1
    assert min(result.margin for result in results) > 0.05


def test_of_one_example_a_class_nothing_is_learnt(folder, read_rgb):
    assert _load(folder, read_rgb).weights is None


def test_a_turned_crop_shows_the_same_thing_on_neutral_grey():
    pixels = np.zeros((60, 60), bool)
    pixels[20:40, 5:55] = True
    crop = crop_object(np.full((60, 60, 3), (200, 60, 60), np.uint8), np.array([0, 0, 60, 60]), Mask(pixels, 0, 0, 1.0))
    upright = turned(crop, 90)
    assert upright.shape == crop.shape
    assert np.array_equal(silhouette(upright), np.rot90(silhouette(crop)))
    assert silhouette(turned(crop, 45)).sum() == pytest.approx(pixels.sum(), rel=0.05)
    assert (turned(crop, 45)[0] == NEUTRAL).all()


def test_the_revision_is_a_word_of_hex_characters():
    assert len(REVISION) == 8
    assert int(REVISION, 16) >= 0


def test_an_unreadable_picture_is_passed_over_if_others_remain(folder, read_rgb):
    (folder / "bar" / "broken.jpg").write_text("no picture")
    assert len(_load(folder, read_rgb).vectors["bar"]) == TURNS


def test_a_missing_folder_is_named(tmp_path, read_rgb):
    with pytest.raises(UserError, match=r"nowhere.*no such folder"):
        _load(tmp_path / "nowhere", read_rgb)


def test_a_folder_that_is_no_class_is_named(folder, read_rgb):
    with pytest.raises(UserError, match=r"'disc' is not among the project's classes \(bar\)"):
        _load(folder, read_rgb, ("bar",))


def test_a_folder_without_a_class_folder_is_refused(tmp_path, read_rgb):
    with pytest.raises(UserError, match=r"no folder named like a class \(bar, disc\)"):
        _load(tmp_path, read_rgb)


def test_a_class_folder_without_a_readable_picture_is_refused_with_the_reason(folder, read_rgb):
    (folder / "bar" / "1.png").write_text("no picture")
    with pytest.raises(UserError, match=r"bar.*no readable picture.*1\.png"):
        _load(folder, read_rgb)


def test_what_lies_among_the_examples_and_is_no_file_is_left_out_and_named(tmp_path, save_picture, shapes):
    folder = tmp_path / "nut"
    picture = save_picture(folder / "a.png", shapes(1))
    (folder / "old").mkdir()
    (folder / "@eaDir").mkdir()
    (folder / ".DS_Store").write_text("")
    (folder / "gone.png").symlink_to("/nowhere.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    with capture_logs() as logs:
        assert example_files(folder) == [picture]
    (warning,) = logs
    assert (warning["log_level"], warning["count"]) == ("warning", 4)
    assert warning["names"] == ["endless.png", "gone.png", "old", "pipe.png"]
    assert example_files(tmp_path / "none") == []


def test_an_example_that_cannot_be_read_is_named(tmp_path, save_picture, shapes):
    save_picture(tmp_path / "nut" / "a.png", shapes(1))
    (tmp_path / "nut" / "b.png").write_text("no picture")
    (tmp_path / "@eaDir").mkdir()

    def read(path):
        return read_image(path, max_pixels=1_000_000)

    with capture_logs() as logs:
        crops = picture_crops(tmp_path, ["nut"], read, GrabCutSegmenter())
    assert len(crops["nut"]) == 1
    (warning,) = logs
    assert (warning["log_level"], warning["count"]) == ("warning", 1)
    assert warning["first"].startswith("b.png: ")
