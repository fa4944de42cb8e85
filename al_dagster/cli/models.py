"""``al train`` and ``al evaluate``."""

from typing import Any

import typer

from al_dagster.cli.datasets import Name, run_dataset_job
from al_dagster.cli.output import Json, print_facts, print_json, print_table, say
from al_dagster.cli.stores import standing_registry
from al_dagster.core.errors import UserError

ASSETS = ("trained_model", "evaluation")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    app.command()(evaluate)


def train(name: Name, as_json: Json = False) -> None:
    """Train a model on a dataset and evaluate it.

    The dataset is built and exported first, so that it holds the newest labels. A model that the same dataset version
    and parameters made before is used again.
    """
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    _print(run_dataset_job("build_and_train", name, ASSETS, as_json, title=f"training on {name}"), as_json)


def evaluate(name: Name, as_json: Json = False) -> None:
    """Evaluate the model of a dataset's newest version on its test split."""
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    _check_trained(name)
    _print(run_dataset_job("train_model", name, ASSETS, as_json, title=f"evaluating the model of {name}"), as_json)


def _check_trained(name: str) -> None:
    """Refuse to evaluate what was never trained, since the job would train it first, which may take hours."""
    from al_dagster.core.settings import load_settings
    from al_dagster.lineage import trained_on
    from al_dagster.registry.datasets import get_definition, list_datasets

    settings = load_settings()
    with standing_registry(settings) as registry:
        get_definition(registry, name)
        versions = list_datasets(registry, name)
    runs = trained_on(settings, versions[-1].dataset_id) if versions else []
    if not any(run["status"] == "FINISHED" for run in runs):
        which = f"{name} {versions[-1].version}" if versions else name
        raise UserError(f"dataset {which} has no trained model yet: `al train {name}` trains one")


def _print(made: dict[str, Any], as_json: bool) -> None:
    model, evaluation = made["trained_model"], made["evaluation"]
    if as_json:
        print_json({"run_id": made["run_id"], "reused": model["reused"], "weights": model["weights"], **evaluation})
        return
    facts = {
        "weights": model["weights"],
        "trained": "before, from the same dataset and parameters" if model["reused"] else "now",
        "measured on": f"{evaluation['images']} images of the {evaluation['split']} split, "
        f"{evaluation['objects']} objects",
        "mAP50": evaluation.get("map50"),
        "mAP50-95": evaluation.get("map50_95"),
        "precision": evaluation.get("precision"),
        "recall": evaluation.get("recall"),
        "at confidence": evaluation.get("operating_confidence"),
        "note": None if evaluation["note"] == "none" else evaluation["note"],
    }
    print_facts(f"Model {evaluation['model']}", facts)
    per_class = evaluation["per_class"]
    columns = {key: key.replace("_", " ") for key in (per_class[0] if per_class else {})}
    print_table("By class", per_class, columns)
    say(f"Curves and the confusion matrix: `al ui`, asset evaluation; MLflow run {evaluation['mlflow_run_id']}")
