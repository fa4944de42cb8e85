from collections.abc import Sequence

import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.detector import OpenCvDetector
from al_dagster.vision.protocols import P_BOX, P_LABEL, Image, Prompt
from al_dagster.vision.routing import RoutedDetector

COLOURS = {"red": (200, 40, 40), "green": (30, 170, 60), "blue": (30, 40, 190)}
CORNERS = {"red": (20, 20), "green": (90, 20), "blue": (20, 70)}


class ColourDetector:
    """Finds rectangles of the colours that it is asked for and gives both parts of its confidence."""

    model_id, revision, images_per_call, least_confidence = "colours", "7", 3, 0.01

    def __init__(self) -> None:
        self.loaded = False

    def load(self) -> None:
        self.loaded = True

    def unload(self) -> None:
        self.loaded = False

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        unknown = [prompt.label for prompt in prompts if prompt.label not in COLOURS]
        if unknown:
            raise UserError(f"no colour: {unknown}")

    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[sv.Detections]:
        self.check_prompts(prompts)
        return [self._detect(image, prompts) for image in images]

    def _detect(self, image: Image, prompts: Sequence[Prompt]) -> sv.Detections:
        found = []
        for index, prompt in enumerate(prompts):
            near = np.abs(image.astype(int) - COLOURS[prompt.label]).max(axis=2) < 30
            if near.any():
                rows, columns = np.nonzero(near)
                found.append((index, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)))
        if not found:
            return sv.Detections.empty()
        size = len(found)
        return sv.Detections(
            xyxy=np.array([box for _, box in found], dtype=np.float32),
            confidence=np.full(size, 0.4, dtype=np.float32),
            class_id=np.array([index for index, _ in found]),
            data={P_LABEL: np.full(size, 0.5), P_BOX: np.full(size, 0.8)},
        )


def draw(colours: Sequence[str]) -> NDArray[np.uint8]:
    image = np.full((120, 160, 3), (150, 160, 150), np.uint8)
    for name in colours:
        x, y = CORNERS[name]
        image[y : y + 30, x : x + 40] = COLOURS[name]
    return (image + np.random.default_rng(1).integers(-6, 7, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def routed() -> RoutedDetector:
    return RoutedDetector(ColourDetector(), OpenCvDetector())


def prompts_of(labels: Sequence[str]) -> list[Prompt]:
    return [Prompt(label) for label in labels]


def named_boxes(found: sv.Detections, labels: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The boxes of colours, by the label that their class id stands for."""
    return {
        labels[index]: tuple(box)
        for index, box in zip(found.class_id, found.xyxy.tolist(), strict=True)
        if labels[index] != PROPOSAL
    }


def drawn_boxes(colours: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {name: (x, y, x + 40.0, y + 30.0) for name, (x, y) in CORNERS.items() if name in colours}


@settings(max_examples=25)
@given(
    labels=st.lists(st.sampled_from([PROPOSAL, *COLOURS]), min_size=1, unique=True),
    pictures=st.lists(st.sets(st.sampled_from(list(COLOURS))).map(sorted), max_size=3),
)
def test_class_ids_refer_to_the_prompts_in_any_order(
    routed: RoutedDetector, labels: list[str], pictures: list[list[str]]
) -> None:
    images = [draw(colours) for colours in pictures]
    results = routed.detect(images, prompts_of(labels))
    assert len(results) == len(images)
    alone = OpenCvDetector().detect(images, [Prompt(PROPOSAL)])
    for colours, found, proposed in zip(pictures, results, alone, strict=True):
        assert named_boxes(found, labels) == drawn_boxes([name for name in colours if name in labels])
        if PROPOSAL in labels:
            proposals = found[found.class_id == labels.index(PROPOSAL)]
            assert np.array_equal(proposals.xyxy, proposed.xyxy)
            assert np.array_equal(proposals.confidence, proposed.confidence)


@pytest.mark.parametrize("labels", [["red", PROPOSAL, "blue"], [PROPOSAL, "blue", "red"]])
def test_a_part_that_a_detector_does_not_give_is_nan(routed: RoutedDetector, labels: list[str]) -> None:
    (found,) = routed.detect([draw(["red", "blue"])], prompts_of(labels))
    proposed = found.class_id == labels.index(PROPOSAL)
    assert proposed.any()
    assert np.isnan(found.data[P_LABEL][proposed]).all()
    assert np.isnan(found.data[P_BOX][proposed]).all()
    assert found.data[P_LABEL][~proposed].tolist() == [0.5, 0.5]
    assert found.data[P_BOX][~proposed].tolist() == [0.8, 0.8]
    # The named ones come first, whatever the order of the prompts.
    assert proposed.tolist() == sorted(proposed.tolist())


@pytest.mark.parametrize("labels", [["red"], [PROPOSAL], ["red", PROPOSAL]])
def test_an_image_with_nothing_to_be_found_has_no_boxes(routed: RoutedDetector, labels: list[str]) -> None:
    empty = np.full((60, 80, 3), 150, np.uint8)
    nothing, something = routed.detect([empty, draw(["red"])], prompts_of(labels))
    assert len(nothing) == 0
    assert (nothing.xyxy.shape, nothing.confidence.shape, nothing.class_id.shape) == ((0, 4), (0,), (0,))
    assert {key: values.shape for key, values in nothing.data.items()} == {P_LABEL: (0,), P_BOX: (0,)}
    assert set(something.class_id) == set(range(len(labels)))


def test_no_images_give_no_results(routed: RoutedDetector) -> None:
    assert routed.detect([], prompts_of(["red", PROPOSAL])) == []


def test_each_detector_is_asked_to_check_its_own_prompts(routed: RoutedDetector) -> None:
    routed.check_prompts(prompts_of(["blue", PROPOSAL, "red"]))
    routed.check_prompts(prompts_of([PROPOSAL]))
    with pytest.raises(UserError, match=r"^no colour: \['mauve'\]$"):
        routed.check_prompts(prompts_of([PROPOSAL, "red", "mauve"]))
    with pytest.raises(UserError, match=r"^no colour: \['object'\]$"):
        RoutedDetector(OpenCvDetector(), ColourDetector()).check_prompts(prompts_of(["person", PROPOSAL]))


def test_it_is_named_after_both_and_loads_and_unloads_both() -> None:
    named, proposer = ColourDetector(), ColourDetector()
    both = RoutedDetector(named, proposer)
    assert (both.model_id, both.revision) == ("colours+colours", "7+7")
    both.load()
    assert (named.loaded, proposer.loaded) == (True, True)
    both.unload()
    assert (named.loaded, proposer.loaded) == (False, False)


def test_each_detector_keeps_to_its_own_least_confidence() -> None:
    proposer = OpenCvDetector()
    picture = draw(["red", "blue"])
    (alone,) = proposer.detect([picture], prompts_of([PROPOSAL]))
    proposer.least_confidence = float(alone.confidence.max())
    routed = RoutedDetector(ColourDetector(), proposer)
    assert (routed.least_confidence, routed.images_per_call) == (0.0, OpenCvDetector.images_per_call)
    (found,) = routed.detect([picture], prompts_of(["red", PROPOSAL]))
    assert (found.class_id == 1).sum() == 1 < len(alone)
    assert (found.class_id == 0).sum() == 1
