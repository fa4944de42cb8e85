"""``al dataset``: create, list, build, export and show datasets."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from al_dagster.cli.output import Json, print_facts, print_json, print_table, progress_bars, say, warn
from al_dagster.cli.stores import standing_registry
from al_dagster.core.errors import UserError

SPLITS = ("train", "val", "test")
OnDropped = Literal["exclude", "keep", "ignore"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")]
Version = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="Name of the dataset, or one of its versions, as in parts@1.0.")
]

commands = typer.Typer(help="Create, list, build, export and show datasets.", no_args_is_help=True)


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
    on_dropped: Annotated[
        OnDropped | None, typer.Option(help="What becomes of an image with an object that these drop.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Save a definition, from a YAML file or from options; the same name replaces it.

    Split ratios, formats and training parameters are given in a file, such as
    {name: parts, project: parts, split: {train: 0.8, val: 0.1, test: 0.1}, formats: [yolo, coco]}.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.datasets.definition import load_definition, parse_definition, require_classes
    from al_dagster.registry.datasets import save_definition
    from al_dagster.registry.projects import get_project, project_categories

    selected = {
        "categories": classes,
        "min_confidence": min_confidence,
        "is_validated": validated or None,
        "on_dropped": on_dropped,
    }
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
        require_classes(parsed, project_categories(registry, get_project(registry, parsed.project)))
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
    figures = {**_of_run(built), **built["dataset"]}
    if as_json:
        print_json(figures)
        return
    _show(name, figures)
    say(f"`al dataset export {name}` writes it to disk.")


@commands.command()
def export(name: Version, as_json: Json = False) -> None:
    """Build the dataset and write it to disk in the formats of its definition; a named version as it was frozen."""
    of_version = named_version(name)
    if of_version is None:
        made = run_dataset_job("build_dataset", name, ("dataset", "dataset_export"), as_json, title=f"exporting {name}")
        figures = {**_of_run(made), **made["dataset"], **made["dataset_export"]}
    else:
        made = run_version_job("export_version", of_version, ("dataset_export",), as_json, title=f"exporting {name}")
        figures = {**_of_run(made), **made["dataset_export"]}
    if as_json:
        print_json(figures)
    elif of_version is None:
        _show(name, figures)
    else:
        facts = {"formats": figures["formats"], "folder": figures["folder"]}
        print_facts(f"Dataset {of_version[0]} {of_version[1]}", facts)


@commands.command()
def show(name: Version, as_json: Json = False) -> None:
    """Show a version of a dataset: what is in it, what was left out and why, and where it was exported to."""
    from al_dagster.core.lake import Lake
    from al_dagster.core.settings import load_settings
    from al_dagster.datasets.versions import read_version

    settings = load_settings()
    with standing_registry(settings) as registry:
        version = read_version(registry, Lake(settings.lake), name)
    record, report = version.record, version.report
    if as_json:
        definition = version.dataset.definition.model_dump(mode="json")
        print_json({**_row(record), "definition": definition, **report.to_json()})
        return
    rule = version.dataset.definition
    chosen = {key: value for key, value in rule.filter.model_dump().items() if value is not None}
    facts = {
        "id": record.dataset_id,
        "project": rule.project,
        "filter": ", ".join(f"{key} {_listed(value)}" for key, value in chosen.items()),
        "split": ", ".join(f"{key} {value:g}" for key, value in rule.split.model_dump().items()),
        "images": ", ".join(f"{split} {report.images[split]}" for split in SPLITS),
        "background": ", ".join(f"{split} {report.background[split]}" for split in SPLITS),
        "objects": ", ".join(f"{split} {report.objects[split]}" for split in SPLITS),
        "empty splits": report.empty_splits_sentence(rule.split) or None,
        "ignored": f"{report.ignored} objects, whose regions are painted over" if report.ignored else None,
        "confidence": report.confidence_sentence or None,
        "built": f"{record.created_at:%Y-%m-%d %H:%M} UTC" + (f", run {record.run_id}" if record.run_id else ""),
        "exported to": record.export_path or f"nowhere; `al dataset export {record.reference}` does it",
    }
    print_facts(f"Dataset {record.name} {record.version}", facts)
    classes = [{"class": name, **counts} for name, counts in report.categories.items()]
    print_table("Objects by class", classes, {key: key for key in ("class", *SPLITS)})
    left_out = [
        {"what": f"{item.unit} {item.reason}", "count": item.count, "why": _listed(item.details), "such as": example}
        for item in report.left_out
        for example in item.examples[:1]
    ]
    columns = {key: key for key in ("what", "count", "why", "such as")}
    print_table("Left out", left_out, columns, wide=list(columns))


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({count})" for key, count in value.items())
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def named_version(reference: str) -> tuple[str, str] | None:
    """Name and version that a reference such as ``parts@1.0`` or ``ds_…`` names; None of a plain name.

    Raises:
        UserError: there is no such version.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.datasets import get_dataset, list_definitions

    with standing_registry(load_settings()) as registry:
        if "@" not in reference and (not reference.startswith("ds_") or reference in list_definitions(registry)):
            return None
        record = get_dataset(registry, reference)
    return record.name, record.version


