"""``al ingest``."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from al_dagster.cli.grouping import describe_groups
from al_dagster.cli.output import Json, many, print_json, print_table, progress_bars, say
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.core.project import ProjectConfig
    from al_dagster.core.settings import Settings
    from al_dagster.registry.database import Registry


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
        str | None,
        typer.Option(help="Which models label: embedded, the default, needs no download; foundation names anything."),
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="A detector in place of the profile's, such as florence-2-base or yolo.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of --detector yolo: a file, or model:DATASET for the newest model trained on it."),
    ] = None,
    support: Annotated[
        Path | None, typer.Option(help="Folder with one folder of example pictures for each class to label by example.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="A project.yaml; the one in PATH, if there is one, is read without being named."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also label the project's earlier batches again, as it is configured now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Label images: detect, segment, embed, classify, register and index them.

    A file is labelled once in a project; a command that was interrupted is continued by the same command. Classes,
    models and support folder stay with the project until they are given anew. New ones hold for new files;
    `al ingest --project NAME --again` applies them to the files labelled before, computing only what has changed and
    leaving alone what people validated, edited or deleted.
    """
    from al_dagster.core.project import anchored_weights
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
        given = {"classes": classes, "profile": profile, "support": support and support.absolute()}
        chosen = {"detector": detector, "weights": weights and anchored_weights(weights, Path())}
        left_out: list[str] = []
        config = _configured(before, project, config_file or _project_file(path), given, chosen)
        _check_models(config, registry)
        if path is None:
            save_project(registry, config)
            keys = []
        else:
            keys = take_folder(registry, path, config, batch_size=settings.batch_size, report=left_out.append)
        if again:
            keys = list_batches(registry, project)
        elsewhere = _under_way(keys)
        keys = [key for key in keys if key not in elsewhere]
        quarantined = _quarantined(registry, project, path)
        labelled_before = len(list_batches(registry, project)) > len(keys)
    rows = [_label(key, f"batch {number} of {len(keys)}", as_json) for number, key in enumerate(keys, start=1)]
    synced = _sync(settings, as_json)
    if as_json:
        print_json(rows)
        return
    _show(project, path, rows, quarantined, elsewhere=len(elsewhere))
    for problem in left_out:
        say(problem)
    if synced:
        say(f"{many(synced, 'change')} that waited for the vector store were pushed to it.")
    if rows or (before is not None and before.grouping != config.grouping):
        from al_dagster.registry.source_groups import grouped

        with open_registry(settings.database_url) as registry:
            groups = describe_groups(asdict(grouped(registry, project)))
        if groups:
            say(groups)
    if rows:
        say(f"Look further:  al objects list --project {shlex.quote(project)}  or  al ui")
    # Another grouping holds for all files at once.
    if labelled_before and before is not None and before != config.model_copy(update={"grouping": before.grouping}):
        say(
            f"{project} is configured anew; `al ingest --project {shlex.quote(project)} --again` "
            "labels its earlier files so too."
        )


def _project_file(path: Path | None) -> Path | None:
    from al_dagster.media.inbox import project_file

    return project_file(path) if path is not None and path.is_dir() else None


def _configured(
    before: "ProjectConfig | None",
    name: str,
    config_file: Path | None,
    given: dict[str, Any],
    chosen_models: dict[str, str | None],
) -> "ProjectConfig":
    """The project as it stood, with what its file says, with what the command says."""
    from al_dagster.core.project import load_project, parse_project

    classes = given["classes"]
    if before is None and classes is None and config_file is None:
        raise UserError(f"project {name!r} is new: give its classes, such as --classes person,face")
    if classes is not None and not any(part.strip() for part in classes.split(",")):
        raise UserError(f"--classes {classes!r} names no class: give at least one, such as --classes person,face")
    if config_file is not None:
        standing = load_project(config_file, name).model_dump()
    else:
        standing = before.model_dump() if before else {}
    models = {**standing.get("models", {}), **_without_none(chosen_models)}
    if chosen_models["detector"] is not None:
        models["weights"] = chosen_models["weights"]
    return parse_project({**standing, "name": name, "models": models, **_without_none(given)}, "al ingest")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_models(config: "ProjectConfig", registry: "Registry") -> None:
    """Refuse classes or examples that cannot be used before any file is taken."""
    from al_dagster.core.settings import load_settings
    from al_dagster.labelling.labels import detector_prompts
    from al_dagster.labelling.models import environment, project_models
    from al_dagster.labelling.support import find_examples

    find_examples(config, registry)
    with project_models(config, environment(load_settings())) as models:
        models.detector.check_prompts(detector_prompts(config))


