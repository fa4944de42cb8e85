"""Accepting what the reviews of a calibrated detector support."""

import pytest

from al_dagster.core.errors import UserError
from al_dagster.labelling.accept import accept_objects
from al_dagster.labelling.calibrate import calibrate
from al_dagster.registry.acceptance import undo_acceptance
from al_dagster.registry.database import open_registry
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.projects import save_project
from al_dagster.registry.reviews import list_reviews


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        save_project(registry, home.project())
        yield registry


@pytest.fixture
def waiting(registry, add_reviewed, some_outcomes):
    """A calibrated detector with 300 reviews of discs, and six open objects: two bars and four discs."""
    add_reviewed(registry, some_outcomes(300, 1))
    bars = add_reviewed(registry, [(0.9, None), (0.3, None)], category="bar", first=100)
    discs = add_reviewed(registry, [(0.95, None), (0.99, None), (0.9, None), (0.35, None)], first=200)
    calibrate(registry, "shapes")
    return bars, discs


def automatic(registry) -> set[str]:
    return {row["object_id"] for row in list_objects(registry, limit=None) if row["validated_by"] == "auto"}


def test_objects_above_the_threshold_are_accepted_with_the_rule(registry, waiting):
    bars, discs = waiting
    told = accept_objects(registry, "shapes", 0.95)
    assert automatic(registry) == {bars[0], *discs[:3]}
    assert (told["accepted"], told["by_category"]) == (4, {"bar": 1, "disc": 3})
    (rule,) = told["rules"]
    assert rule["bound"] >= 0.95
    assert 0.5 < rule["min_confidence"] < 0.85
    text = f"precision>=0.95 confidence>={rule['min_confidence']} calibration {rule['calibration_id']} "
    assert get_object(registry, bars[0])["validation_rule"] == rule["rule"] == f"{text}reviews={rule['reviews']}"
    assert told["expected_precision"] == round((rule["correct"] + 1) / (rule["reviews"] + 2), 4) > rule["bound"]


def test_a_dry_run_tells_the_same_and_writes_nothing(registry, waiting):
    told = accept_objects(registry, "shapes", 0.95, dry_run=True)
    assert automatic(registry) == set()
    assert accept_objects(registry, "shapes", 0.95) == {**told, "dry_run": False}


def test_accepting_again_accepts_nothing_and_feeds_no_review(registry, waiting):
    reviews = list_reviews(registry, "shapes")
    first = accept_objects(registry, "shapes", 0.95)
    assert list_reviews(registry, "shapes") == reviews
    again = accept_objects(registry, "shapes", 0.95)
    assert (again["accepted"], again["by_category"], again["expected_precision"]) == (0, {}, None)
    assert again["rules"][0]["rule"] == first["rules"][0]["rule"]


def test_a_category_is_accepted_by_the_reviews_of_it(registry, waiting):
    bars, discs = waiting
    told = accept_objects(registry, "shapes", 0.95, category="disc")
    assert automatic(registry) == set(discs[:3])
    assert told["rules"][0]["rule"].endswith(" category=disc")
    with pytest.raises(UserError, match=r"with 0 reviews of category bar, 0 of them wrong; 59 more"):
        accept_objects(registry, "shapes", 0.95, category="bar")
    assert bars[0] not in automatic(registry)


def test_a_precision_that_the_reviews_cannot_show_says_how_many_are_missing(registry, waiting):
    with pytest.raises(UserError, match=r"precision of 0.999 with 300 reviews, \d+ of them wrong; \d{4} more"):
        accept_objects(registry, "shapes", 0.999)
    assert automatic(registry) == set()


def test_nothing_is_accepted_without_a_calibration(registry, add_reviewed, some_outcomes):
    with pytest.raises(UserError, match="it has no objects yet"):
        accept_objects(registry, "shapes", 0.9)
    add_reviewed(registry, [(0.99, None)])
    with pytest.raises(UserError, match=r"m@1: its confidence cannot be calibrated yet, there are 0 of 50 reviews"):
        accept_objects(registry, "shapes", 0.9)
    add_reviewed(registry, [(0.9, True)] * 100, first=10)
    with pytest.raises(UserError, match=r"is not calibrated yet: `al calibrate --project shapes` does it"):
        accept_objects(registry, "shapes", 0.9)
    assert automatic(registry) == set()


def test_a_new_revision_of_the_detector_is_left_out_and_told(registry, waiting, add_reviewed):
    new = add_reviewed(registry, [(0.99, None)] * 3, model="m@2", first=300)
    told = accept_objects(registry, "shapes", 0.95)
    assert not automatic(registry) & set(new)
    assert told["refused"] == [
        {
            "detection_model": "m@2",
            "objects": 3,
            "why": "its confidence cannot be calibrated yet, there are 0 of 50 reviews",
        }
    ]


def test_a_detector_that_was_never_wrong_is_accepted_as_far_down_as_it_was_reviewed(registry, add_reviewed):
    add_reviewed(registry, [(0.6 + index / 1000, True) for index in range(80)])
    open_ones = add_reviewed(registry, [(0.61, None), (0.59, None)], first=100)
    calibrate(registry, "shapes")
    told = accept_objects(registry, "shapes", 0.95)
    assert automatic(registry) == {open_ones[0]}
    assert told["expected_precision"] == round(81 / 82, 4)


def test_accepting_and_taking_back_ends_where_it_began(registry, waiting):
    before = {row["object_id"]: {**row, "updated_at": None} for row in list_objects(registry, limit=None)}
    accept_objects(registry, "shapes", 0.95)
    assert undo_acceptance(registry, "shapes") == {"bar": 1, "disc": 3}
    after = {row["object_id"]: {**row, "updated_at": None} for row in list_objects(registry, limit=None)}
    assert after == before


@pytest.mark.parametrize("precision", [0.0, 1.0, float("nan")])
def test_a_precision_that_is_none_is_refused(registry, precision):
    with pytest.raises(UserError, match="between 0 and 1"):
        accept_objects(registry, "shapes", precision)
