"""``al calibrate``."""

import shlex
from typing import Annotated, Any

import typer

from al_dagster.cli.output import Json, print_json, print_table, progress_bars, say
from al_dagster.cli.stores import check_conditions, standing_registry


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    project: Annotated[str, typer.Option("--project", "-p", help="Whose detectors.")],
    as_json: Json = False,
) -> None:
    """Learn from the reviews of a project what the confidence of its detectors is worth.

    A review is an object that a person has validated, deleted, or corrected. With fewer than 50 of a detector, its
    confidence stays uncalibrated.
    """
    from al_dagster.core.settings import load_settings

    with standing_registry(load_settings()) as registry:
        check_conditions(registry, project=project)
    with progress_bars(not as_json, title=f"calibrating {project}"):
        from al_dagster.assets.partitions import projects
        from al_dagster.core.ids import project_slug
        from al_dagster.runs import asset_metadata, execute

        result = execute("calibrate", partition=project_slug(project), partitions=projects)
    metadata = asset_metadata(result, "calibration")
    detectors, thresholds = (_rows(metadata[name]) for name in ("detectors", "thresholds"))
    if as_json:
        figures = {name: metadata[name] for name in ("reviews", "calibrated_detectors", "recalibrated_objects")}
        print_json({"run_id": result.run_id, **figures, "detectors": detectors, "thresholds": thresholds})
        return
    columns = {"detection_model": "detector", "method": "method", "reviews": "reviews", "correct": "right"}
    columns |= {"ece_raw": "ECE raw", "ece_calibrated": "ECE calibrated"}
    print_table("Detectors with reviews", detectors, columns, wide=["detection_model"])
    for row in detectors:
        if row["missing"]:
            say(f"{row['detection_model']} stays uncalibrated: there are {row['missing']}")
    if thresholds:
        columns = {"detection_model": "detector", "precision": "precision", "confidence": "from confidence"}
        columns |= {"reviews": "reviews", "bound": "sure of", "objects": "objects"}
        shown = [{**row, "confidence": row["confidence"] or "none yet"} for row in thresholds]
        print_table("Would be accepted", shown, columns, wide=["detection_model"])
        say(
            f"`al objects accept --project {shlex.quote(project)} --precision P` accepts; "
            "`al ui` shows the reliability diagram"
        )


def _rows(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.records]
