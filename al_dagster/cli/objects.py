"""``al objects``: list, show, validate, edit, refresh, delete and accept objects."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from al_dagster.cli.output import Json, print_facts, print_json, print_table, progress_bars, say
from al_dagster.cli.people import By, named
from al_dagster.cli.stores import check_conditions, standing_registry
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.core.settings import Settings
    from al_dagster.registry.database import Registry


Id = Annotated[str, typer.Argument(metavar="ID", help="An object id, such as obj_4f2kq7x3n5ab.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Object ids, such as obj_4f2kq7x3n5ab.")]
WAITS = "vector and mask wait to be made anew"

commands = typer.Typer(help="List, show, validate, edit, refresh, delete and accept objects.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="objects")


@commands.command("list")
def list_(
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    category: Annotated[str | None, typer.Option(help="Only of this category.")] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only at least so sure.")] = None,
    validated: Annotated[
        bool | None, typer.Option("--validated/--not-validated", help="Only validated ones, or only others.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source: src_…")] = None,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="List instead the new labels that contradict what a person decided.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List the active objects, oldest first."""
    from al_dagster.core.settings import load_settings

    conditions: dict[str, Any] = {"category": category, "min_confidence": min_confidence, "is_validated": validated}
    conditions["source_id"] = source
    if conflicts and any(value is not None for value in conditions.values()):
        raise UserError("--conflicts goes with --project and --limit only")
    with standing_registry(load_settings()) as registry:
        check_conditions(registry, project=project, category=category)
        if conflicts:
            from al_dagster.registry.review import list_conflicts

            found = list_conflicts(registry, project=project)
            rows, total = found[:limit], len(found)
        else:
            rows, total = _listed(registry, {**conditions, "project": project}, limit)
    if as_json:
        print_json(rows)
        return
    if conflicts:
        columns = {"object_id": "object", "object_category": "is", "category": "labelled", "confidence": "conf"}
        print_table("Conflicts", rows, {**columns, "iou": "IoU", "batch_key": "batch"}, wide=["batch_key"])
    else:
        columns = {"object_id": "object", "category": "category", "confidence": "raw", "calibrated": "calibrated"}
        columns |= {"is_validated": "valid", "project_id": "project", "file_name": "file"}
        shown = [{**row, "calibrated": _calibrated(row)} for row in rows]
        print_table("Objects", shown, columns, wide=["file_name"])
        if stale := [row["object_id"] for row in rows if row["is_stale"]]:
            say(f"{', '.join(stale)}: {WAITS}; `al objects refresh` makes them")
    if total > len(rows):
        say(f"{len(rows)} of {total}; --limit shows more")


def _listed(registry: Any, conditions: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], int]:
    """Objects with the path and the name of their file, and how many there are in all."""
    from al_dagster.registry.objects import count_objects, list_objects
    from al_dagster.registry.paths import seen_files

    rows = list_objects(registry, **conditions, limit=limit)
    for name in {row["project_id"] for row in rows}:
        mine = [row for row in rows if row["project_id"] == name]
        files = seen_files(registry, [row["source_id"] for row in mine], name)
        for row in mine:
            path = files[row["source_id"]][0].file_path if row["source_id"] in files else None
            row |= {"file_path": path, "file_name": path and Path(path).name}
    return rows, count_objects(registry, **conditions)


