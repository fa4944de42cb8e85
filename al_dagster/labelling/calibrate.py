"""Calibration of a project's detectors on its reviews, and what it is worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from al_dagster.core.fingerprints import fingerprint
from al_dagster.labelling.accept import rule_of
from al_dagster.labelling.reviewed import Reviewed, by_detector
from al_dagster.registry.acceptance import acceptable
from al_dagster.registry.calibrations import (
    NewCalibration,
    calibration_id,
    replace_calibrations,
    standing_calibrations,
)
from al_dagster.registry.database import Registry
from al_dagster.registry.projects import list_projects
from al_dagster.registry.reviews import list_reviews
from al_dagster.vision.calibration import Fit, fit
from al_dagster.vision.reliability import Panel, reliability_diagram
from al_dagster.vision.thresholds import lowest_threshold

PRECISIONS = (0.8, 0.9, 0.95, 0.99)
MOST_PANELS = 4

REFIT_SHARE, REFIT_REVIEWS = 0.1, 20
"""A detector is calibrated again once a tenth of its reviews, or twenty, are new or have another outcome."""

Row = dict[str, Any]


@dataclass(frozen=True)
class CalibrationReport:
    """What calibrating a project gave.

    Attributes:
        detectors: a row a detector that has reviews: ``detection_model``, ``method`` (or ``uncalibrated``),
            ``reviews``, ``correct``, ``ece_raw``, ``ece_calibrated``, ``calibration_id`` and ``missing``.
        thresholds: a row a calibrated detector and precision: the lowest raw ``confidence`` that holds it, or None,
            with ``reviews`` above it, their ``bound``, and the ``objects`` that it would accept now.
        recalibrated: objects whose calibrated confidence is another than before.
        content_hash: of the calibrations.
        diagram: reliability diagram, PNG, or None where no detector is calibrated.
    """

    detectors: list[Row]
    thresholds: list[Row]
    recalibrated: int
    content_hash: str
    diagram: bytes | None


def calibrate(registry: Registry, project_id: str) -> CalibrationReport:
    """Fit a calibrator for each detector of a project that has enough reviews, and calibrate the project's objects.

    A new revision of a detector is another detector: it is uncalibrated until its own objects have been reviewed,
    since nothing says that its confidence means the same.
    """
    reviewed = by_detector(list_reviews(registry, project_id))
    fits = {model: fit(one.confidence, one.correct, one.groups) for model, one in reviewed.items() if not one.missing}
    recalibrated = replace_calibrations(
        registry,
        project_id,
        {
            model: NewCalibration(
                calibrator=found.calibrator,
                reviews=len(reviewed[model].groups),
                correct=int(reviewed[model].correct.sum()),
                ece_raw=found.ece_raw,
                ece_calibrated=found.ece_calibrated,
                content_hash=reviewed[model].content_hash,
            )
            for model, found in fits.items()
        },
    )
    detectors = [_detector_row(project_id, model, one, fits.get(model)) for model, one in reviewed.items()]
    return CalibrationReport(
        detectors=detectors,
        thresholds=[row for model in fits for row in _threshold_rows(registry, project_id, model, reviewed[model])],
        recalibrated=recalibrated,
        content_hash=fingerprint(calibrations=[row["calibration_id"] for row in detectors]),
        diagram=_diagram(reviewed, fits),
    )


def due_calibrations(registry: Registry) -> dict[str, str]:
    """The projects whose reviews have changed enough to calibrate again, with a hash of their reviews.

    A detector without calibration is due as soon as it has enough reviews, one with a calibration when a tenth of its
    reviews, or twenty, are new or have another outcome.
    """
    due = {}
    for project in list_projects(registry):
        reviewed = by_detector(list_reviews(registry, project.name))
        standing = standing_calibrations(registry, project.name)
        if any(_changed_enough(one, standing.get(model)) for model, one in reviewed.items()):
            due[project.name] = fingerprint(reviews={model: one.content_hash for model, one in reviewed.items()})
    return due


def _changed_enough(reviewed: Reviewed, standing: Row | None) -> bool:
    if standing is None:
        return not reviewed.missing
    if standing["content_hash"] == reviewed.content_hash:
        return False
    right = int(reviewed.correct.sum())
    wrong = len(reviewed.groups) - right
    changed = abs(right - standing["correct"]) + abs(wrong - (standing["reviews"] - standing["correct"]))
    return changed >= min(REFIT_REVIEWS, math.ceil(REFIT_SHARE * standing["reviews"]))


def _detector_row(project_id: str, model: str, reviewed: Reviewed, found: Fit | None) -> Row:
    return {
        "detection_model": model,
        "method": found.calibrator.method if found else "uncalibrated",
        "reviews": len(reviewed.groups),
        "correct": int(reviewed.correct.sum()),
        "ece_raw": round(found.ece_raw, 4) if found else None,
        "ece_calibrated": round(found.ece_calibrated, 4) if found else None,
        "calibration_id": calibration_id(project_id, model, reviewed.content_hash) if found else None,
        "missing": reviewed.missing or None,
    }


def _threshold_rows(registry: Registry, project_id: str, model: str, reviewed: Reviewed) -> list[Row]:
    rows = []
    identifier = calibration_id(project_id, model, reviewed.content_hash)
    for precision in PRECISIONS:
        found = lowest_threshold(reviewed.confidence, reviewed.correct, precision)
        objects = 0
        if found is not None:
            objects = len(acceptable(registry, rule_of(project_id, model, identifier, found, precision, None)))
        rows.append(
            {
                "detection_model": model,
                "precision": precision,
                "confidence": found and found.confidence,
                "reviews": found.reviews if found else 0,
                "bound": found and round(found.bound, 4),
                "objects": objects,
            }
        )
    return rows


def _diagram(reviewed: Mapping[str, Reviewed], fits: Mapping[str, Fit]) -> bytes | None:
    most_reviewed = sorted(fits, key=lambda model: -len(reviewed[model].groups))[:MOST_PANELS]
    panels = [
        Panel(model, reviewed[model].confidence, fits[model].out_of_fold, reviewed[model].correct)
        for model in most_reviewed
    ]
    return reliability_diagram(panels) if panels else None
