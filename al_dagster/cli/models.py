"""``al train`` and ``al evaluate``."""

from typing import Any

import typer

from al_dagster.cli.datasets import Version, named_version, run_dataset_job, run_version_job
from al_dagster.cli.output import Json, print_facts, print_json, print_table, say
from al_dagster.cli.stores import standing_registry
from al_dagster.core.errors import UserError

ASSETS = ("trained_model", "evaluation")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    app.command()(evaluate)


def train(name: Version, as_json: Json = False) -> None:
    """Train a model on a dataset and evaluate it.

    The dataset is built and exported first, so that it holds the newest labels; a version, as in parts@1.0, is taken as
    it was frozen. A model that the same dataset version and parameters made before is used again.
    """
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    version, title = named_version(name), f"training on {name}"
    if version is None:
        made = run_dataset_job("build_and_train", name, ASSETS, as_json, title=title)
    else:
        made = run_version_job("train_version", version, ("dataset_export", *ASSETS), as_json, title=title)
    _print(made, as_json, trained_before=made["trained_model"]["reused"])


def evaluate(name: Version, as_json: Json = False) -> None:
    """Evaluate the model of a dataset on its test split; nothing is trained.

    Taken is the version that was built last, or the one that is named, and the model trained on it with its present
    parameters.
    """
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    version = _trained_version(name)
    title = f"evaluating the model of {name}"
    made = run_version_job("evaluate_model", version, ("evaluation",), as_json, title=title)
    _print(made, as_json, trained_before=True)


def _trained_version(reference: str) -> tuple[str, str]:
    """Name and version of a dataset that has a model, so that no run is begun without one.

    Raises:
        UserError: there is no such version, or no model was trained on it.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.lineage import trained_on
    from al_dagster.registry.datasets import get_dataset, get_definition, list_datasets

    settings = load_settings()
    with standing_registry(settings) as registry:
        if "@" not in reference and not list_datasets(registry, reference):
            get_definition(registry, reference)
            raise UserError(f"dataset {reference} has no trained model yet: `al train {reference}` trains one")
        record = get_dataset(registry, reference)
    if not any(run["status"] == "FINISHED" for run in trained_on(settings, record.dataset_id)):
        raise UserError(f"dataset {record.reference} has no trained model yet: `al train {reference}` trains one")
    return record.name, record.version


def _print(made: dict[str, Any], as_json: bool, *, trained_before: bool) -> None:
    evaluation = made["evaluation"]
    if as_json:
        print_json({"run_id": made["run_id"], "reused": trained_before, **evaluation})
        return
    facts = {
        "weights": evaluation["weights"],
        "trained": "before, from the same dataset and parameters" if trained_before else "now",
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
