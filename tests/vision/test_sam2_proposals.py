import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv
import torch

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL
from al_dagster.vision import sam2
from al_dagster.vision.protocols import Prompt
from al_dagster.vision.sam2 import Sam2Segmenter
from al_dagster.vision.sam2_network import Features, Sam2Network
from al_dagster.vision.sam2_proposals import ProposalFilters, Sam2Proposer, point_grid, stability_scores
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import record

pytestmark = pytest.mark.usefixtures("one_thread")

DISC, BAR = (31, 41, 80, 90), (100, 60, 151, 101)
"""Boxes of what ``scene`` shows, x1, y1, x2, y2."""


@pytest.fixture(scope="module", params=["sam2", "edgetam"])
def segmenter(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    build = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "checkpoints_sam2.py"))
    build[f"build_{request.param}"](folder, "tiny", seed=2)
    return Sam2Segmenter(record(folder, "tiny", origin="a test"), Runtime("cpu"))


@pytest.fixture(scope="module")
def scene():
    """A grey surface with a red disc and a green bar: (120, 160, 3)."""
    image = np.full((120, 160, 3), 90, np.uint8)
    cv2.circle(image, (55, 65), 24, (220, 40, 30), -1)
    cv2.rectangle(image, (100, 60), (150, 100), (20, 200, 30), -1)
    return image


