"""``al status``, ``search`` and ``sync``."""

import shlex
from typing import Annotated, Any

import typer

from al_dagster.cli.grouping import describe_groups
from al_dagster.cli.output import Json, many, print_facts, print_json, print_table, progress_bars, say, warn

SHOWN = 20
REASONS_LOOKED_UP = 100

_LISTS = ("projects", "unfinished", "quarantined", "labelled_in_part", "datasets")

_STATES = {
    "objects": "with objects",
    "background": "background",
    "unsure": "unsure",
    "failed": "not labelled",
    "waiting": "waiting",
}

Project = Annotated[str | None, typer.Option("--project", "-p", help="Only objects of this project.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(search)
    app.command()(sync)


def status(as_json: Json = False) -> None:
    """Show what there is: projects, unfinished batches, files left out and why, datasets, the outbox.

    A file that cannot be read is quarantined. Of an animation the first picture is labelled, and of a file of several
    pages those that can be read.
    """
    from al_dagster.cli.stores import has_registry, standing_registry
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    found: dict[str, Any] = {key: [] for key in _LISTS}
    found["problems"] = []
    found["outbox"] = dict.fromkeys(("pending", "synced", "failed"), 0)
    if has_registry(settings):
        from al_dagster.registry.batches import describe_batches, unfinished_batches
        from al_dagster.registry.outbox import lost_index
        from al_dagster.registry.status import read_status

        with standing_registry(settings) as registry:
            unfinished = describe_batches(registry, unfinished_batches(registry))
            found = {**read_status(registry), "unfinished": _with_reasons(unfinished)}
            lost = lost_index(registry, settings.chroma_dir)
            found["problems"] = [lost] if lost else []
    if as_json:
        print_json(found)
    else:
        _show(str(settings.home.absolute()), found)


def _show(home: str, found: dict[str, Any]) -> None:
    if not found["projects"]:
        say(f"{home}: no projects yet; `al ingest FOLDER --project NAME --classes person,face` makes one")
        return
    for row in found["projects"]:
        facts = {
            "files": _counts(row, "files", "quarantined", "duplicates"),
            "groups": describe_groups(row["grouping"]),
            "batches": _counts(row, "batches", "unfinished"),
            "images": ", ".join(f"{count} {_STATES[state]}" for state, count in row["images"].items() if count) or None,
            "objects": _counts(row, "objects", "validated", "stale", "conflicts"),
        }
        print_facts(row["project"], facts)
    if found["unfinished"]:
        say("")
        say("Unfinished batches:")
        _list([f"  {row['batch']}  {many(row['files'], 'file')}: {row['reason']}" for row in found["unfinished"]])
        for command in dict.fromkeys(_goes_on(row) for row in found["unfinished"]):
            say(f"To go on with them:  {command}")
    for key, title in (("quarantined", "Quarantined files"), ("labelled_in_part", "Files labelled only in part")):
        if found[key]:
            say("")
            say(f"{title}:")
            _list([f"  {row['project']}  {row['file']}: {row['reason']}" for row in found[key]])
    if found["datasets"]:
        say("")
        columns = {"dataset": "dataset", "version": "version", "project": "project", "objects": "objects"}
        print_table("Datasets", found["datasets"], {**columns, "exported": "exported to"}, wide=["exported"])
    outbox = found["outbox"]
    say(f"Vector store: {outbox['synced']} changes synced, {outbox['pending']} pending, {outbox['failed']} failed")
    if outbox["failed"]:
        say("`al sync --reconcile` tries the failed ones again.")
    elif outbox["pending"]:
        say("`al sync` pushes the pending ones.")
    for problem in found["problems"]:
        warn(problem)


def _with_reasons(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The batches, each with why it is not finished."""
    if not batches:
        return []
    from al_dagster.runs import why_unfinished

    reasons = why_unfinished([row["batch"] for row in batches[:REASONS_LOOKED_UP]])
    return [{**row, "reason": reasons.get(row["batch"], "not begun")} for row in batches]


def _goes_on(row: dict[str, Any]) -> str:
    if row["origin"] == "inbox":
        return "al ui"
    return f"al ingest {shlex.quote(row['folder'])} --project {shlex.quote(row['project'])}"


def _counts(row: dict[str, Any], first: str, *others: str) -> str:
    rest = ", ".join(f"{row[name]} {name}" for name in others if row[name])
    return f"{row[first]}" + (f", {rest}" if rest else "")


def _list(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        say(line)
    if len(lines) > SHOWN:
        say(f"  … and {len(lines) - SHOWN} more; `al status --json` lists all")


def search(
    like: Annotated[str, typer.Argument(help="An object id, or the path of an image that shows one object.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many to find.")] = 10,
    category: Annotated[str | None, typer.Option(help="Only objects of this category.")] = None,
    project: Project = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only objects at least so sure.")] = None,
    as_json: Json = False,
) -> None:
    """Find the objects that look most like an object or a picture."""
    from al_dagster.cli.stores import check_conditions, standing_registry
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    with standing_registry(settings) as registry:
        check_conditions(registry, project=project, category=category)
    with progress_bars(not as_json, title="searching"):
        from al_dagster.labelling.search import search_like

        hits = search_like(
            settings, like, top_k=top_k, category=category, project=project, min_confidence=min_confidence
        )
    if as_json:
        print_json(hits)
        return
    columns = {"similarity": "like", "object_id": "object", "category": "category", "confidence": "conf"}
    columns |= {"project_id": "project", "file_path": "file"}
    print_table(f"Most like {like}", hits, columns, wide=["file_path"])


def sync(
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Compare registry and vector store both ways and repair.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Push what waits in the outbox to the vector store."""
    from al_dagster.cli.stores import standing_registry
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    with standing_registry(settings):
        pass
    with progress_bars(not as_json, title="reconciling" if reconcile else "syncing"):
        if reconcile:
            from al_dagster.runs import execute

            figures = execute("reconcile_vectors").output_for_node("reconcile_vector_store")
        else:
            from al_dagster.labelling.index import sync_all

            figures = sync_all(settings)
    if as_json:
        print_json(figures)
    else:
        say(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()))
