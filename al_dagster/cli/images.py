"""``al images``: what is known of each image, and the images that people call background."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from al_dagster.cli.output import Json, print_json, print_table, say
from al_dagster.cli.people import By, named
from al_dagster.cli.stores import check_conditions, standing_registry
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.registry.database import Registry

Project = Annotated[str, typer.Option("--project", "-p", help="Whose images.")]
Images = Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Paths of images, or ids: src_… or frm_….")]

commands = typer.Typer(
    help="List what is known of each image; mark images that show nothing as background.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="images")


@commands.command("list")
def list_(
    project: Project,
    state: Annotated[
        str | None,
        typer.Option(help="Only images that have objects, are background, unsure or failed, or are waiting."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List the images of a project and what is known of each.

    An image has *objects*, or it is *background*: labelled, and nothing was found. It is *unsure* where things were
    proposed and none was like an example, *failed* where it could not be labelled, and *waiting* where it was not
    tried. Only images with objects and background go into datasets.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.frame_labels import STATES, count_frames, list_frames
    from al_dagster.registry.paths import seen_files

    chosen = next((name for name in STATES if name == state), None)
    if state is not None and chosen is None:
        raise UserError(f"--state {state}: an image is in one of the states {', '.join(STATES)}")
    with standing_registry(load_settings()) as registry:
        check_conditions(registry, project=project)
        rows = list_frames(registry, project, chosen, limit)
        files = seen_files(registry, [row["source_id"] for row in rows], project)
        counts = count_frames(registry, project)
    for row in rows:
        row["file_path"] = files[row["source_id"]][0].file_path
    if as_json:
        print_json(rows)
        return
    columns = {"frame_id": "image", "state": "state", "objects": "objects", "page": "page", "error": "why"}
    in_pages = {row["source_id"] for row in rows if row["frame_idx"]}
    shown = [{**row, "page": row["frame_idx"] + 1 if row["source_id"] in in_pages else None} for row in rows]
    if not in_pages:
        del columns["page"]
    print_table("Images", shown, {**columns, "file_path": "file"}, wide=["error", "file_path"])
    total = sum(counts.values()) if chosen is None else counts[chosen]
    say("; ".join(f"{count} {name}" for name, count in counts.items() if count) or "no images yet")
    if total > len(rows):
        say(f"{len(rows)} of {total}; --limit shows more")


@commands.command()
def background(
    images: Images,
    project: Project,
    by: By,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    as_json: Json = False,
) -> None:
    """Say that images show nothing of the project's classes; labelling again adds no objects to them.

    Datasets take them as background, also where the models were unsure or could not label them.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.frame_labels import list_frames, mark_background, unmark_background

    person = named(by)
    with standing_registry(load_settings()) as registry:
        check_conditions(registry, project=project)
        frame_ids = [frame_id for image in images for frame_id in _frames(registry, project, image)]
        if undo:
            unmark_background(registry, project, frame_ids)
            waiting = {row["frame_id"] for row in list_frames(registry, project, "waiting")}.intersection(frame_ids)
        else:
            waiting = set()
            mark_background(registry, project, frame_ids, person)
    told: dict[str, Any] = {"no longer background" if undo else "background": frame_ids}
    if as_json:
        print_json(told)
    else:
        say("; ".join(f"{what}: {', '.join(ids)}" for what, ids in told.items()))
        if waiting:
            say(f"not labelled yet: {len(waiting)}; `al ingest --project {shlex.quote(project)} --again` does it")


def _frames(registry: "Registry", project: str, image: str) -> list[str]:
    """The frames that an id or a path names."""
    from al_dagster.registry.frame_labels import frames_of
    from al_dagster.registry.paths import source_at

    if image.startswith("frm_"):
        return [image]
    source_id = image if image.startswith("src_") else source_at(registry, project, str(Path(image).absolute()))
    found = frames_of(registry, source_id) if source_id else []
    if not found:
        raise UserError(
            f"{image}: is not an image of project {project!r}; `al images list -p {shlex.quote(project)}` lists them"
        )
    return found
