"""Automatic acceptance: validating the objects that the reviews of their calibrated detector support."""

import shlex
from collections import Counter
from typing import Any

from al_dagster.core.errors import UserError
from al_dagster.labelling.reviewed import Reviewed, by_detector
from al_dagster.registry.acceptance import AcceptanceRule, accept, acceptable, open_objects
from al_dagster.registry.calibrations import standing_calibrations
from al_dagster.registry.database import Registry
from al_dagster.registry.reviews import list_reviews
from al_dagster.vision.thresholds import Threshold, lowest_threshold, perfect_reviews_missing

Row = dict[str, Any]


def accept_objects(
    registry: Registry, project_id: str, precision: float, *, category: str | None = None, dry_run: bool = False
) -> Row:
    """Validate the objects of a project that its calibrated detectors are sure enough of.

    For each calibrated detector, the lowest confidence is taken above which the reviews show the precision
    (``vision.thresholds``). Objects that a person touched are left alone, and doing it again accepts nothing more.

    Args:
        registry: the registry.
        project_id: the project.
        precision: share of right ones among the accepted, 0–1, both excluded.
        category: only objects of this category, by the reviews of this category.
        dry_run: only say what would be accepted.

    Returns:
        ``accepted`` objects, ``by_category``, ``expected_precision`` (None if there are none): the share that is right
        among the reviewed objects above the thresholds, by Laplace's rule of succession; ``rules`` with one row a
        detector, and ``refused`` with the detectors that nothing can be accepted of, the number of their open
        ``objects`` and ``why``.

    Raises:
        UserError: no detector of the project has a threshold that holds the precision; says what is missing.
    """
    if not 0 < precision < 1:
        raise UserError(
            f"a precision of {precision:g} cannot be shown by reviews; give one between 0 and 1, such as 0.95"
        )
    reviews = list_reviews(registry, project_id)
    standing = standing_calibrations(registry, project_id)
    waiting = open_objects(registry, project_id, category)
    models = sorted({*waiting, *standing})
    of_detector = by_detector(reviews, models)
    of_category = by_detector([row for row in reviews if category is None or row.category == category], models)
    rules: list[Row] = []
    refused: list[Row] = []
    chosen: list[Row] = []
    for model in models:
        mine = of_category[model]
        threshold = None
        if model in standing:
            threshold = lowest_threshold(mine.confidence, mine.correct, precision)
        if threshold is None:
            why = _why_refused(project_id, mine, of_detector[model].missing, model in standing, precision, category)
            refused.append({"detection_model": model, "objects": waiting.get(model, 0), "why": why})
            continue
        rule = rule_of(project_id, model, standing[model]["calibration_id"], threshold, precision, category)
        rows = acceptable(registry, rule) if dry_run else accept(registry, rule)
        chosen += rows
        rules.append({**_rule_row(rule, threshold), "accepted": len(rows)})
    if not rules:
        told = "; ".join(f"{row['detection_model']}: {row['why']}" for row in refused)
        raise UserError(f"nothing of project {project_id} can be accepted: {told or 'it has no objects yet'}")
    right = sum(row["accepted"] * (row["correct"] + 1) / (row["reviews"] + 2) for row in rules)
    return {
        "project": project_id,
        "precision": precision,
        "dry_run": dry_run,
        "accepted": len(chosen),
        "expected_precision": round(right / len(chosen), 4) if chosen else None,
        "by_category": dict(sorted(Counter(row["category"] or "" for row in chosen).items())),
        "rules": rules,
        "refused": [row for row in refused if row["objects"]],
    }


def rule_of(
    project_id: str, model: str, identifier: str, threshold: Threshold, precision: float, category: str | None
) -> AcceptanceRule:
    """The rule that accepts what a detector found and is at least as sure of as a threshold."""
    text = f"precision>={precision:g} confidence>={threshold.confidence!r} calibration {identifier}"
    text += f" reviews={threshold.reviews}" + (f" category={category}" if category is not None else "")
    return AcceptanceRule(project_id, model, identifier, threshold.confidence, category, text)


def _rule_row(rule: AcceptanceRule, threshold: Threshold) -> Row:
    return {
        "detection_model": rule.detection_model,
        "calibration_id": rule.calibration_id,
        "min_confidence": threshold.confidence,
        "reviews": threshold.reviews,
        "correct": threshold.correct,
        "bound": round(threshold.bound, 4),
        "rule": rule.text,
    }


def _why_refused(
    project_id: str,
    mine: Reviewed,
    missing: str,
    calibrated: bool,
    precision: float,
    category: str | None,
) -> str:
    if not calibrated:
        ready = f"its confidence is not calibrated yet: `al calibrate --project {shlex.quote(project_id)}` does it"
        return f"its confidence cannot be calibrated yet, there are {missing}" if missing else ready
    wrong = int((~mine.correct).sum())
    more = perfect_reviews_missing(mine.confidence, mine.correct, precision)
    among = f" of category {category}" if category is not None else ""
    return (
        f"no confidence holds a precision of {precision:g} with {len(mine.groups)} reviews{among}, {wrong} of them "
        f"wrong; {more} more would do, all right and surer than those"
    )
