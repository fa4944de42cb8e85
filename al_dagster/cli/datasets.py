"""``al dataset``: create, list, build and export datasets."""

from pathlib import Path
from typing import Annotated, Any

import typer

from al_dagster.cli.output import Json, print_facts, print_json, print_table, progress_bars, say
from al_dagster.cli.stores import standing_registry
from al_dagster.core.errors import UserError

SPLITS = ("train", "val", "test")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")]

commands = typer.Typer(help="Create, list, build and export datasets.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="dataset")


@commands.command()
def create(
    definition: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="YAML file with the whole definition.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name, if there is no file.")] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Project, if there is no file.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", "-c", help="Only these classes, separated by commas.")
    ] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only objects at least so sure.")] = None,
    validated: Annotated[
        bool, typer.Option("--validated", help="Only validated objects, by a person or automatically.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Save a definition, from a YAML file or from options; the same name replaces it.

    Split ratios, formats and training parameters are given in a file, such as
    {name: parts, project: parts, split: {train: 0.8, val: 0.1, test: 0.1}, formats: [yolo, coco]}.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.datasets.definition import load_definition, parse_definition
    from al_dagster.registry.datasets import save_definition
    from al_dagster.registry.projects import get_project

    selected = {"categories": classes, "min_confidence": min_confidence, "is_validated": validated or None}
    given = {"name": name, "project": project, "filter": {k: v for k, v in selected.items() if v is not None}}
    if definition is not None:
        if any(given.values()):
            raise UserError("give either a YAML file or options, not both; the file can hold everything")
        parsed = load_definition(definition)
    else:
        if name is None or project is None:
            raise UserError("give a YAML file with the definition, or --name and --project")
        parsed = parse_definition(given, "al dataset create")
    with standing_registry(load_settings()) as registry:
        get_project(registry, parsed.project)
        save_definition(registry, parsed.name, parsed.model_dump(mode="json"))
    if as_json:
        print_json(parsed.model_dump(mode="json"))
    else:
        say(f"Dataset {parsed.name} is defined; `al dataset export {parsed.name}` builds it and writes it to disk.")


@commands.command("list")
def list_(as_json: Json = False) -> None:
    """List the versions of all datasets, and the definitions that are not built yet."""
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.datasets import list_datasets, list_definitions

    with standing_registry(load_settings()) as registry:
        rows = [_row(record) for record in list_datasets(registry)]
        built = {row["name"] for row in rows}
        for name, values in list_definitions(registry).items():
            if name not in built:
                rows.append({**dict.fromkeys(_row(None)), "name": name, "project": values["project"]})
    if as_json:
        print_json(rows)
        return
    columns = {"name": "name", "version": "version", "project": "project", "objects": "objects", "dataset_id": "id"}
    shown = [{**row, "version": row["version"] or "not built"} for row in rows]
    print_table("Datasets", shown, {**columns, "export_path": "exported to"}, wide=["export_path"])


def _row(record: Any) -> dict[str, Any]:
    keys = ("name", "version", "dataset_id", "content_hash", "export_path", "created_at", "exported_at", "run_id")
    row = {key: getattr(record, key, None) for key in keys}
    return {**row, "objects": record and record.object_count, "project": record and record.definition.get("project")}


@commands.command()
def build(name: Name, as_json: Json = False) -> None:
    """Freeze the selection and its split as a version; the same content gives the version that stands."""
    built = run_dataset_job("freeze_dataset", name, ("dataset",), as_json, title=f"building {name}")
    figures = {"run_id": built["run_id"], **built["dataset"]}
    if as_json:
        print_json(figures)
        return
    _show(name, figures)
    say(f"`al dataset export {name}` writes it to disk.")


@commands.command()
def export(name: Name, as_json: Json = False) -> None:
    """Build the dataset and write it to disk in the formats of its definition."""
    made = run_dataset_job("build_dataset", name, ("dataset", "dataset_export"), as_json, title=f"exporting {name}")
    figures = {"run_id": made["run_id"], **made["dataset"], **made["dataset_export"]}
    if as_json:
        print_json(figures)
        return
    _show(name, figures)


def run_dataset_job(job: str, name: str, assets: tuple[str, ...], as_json: bool, *, title: str) -> dict[str, Any]:
    """Run a job for a dataset that is defined.

    Returns:
        ``run_id`` and, for each of the assets, the figures of its materialization without pictures; tables as lists.

    Raises:
        UserError: the dataset is not defined, or the run says what the user can put right.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.datasets import get_definition

    with standing_registry(load_settings()) as registry:
        get_definition(registry, name)
    with progress_bars(not as_json, title=title):
        from al_dagster.assets.partitions import datasets
        from al_dagster.runs import asset_metadata, execute

        result = execute(job, partition=name, partitions=datasets)
    return {"run_id": result.run_id, **{asset: _figures(asset_metadata(result, asset)) for asset in assets}}


def _figures(metadata: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, value in metadata.items():
        if hasattr(value, "records"):
            figures[name] = [dict(record.data) for record in value.records]
        elif not (isinstance(value, str) and "data:image" in value) and not name.startswith("dagster/"):
            figures[name] = value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
    return figures


def _show(name: str, figures: dict[str, Any]) -> None:
    sizes = [f"{split} {figures[f'images_{split}']} ({figures[f'objects_{split}']} objects)" for split in SPLITS]
    one_sided = figures["categories_in_one_split"]
    facts = {
        "version": "new" if figures["new_version"] else "stands already, with the same content",
        "id": figures["dataset_id"],
        "images": ", ".join(sizes),
        "left out": f"{figures['held_out']} images that resemble one of another split" if figures["held_out"] else None,
        "in one split": None if one_sided == "none" else f"{one_sided}; label more images",
        "formats": figures.get("formats"),
        "folder": figures.get("folder"),
    }
    print_facts(f"Dataset {name} {figures['version']}", facts)
