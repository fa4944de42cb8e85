"""Calibrating and accepting by the command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from al_dagster.core.project import ProjectConfig
from al_dagster.registry.database import open_registry
from al_dagster.registry.projects import save_project


@pytest.fixture
def reviewed_home(tmp_path: Path, add_reviewed: Callable, some_outcomes: Callable) -> Path:
    """A home with 300 reviews of a detector and five open objects."""
    home = tmp_path / "home"
    with open_registry(f"sqlite:///{home / 'registry' / 'registry.db'}") as registry:
        save_project(registry, ProjectConfig(name="shapes", classes=("disc", "bar")))
        add_reviewed(registry, some_outcomes(300, 1))
        add_reviewed(registry, [(0.95, None)] * 4 + [(0.31, None)], first=100)
    return home


def test_confidence_is_uncalibrated_until_it_is_calibrated_and_then_supports_acceptance(
    here: Callable, reviewed_home: Path
) -> None:
    home = reviewed_home
    call = ["objects", "accept", "-p", "shapes", "--precision", "0.95"]
    refused = here(*call, home=home)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "`al calibrate --project shapes` does it" in refused.err
    listed = here("objects", "list", "--not-validated", home=home)
    assert listed.out.count("uncalibrated") == 5
    assert max(map(len, listed.out.splitlines())) <= 80

    calibrated = here("calibrate", "-p", "shapes", "--json", home=home).json
    (row,) = calibrated["detectors"]
    assert (row["method"], row["reviews"]) == ("platt", 300)
    assert [row["precision"] for row in calibrated["thresholds"]] == [0.8, 0.9, 0.95, 0.99]
    assert calibrated["recalibrated_objects"] == 305
    found = here("objects", "list", "--not-validated", "--min-confidence", "0.9", "--json", home=home).json
    assert [row["calibrated_confidence"] > 0.9 for row in found] == [True] * 4
    shown = here("objects", "show", found[0]["object_id"], home=home).out
    assert f"calibrated confidence  {found[0]['calibrated_confidence']:.3f}" in shown
    assert "uncalibrated" not in here("objects", "list", "--not-validated", home=home).out

    dry = here(*call, "--dry-run", home=home).out
    assert dry.startswith("would be accepted: 4 (disc 4); 9")
    accepted = here(*call, "--json", home=home).json
    assert (accepted["accepted"], accepted["by_category"]) == (4, {"disc": 4})
    assert here(*call, home=home).out.startswith("accepted: 0\n")
    rule = here("objects", "show", found[0]["object_id"], "--json", home=home).json
    assert (rule["validated_by"], rule["validation_rule"]) == ("auto", accepted["rules"][0]["rule"])
    assert here("objects", "accept", "-p", "shapes", "--undo", home=home).out == "taken back: 4 (disc 4)\n"
    assert here("objects", "accept", "-p", "shapes", "--undo", "--json", home=home).json == {
        "undone": 0,
        "by_category": {},
    }


def test_a_project_with_few_reviews_says_how_many_are_missing(
    here: Callable, tmp_path: Path, add_reviewed: Callable
) -> None:
    with open_registry(f"sqlite:///{tmp_path / 'home' / 'registry' / 'registry.db'}") as registry:
        save_project(registry, ProjectConfig(name="shapes", classes=("disc",)))
        add_reviewed(registry, [(0.9, True)] * 3)
    said = here("calibrate", "-p", "shapes")
    assert said.status == 0
    assert "m@1 stays uncalibrated: there are 3 of 50 reviews" in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["objects", "accept", "-p", "shapes"], "give either --precision"),
        (["objects", "accept", "-p", "shapes", "--precision", "0.9", "--undo"], "give either --precision"),
        (["objects", "accept", "-p", "shapes", "--undo", "--dry-run"], "give either --precision"),
        (["objects", "accept", "-p", "shapes", "--precision", "1"], "between 0 and 1"),
        (["objects", "accept", "-p", "shapes", "--precision", "0.9", "--category", "screw"], "no category 'screw'"),
        (["objects", "accept", "-p", "nowhere", "--precision", "0.9"], "no project 'nowhere'"),
        (["calibrate", "-p", "nowhere"], "no project 'nowhere'"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    here: Callable, reviewed_home: Path, arguments: list[str], sentence: str
) -> None:
    said = here(*arguments, home=reviewed_home)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert sentence in said.err
