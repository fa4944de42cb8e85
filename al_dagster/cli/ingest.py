"""``al ingest``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from al_dagster.cli.output import Json, print_json, print_table, progress_bars, say
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.core.project import ProjectConfig


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    project: Annotated[str, typer.Option("--project", "-p", help="Name of the project; a new name makes a project.")],
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="Folder of images, or one image; read in place, never changed."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", "-c", help="Class names, separated by commas; a new project needs them.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Which models label: embedded, the default, needs no download.")
    ] = None,
    support: Annotated[
        Path | None, typer.Option(help="Folder with one folder of example pictures for each class to label by example.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also label the project's earlier batches again, as it is configured now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Label images: detect, segment, embed, classify, register and index them.

    A file is labelled once in a project; a command that was interrupted is continued by the same command. Classes,
    profile and support folder stay with the project until they are given anew. New ones hold for new files;
    `al ingest --project NAME --again` applies them to the files labelled before, computing only what has changed and
    leaving alone what people validated, edited or deleted.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.labelling.intake import take_folder
    from al_dagster.registry.batches import list_batches
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.projects import list_projects, save_project

    if path is None and not again:
        raise UserError("give a folder of images or one image; or --again, to label the project's files again")
    if path is not None and not path.exists():
        raise UserError(f"{path} does not exist: give a folder of images or one image")
    settings = load_settings()
    with open_registry(settings.database_url) as registry:
        before = next((config for config in list_projects(registry) if config.name == project), None)
        config = _configured(before, project, classes, profile, support)
        _check_models(config)
        if path is None:
            save_project(registry, config)
            keys = []
        else:
            keys = take_folder(registry, path, config, batch_size=settings.batch_size)
            if not keys:
                _check_files(path, config)
        if again:
            keys = list_batches(registry, project)
        labelled_before = len(list_batches(registry, project)) > len(keys)
    rows = [_label(key, f"batch {number} of {len(keys)}", as_json) for number, key in enumerate(keys, start=1)]
    if as_json:
        print_json(rows)
        return
    _show(project, path, rows)
    if labelled_before and before is not None and before != config:
        say(f"{project} is configured anew; `al ingest --project {project} --again` labels its earlier files so too.")


def _configured(
    before: "ProjectConfig | None", name: str, classes: str | None, profile: str | None, support: Path | None
) -> "ProjectConfig":
    from al_dagster.core.project import parse_project

    if before is None and classes is None:
        raise UserError(f"project {name!r} is new: give its classes, such as --classes person,face")
    if classes is not None and not any(part.strip() for part in classes.split(",")):
        raise UserError(f"--classes {classes!r} names no class: give at least one, such as --classes person,face")
    standing = before.model_dump() if before else {"name": name}
    given = {"classes": classes, "profile": profile, "support": support and support.absolute()}
    return parse_project({**standing, **{key: value for key, value in given.items() if value is not None}}, "al ingest")


def _check_models(config: "ProjectConfig") -> None:
    """Refuse classes or examples that cannot be used before any file is taken."""
    from al_dagster.labelling.labels import detector_prompts
    from al_dagster.vision.profiles import build_models

    build_models(config.profile).detector.check_prompts(detector_prompts(config))


def _check_files(path: Path, config: "ProjectConfig") -> None:
    """Tell a place that holds nothing to label from one whose files are all labelled."""
    from al_dagster.media.inbox import scan_folder

    folder = path if path.is_dir() else path.parent
    skip = [config.support] if config.support else []
    files = {file.path for file in scan_folder(folder, settle_seconds=0, skip=skip)}
    if path.is_dir() and not files:
        raise UserError(f"{path} holds no files to label: give a folder of images or one image")
    if path.is_file() and str(path.absolute()) not in files:
        raise UserError(f"{path} is not taken: hidden and unfinished files and project.yaml are no images to label")


def _label(key: str, title: str, as_json: bool) -> dict[str, Any]:
    with progress_bars(not as_json, title=title):
        from al_dagster.assets.partitions import batches
        from al_dagster.runs import asset_metadata, execute

        result = execute("label_batch", partition=key, partitions=batches)
    sources, detections, objects = (asset_metadata(result, name) for name in ("sources", "detections", "objects"))
    return {
        "batch": key,
        "run_id": result.run_id,
        "files": sources["files"],
        "quarantined": sources["quarantined"],
        "duplicates": sources["duplicates"],
        "images_computed": detections["computed"],
        "images_reused": detections["reused"],
        "objects": objects["objects"],
        "unknown": objects["unknown"],
    }


def _show(project: str, path: Path | None, rows: list[dict[str, Any]]) -> None:
    if not rows:
        say(f"{path or project}: nothing new; every file is labelled already")
        return
    if len(rows) > 1:
        columns = {"batch": "batch", "files": "files", "quarantined": "quarantined", "objects": "objects"}
        print_table("Labelled", rows, columns)
    total = {name: sum(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], int)}
    parts = [
        f"{project}: {total['objects']} objects in {total['files']} files",
        *_some(total, {"quarantined": "files quarantined", "duplicates": "duplicates", "unknown": "proposals unknown"}),
        *_some(total, {"images_reused": "images taken as they were labelled before"}),
    ]
    say("; ".join(parts))
    if total["quarantined"]:
        say("Why files were quarantined:  al status")
    say(f"Look further:  al objects list --project {project}  or  al ui")


def _some(total: dict[str, int], names: dict[str, str]) -> list[str]:
    return [f"{total[key]} {name}" for key, name in names.items() if total[key]]