def _quarantined(registry: "Registry", project: str, path: Path | None) -> int:
    """How many files of a place, or of the whole project, are quarantined."""
    from al_dagster.registry.sources import quarantined_files

    files = [Path(file) for _, file, _ in quarantined_files(registry, project)]
    return sum(path is None or file.is_relative_to(path.absolute()) for file in files)


def _under_way(keys: list[str]) -> set[str]:
    """The batches that another process is labelling, which this command leaves to it."""
    if not keys:
        return set()
    from al_dagster.runs import batches_under_way

    return batches_under_way(keys)


def _sync(settings: "Settings", as_json: bool) -> int:
    """Push what an earlier command left in the outbox; how many changes that were."""
    from al_dagster.labelling.index import sync_all

    with progress_bars(not as_json, title="syncing vectors"):
        return sync_all(settings)["synced"]


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
        "animations": sources["animations"],
        "pages_left_out": sources["pages_left_out"],
        "images_computed": detections["computed"],
        "images_reused": detections["reused"],
        "objects": objects["objects"],
        "unknown": objects["unknown"],
        "images_failed": objects["frames_failed"],
        "images_unsure": objects["frames_unsure"],
        "failures": None if objects["failures"] == "none" else objects["failures"],
    }


def _show(project: str, path: Path | None, rows: list[dict[str, Any]], quarantined: int, elsewhere: int) -> None:
    if elsewhere:
        batches = "1 batch is" if elsewhere == 1 else f"{elsewhere} batches are"
        say(f"{project}: {batches} being labelled by another process; `al ui` shows how far it is")
    if not rows and elsewhere:
        return
    if not rows:
        but = (
            f" but {quarantined}, which {'is' if quarantined == 1 else 'are'} quarantined:  al status"
            if quarantined
            else ""
        )
        say(f"{path or project}: nothing new; every file is labelled already{but}")
        if quarantined:
            say(f"`al ingest --project {shlex.quote(project)} --again` tries quarantined files again.")
        return
    if len(rows) > 1:
        columns = {"batch": "batch", "files": "files", "quarantined": "quarantined", "objects": "objects"}
        print_table("Labelled", rows, columns)
    total = {name: sum(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], int)}
    parts = [
        f"{project}: {many(total['objects'], 'object')} in {many(total['files'], 'file')}",
        *_some(total, "quarantined", "file", " quarantined"),
        *_some(total, "duplicates", "duplicate"),
        *_some(total, "unknown", "proposal", " unknown"),
        *_some(total, "images_reused", "image", " taken as labelled before"),
    ]
    say("; ".join(parts))
    if total["images_failed"]:
        reasons = "; ".join(row["failures"] for row in rows if row["failures"])
        say(f"{total['images_failed']} images could not be labelled: {reasons}")
        say("Those labelled before keep their labels, the others are in no dataset; the same command tries them again.")
    if total["images_unsure"]:
        say(
            f"{total['images_unsure']} images hold only proposals that are like no example: they are no background, "
            f"and in no dataset, unless you say so:  al images list --project {shlex.quote(project)} --state unsure"
        )
    in_part = [
        *_counted(total["animations"], "{} labelled by the first picture alone", "file is", "files are"),
        *_counted(total["pages_left_out"], "{} could not be read", "page", "pages"),
    ]
    if in_part:
        say(f"{'; '.join(in_part)}; which files:  al status")
    if total["quarantined"]:
        say("Why files were quarantined:  al status")


def _counted(count: int, text: str, one: str, many: str) -> list[str]:
    return [text.format(f"{count} {one if count == 1 else many}")] if count else []


def _some(total: dict[str, int], key: str, name: str, rest: str = "") -> list[str]:
    return [many(total[key], name) + rest] if total[key] else []