def run_version_job(
    job: str, version: tuple[str, str], assets: tuple[str, ...], as_json: bool, *, title: str
) -> dict[str, Any]:
    """Run a job for a version of a dataset that is frozen already; as ``run_dataset_job``.

    Args:
        job: its name.
        version: name and version of the dataset.
        assets: the assets of the job, all of which take the version.
        as_json: whether the command prints JSON only.
        title: what the command is doing.
    """
    config = {asset: {"version": version[1]} for asset in assets}
    return run_dataset_job(job, version[0], assets, as_json, title=title, config=config)


def run_dataset_job(
    job: str,
    name: str,
    assets: tuple[str, ...],
    as_json: bool,
    *,
    title: str,
    config: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run a job for a dataset that is defined.

    Returns:
        ``run_id``, ``failed_checks`` with a sentence for each, which are told on standard error too, and for each of
        the assets the figures of its materialization without pictures; tables as lists.

    Raises:
        UserError: the dataset is not defined, or the run says what the user can put right.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.datasets import get_definition

    with standing_registry(load_settings()) as registry:
        get_definition(registry, name)
    with progress_bars(not as_json, title=title):
        from al_dagster.assets.partitions import datasets
        from al_dagster.runs import asset_metadata, execute, failed_checks

        result = execute(job, partition=name, partitions=datasets, config=config)
    failed = failed_checks(result)
    for sentence in failed:
        warn(f"check failed: {sentence}")
    figures = {asset: _figures(asset_metadata(result, asset)) for asset in assets}
    return {"run_id": result.run_id, "failed_checks": failed, **figures}


def _of_run(made: dict[str, Any]) -> dict[str, Any]:
    return {key: made[key] for key in ("run_id", "failed_checks")}


def _figures(metadata: Any) -> dict[str, Any]:
    from al_dagster.resources.pictures import ADDRESS

    figures: dict[str, Any] = {}
    for name, value in metadata.items():
        if hasattr(value, "records"):
            figures[name] = [dict(record.data) for record in value.records]
        elif not (isinstance(value, str) and value.startswith(f"![]({ADDRESS}/")) and not name.startswith("dagster/"):
            figures[name] = value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
    return figures


def _show(name: str, figures: dict[str, Any]) -> None:
    sizes = [f"{split} {figures[f'images_{split}']} ({figures[f'objects_{split}']} objects)" for split in SPLITS]
    one_sided = figures["categories_in_one_split"]
    facts = {
        "version": "new" if figures["new_version"] else "stands already, with the same content",
        "id": figures["dataset_id"],
        "images": ", ".join(sizes),
        "left out": None if figures["left_out"] == "nothing" else figures["left_out"],
        "confidence": None if figures["confidence"] == "as the filter asks" else figures["confidence"],
        "empty splits": None if figures["empty_splits"] == "none" else figures["empty_splits"],
        "in one split": None if one_sided == "none" else f"{one_sided}; label more images",
        "formats": figures.get("formats"),
        "folder": figures.get("folder"),
    }
    print_facts(f"Dataset {name} {figures['version']}", facts)