@commands.command()
def show(
    object_id: Id,
    mask: Annotated[Path | None, typer.Option(help="Also write its mask to this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Show everything the registry knows of an object."""
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.objects import get_object
    from al_dagster.registry.paths import newest_path

    settings = load_settings()
    with standing_registry(settings) as registry:
        found = get_object(registry, object_id)
        found["file_path"] = newest_path(registry, found["source_id"], found["project_id"])
    if mask is not None:
        _write_mask(settings.masks_dir, found, mask)
    if as_json:
        print_json(found)
        return
    shown = {**found, "calibrated_confidence": _calibrated(found), "is_stale": WAITS if found["is_stale"] else None}
    print_facts(object_id, {name.replace("_", " "): value for name, value in shown.items() if name != "polygon"})


def _calibrated(row: dict[str, Any]) -> str | float | None:
    """The probability of being right; where there is none, the word for it."""
    from al_dagster.registry.labels import is_corrected

    if is_corrected(row):
        return "edited"
    known = row["calibrated_confidence"]
    return "uncalibrated" if known is None and row["confidence"] is not None else known


@commands.command()
def validate(ids: Ids, by: By, as_json: Json = False) -> None:
    """Say that objects are right as they are: all of them or none; labelling again leaves them so."""
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.review import validate_objects

    with standing_registry(load_settings()) as registry:
        validate_objects(registry, ids, named(by))
    _say("validated", ids, as_json)


@commands.command()
def edit(
    object_id: Id,
    by: By,
    category: Annotated[str | None, typer.Option(help="The right category.")] = None,
    box: Annotated[str | None, typer.Option(help="The right box: x,y,w,h in pixels.")] = None,
    occluded: Annotated[bool | None, typer.Option(help="Partly hidden by another object.")] = None,
    truncated: Annotated[bool | None, typer.Option(help="Cut by the edge of the image.")] = None,
    difficult: Annotated[bool | None, typer.Option(help="Hard to recognise.")] = None,
    as_json: Json = False,
) -> None:
    """Correct an object, which also validates it; labelling again leaves it as you left it.

    With a new box, mask and vector are made anew.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.review import edit_object

    settings = load_settings()
    with standing_registry(settings) as registry:
        edit_object(
            registry,
            object_id,
            named(by),
            category=category,
            bbox=_box(box),
            is_occluded=occluded,
            is_truncated=truncated,
            is_difficult=difficult,
        )
        waits = _renewed(settings, registry, object_id, as_json) if box is not None else None
    if as_json:
        print_json({"edited": [object_id], "waits": waits})
        return
    say(f"edited: {object_id}")
    if waits:
        say(f"its mask and vector are made later, by `al objects refresh`, since {waits}")


def _renewed(settings: "Settings", registry: "Registry", object_id: str, as_json: bool) -> str | None:
    """Make mask and vector of an object anew, if it waits for them; why it still does, or None."""
    from al_dagster.registry.objects import get_object

    found = get_object(registry, object_id)
    if not found["is_stale"]:
        return None
    from al_dagster.labelling.index import sync_all
    from al_dagster.labelling.refresh import refresh_project

    try:
        with progress_bars(not as_json, title="making mask and vector anew"):
            done = refresh_project(settings, registry, found["project_id"], [object_id])
            sync_all(settings)
    except UserError as error:
        return str(error)
    return done.unreadable.get(object_id)


@commands.command()
def refresh(
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    as_json: Json = False,
) -> None:
    """Make anew the masks and vectors of objects whose box was moved, and vectors that an older model made.

    Labelling again makes those of all other objects anew.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.labelling.index import sync_all
    from al_dagster.labelling.refresh import refresh_project
    from al_dagster.registry.projects import list_projects
    from al_dagster.registry.stale import stale_projects

    settings = load_settings()
    told: dict[str, Any] = {"refreshed": 0, "changed": 0, "unreadable": {}}
    problems = []
    with standing_registry(settings) as registry, progress_bars(not as_json, title="refreshing"):
        check_conditions(registry, project=project)
        for name in [project] if project is not None else [config.name for config in list_projects(registry)]:
            try:
                done = refresh_project(settings, registry, name)
            except UserError as error:
                # Of a project that nobody moved a box in, the models need not be here.
                if project is not None or name in stale_projects(registry):
                    problems.append(f"{name}: {error}")
                continue
            told["refreshed"] += done.refreshed
            told["changed"] += done.changed
            told["unreadable"] |= done.unreadable
        sync_all(settings)
    if as_json:
        print_json(told)
    else:
        say(f"made anew: {told['refreshed']}")
        if told["changed"]:
            say(f"changed meanwhile: {told['changed']}; run it again")
        for object_id, reason in told["unreadable"].items():
            say(f"{object_id} still waits: {reason}")
    if problems:
        raise UserError("; ".join(problems))


@commands.command()
def delete(ids: Ids, by: By, as_json: Json = False) -> None:
    """Say that objects are not there: all of them or none; labelling again does not bring them back.

    Objects that are deleted already are left as they are.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.registry.review import delete_objects

    ids = list(dict.fromkeys(ids))
    with standing_registry(load_settings()) as registry:
        deleted = delete_objects(registry, ids, named(by))
    before = [object_id for object_id in ids if object_id not in set(deleted)]
    if as_json:
        print_json({"deleted": deleted, "deleted_before": before})
        return
    for what, some in (("deleted", deleted), ("deleted before", before)):
        if some:
            say(f"{what}: {', '.join(some)}")


@commands.command()
def accept(
    project: Annotated[str, typer.Option("--project", "-p", help="Whose objects.")],
    precision: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the accepted that shall be right, such as 0.95.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="Only of this category, by the reviews of it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be accepted.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back what was accepted and no person has changed or confirmed since.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Validate the objects that the reviews of their detector support, without looking at each.

    For each detector that is calibrated (`al calibrate`), the lowest confidence is found above which the reviewed
    objects show the precision with 95 % certainty. It holds as far as the reviewed objects are like the others: review
    a random part, not the easy ones. Objects that a person touched are left alone.
    """
    from al_dagster.core.settings import load_settings

    if undo == (precision is not None) or (undo and dry_run):
        raise UserError("give either --precision, perhaps with --dry-run, or --undo")
    with standing_registry(load_settings()) as registry:
        check_conditions(registry, project=project, category=category)
        if undo:
            from al_dagster.registry.acceptance import undo_acceptance

            undone = undo_acceptance(registry, project, category)
            told: dict[str, Any] = {"undone": sum(undone.values()), "by_category": undone}
        else:
            from al_dagster.labelling.accept import accept_objects

            told = accept_objects(registry, project, precision or 0.0, category=category, dry_run=dry_run)
    if as_json:
        print_json(told)
    elif undo:
        say(f"taken back: {told['undone']}{_by_category(told)}")
    else:
        _say_accepted(told)


def _say_accepted(told: dict[str, Any]) -> None:
    verb = "would be accepted" if told["dry_run"] else "accepted"
    expected = told["expected_precision"]
    share = f"; {expected:.1%} of them are expected to be right" if expected is not None else ""
    say(f"{verb}: {told['accepted']}{_by_category(told)}{share}")
    for row in told["rules"]:
        say(f"{row['detection_model']}: {row['accepted']}, {row['rule']}, sure of {row['bound']:.3f}")
    for row in told["refused"]:
        say(f"{row['detection_model']}: none of {row['objects']}: {row['why']}")


def _by_category(told: dict[str, Any]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in told["by_category"].items())
    return f" ({counts})" if counts else ""


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--box {text}: expected four numbers x,y,w,h in pixels, such as 10,20,64,48") from None
    return x, y, w, h


def _write_mask(masks_dir: Path, found: dict[str, Any], target: Path) -> None:
    if not found["mask_path"]:
        raise UserError(f"{found['object_id']} has no mask")
    from al_dagster.registry.masks import MaskStore

    MaskStore(masks_dir).read(found["mask_path"])  # a damaged mask is not handed on
    try:
        target.write_bytes((masks_dir / found["mask_path"]).read_bytes())
    except OSError as error:
        raise UserError(f"the mask cannot be copied: {error.filename}: {error.strerror}") from None


def _say(what: str, ids: list[str], as_json: bool) -> None:
    if as_json:
        print_json({what: ids})
    else:
        say(f"{what}: {', '.join(ids)}")