class SameColour(Sam2Network):
    """A network whose mask is what has the colour of the point: sure of it at 0.9, of a paler second one at 0.5.

    Its third mask is a single pixel around the point, sure at 0.95.
    """

    def __init__(self) -> None:
        super().__init__(128, [0.0] * 3, [1.0] * 3)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def features(self, pixels: torch.Tensor) -> Features:
        return (torch.nn.functional.avg_pool2d(pixels, 4),)

    def masks(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, several: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        (colours,) = features
        x, y = (points[:, 0] / 4).long().clamp(max=31).unbind(1)
        of_point = torch.stack([one[:, row, column] for one, row, column in zip(colours, y, x, strict=True)])
        distance = (colours - of_point[:, :, None, None]).abs().amax(dim=1)
        sharp, pale = 40 * (0.25 - distance), 0.1 - distance
        single = torch.full_like(sharp, -9.0)
        single[torch.arange(len(x)), y, x] = 9.0
        return torch.stack([sharp, pale, single], dim=1), torch.tensor([[0.9, 0.5, 0.95]]).expand(len(x), 3)

    def compile_halves(self) -> None: ...


class ColourSegmenter(Sam2Segmenter):
    def _network(self) -> Sam2Network:
        return SameColour()


@pytest.fixture
def colours(tmp_path):
    return ColourSegmenter(record(tmp_path, "colours", origin="a test"), Runtime("cpu"))


def overlap(one: np.ndarray, other: tuple[int, ...]) -> float:
    return float(sv.box_iou_batch(one[None], np.array([other], dtype=float))[0, 0])


def test_things_that_stand_out_are_proposed_once_each(colours, scene):
    found = Sam2Proposer(colours).propose([scene])[0]
    assert found.confidence == pytest.approx(np.full(len(found), 0.9))
    assert found.class_id.tolist() == [0] * len(found)
    assert len(found) == 3
    for thing in (DISC, BAR, (0, 0, 160, 120)):
        assert max(overlap(box, thing) for box in found.xyxy) > 0.9


def test_each_filter_drops_what_it_is_for(colours, scene):
    def confidences(**changed: float) -> set[float]:
        found = Sam2Proposer(colours, ProposalFilters(**changed)).propose([scene])[0]
        return {round(float(value), 2) for value in found.confidence}

    assert confidences() == {0.9}
    assert confidences(least_iou=0.4) == {0.9}
    assert confidences(least_iou=0.4, least_stability=0.0, most_overlap=1.0) == {0.9, 0.5}
    assert confidences(least_area=1) == {0.9, 0.95}
    assert confidences(least_iou=0.92) == set()
    assert confidences(least_area=160 * 120) == set()


def test_no_two_proposals_overlap_more_than_is_allowed(segmenter, scene):
    for most in (0.3, 0.8):
        filters = ProposalFilters(points_per_side=6, least_iou=0, least_stability=0, most_overlap=most)
        for found in Sam2Proposer(segmenter, filters).propose([scene, scene[:70, :50]]):
            assert len(found) >= 1
            overlaps = sv.box_iou_batch(found.xyxy, found.xyxy)
            assert overlaps[~np.eye(len(found), dtype=bool)].max(initial=0) <= most
            assert (np.diff(found.confidence) <= 0).all()


def test_proposals_lie_in_their_image_and_are_the_same_again_and_in_a_batch(segmenter, scene, monkeypatch):
    filters = ProposalFilters(points_per_side=6, least_iou=0.1, least_stability=0, most_overlap=0.95)
    images = [scene, scene[:70, :50], np.ascontiguousarray(scene[:, ::-1])]
    together = Sam2Proposer(segmenter, filters).propose(images)
    monkeypatch.setitem(sam2.PROMPTS_PER_CALL, "cpu", 7)
    monkeypatch.setitem(sam2.IMAGES_PER_CALL, "cpu", 1)
    other = Sam2Proposer(Sam2Segmenter(segmenter.weights, Runtime("cpu")), filters)
    for image, found in zip(images, together, strict=True):
        again, alone = Sam2Proposer(segmenter, filters).propose([image])[0], other.propose([image])[0]
        assert len(found) >= 1
        assert found.xyxy.dtype == np.float32
        assert np.array_equal(found.xyxy, again.xyxy)
        assert np.array_equal(found.xyxy, alone.xyxy)
        assert found.confidence == pytest.approx(alone.confidence, abs=1e-5)
        assert (found.xyxy[:, :2] >= 0).all()
        assert (found.xyxy[:, 2:] <= image.shape[1::-1]).all()
        assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()
        assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_where_nothing_passes_there_are_no_proposals(segmenter, scene):
    found = Sam2Proposer(segmenter, ProposalFilters(points_per_side=3, least_iou=1.1)).propose([scene])
    assert [len(of_image) for of_image in found] == [0]
    assert Sam2Proposer(segmenter).propose([]) == []


def test_as_a_detector_it_gives_proposals_and_nothing_else(colours, scene):
    proposer = Sam2Proposer(colours)
    found = proposer.detect([scene], [Prompt(PROPOSAL)])[0]
    assert np.array_equal(found.xyxy, proposer.propose([scene])[0].xyxy)
    assert proposer.least_confidence == 0.8
    assert [len(of_image) for of_image in proposer.detect([scene], [])] == [0]
    with pytest.raises(UserError, match="cannot know cat"):
        proposer.detect([scene], [Prompt(PROPOSAL), Prompt("cat")])


def test_the_revision_changes_with_the_filters_and_the_weights_are_the_segmenters(segmenter):
    first, second = Sam2Proposer(segmenter), Sam2Proposer(segmenter, ProposalFilters(points_per_side=32))
    assert first.revision.startswith(segmenter.revision)
    assert first.revision != second.revision
    first.load()
    module = segmenter.module
    second.load()
    assert segmenter.module is module
    second.unload()
    assert segmenter._module is None


def test_the_stability_score_is_the_share_that_stays_when_the_threshold_moves():
    logits = torch.full((3, 4, 5), -5.0)
    logits[0, 0, :4] = torch.tensor([3.0, 2.0, 0.5, -0.5])
    logits[1, 1, :2] = 9.0
    assert stability_scores(logits, 1.0).tolist() == [0.5, 1.0, 0.0]
    assert stability_scores(logits[:, None], 0.1).tolist() == [[1.0], [1.0], [0.0]]


def test_the_grid_lies_in_the_middles_of_its_cells():
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
