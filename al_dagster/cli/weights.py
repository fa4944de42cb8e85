"""``al models``: the weights of the foundation models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from al_dagster.cli.output import Json, console, print_json, print_table, progress_bars, say
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.vision.catalog import ModelCard

COLUMNS = {
    "name": "name",
    "installed": "here",
    "commit": "commit",
    "revision": "revision",
    "size_mb": "MB",
    "gpu_mb": "GPU MB",
    "licence": "licence",
}
SHOWN_OF_COMMIT = 8

commands = typer.Typer(help="List, fetch and verify the weights of the foundation models.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="models")


@commands.command("list")
def list_(as_json: Json = False) -> None:
    """List the models by what they do: which are here, what each takes to fetch and on a GPU, and its licence.

    GPU MB is what the weights take; what a model computes takes more on top.
    """
    from al_dagster.vision.catalog import CATALOG

    rows = [_row(card) for card in CATALOG.values()]
    if as_json:
        print_json(rows)
        return
    for role in dict.fromkeys(row["role"] for row in rows):
        shown = [
            {**row, "commit": (row["commit"] or "")[:SHOWN_OF_COMMIT], "installed": _said(row)}
            for row in rows
            if row["role"] == role
        ]
        print_table(f"{role.capitalize()}s", shown, COLUMNS, wide=("licence",))


@commands.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Models; `al models list` names them.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="The models of a profile, such as foundation.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Take a copy of this folder, such as a fine-tune of your own."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag on the hub instead of the known one.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Convert pickled weights; only tensors are loaded from them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch models from the hub, or from a folder, into AL_MODELS.

    A model that is here, whole and of the same commit, is left as it is.
    """
    from al_dagster.vision.catalog import get_card
    from al_dagster.vision.fetch import fetch as fetch_model

    wanted = list(dict.fromkeys([*(names or ()), *(_of_profile(profile) if profile else ())]))
    if not wanted:
        raise UserError("name the models to fetch, or give --profile foundation; `al models list` names them")
    if len(wanted) > 1 and (source is not None or revision is not None):
        raise UserError("--from and --revision take one model")
    for name in wanted:
        get_card(name)
    done = []
    for name in wanted:
        with progress_bars(not as_json, title=f"fetching {name}"):
            fetched = fetch_model(name, revision=revision, source=source, allow_pickle=allow_pickle)
        weights = fetched.weights
        done.append(
            {
                "name": name,
                "new": fetched.new,
                "folder": str(weights.folder),
                "commit": weights.commit,
                "revision": weights.revision,
                "size_mb": round(weights.size_bytes / 1e6, 1),
            }
        )
        if not as_json:
            where = f"commit {weights.commit[:SHOWN_OF_COMMIT]}" if weights.commit else "from a folder"
            say(
                f"{name}: {'fetched' if fetched.new else 'was here already'}, {where}, revision {weights.revision}, "
                f"{weights.size_bytes / 1e6:.0f} MB"
            )
    if as_json:
        print_json(done)


@commands.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Models; by default all that are here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every file of the models and compare it with what was recorded when it was fetched.

    Exit status 1 if something differs.
    """
    from al_dagster.core.settings import load_settings
    from al_dagster.vision.catalog import get_card
    from al_dagster.vision.weights import installed
    from al_dagster.vision.weights import verify as verify_model

    wanted = list(dict.fromkeys(names or installed()))
    for name in wanted:
        get_card(name)
    found: list[dict[str, Any]] = []
    for name in wanted:
        with progress_bars(not as_json, title=f"verifying {name}"):
            try:
                wrong = verify_model(name)
            except UserError as error:
                wrong = [str(error)]
        found.append({"name": name, "ok": not wrong, "differences": wrong})
    if as_json:
        print_json(found)
    elif not found:
        say(f"{load_settings().models_dir}: no models; `al models fetch NAME` fetches one")
    else:
        for row in found:
            console.print("[green]ok[/green]    " if row["ok"] else "[red]wrong[/red] ", end="")
            say(f"{row['name']}: {', '.join(row['differences']) or 'every file is as recorded'}")
    if not all(row["ok"] for row in found):
        raise typer.Exit(1)


def _of_profile(profile: str) -> list[str]:
    """The models of a profile that have weights."""
    from al_dagster.vision.catalog import CATALOG
    from al_dagster.vision.profiles import PROFILES

    if profile not in PROFILES:
        raise UserError(f"there is no profile {profile!r}; the profiles are {', '.join(PROFILES)}")
    models = PROFILES[profile]
    needed = [name for name in (models.detector, models.segmenter, models.embedder) if name in CATALOG]
    if not needed:
        raise UserError(f"the profile {profile} needs no weights")
    return needed


def _row(card: "ModelCard") -> dict[str, Any]:
    from al_dagster.vision.weights import find, installed

    problem, weights = None, None
    if card.name in installed():
        try:
            weights = find(card.name)
        except UserError as error:
            problem = str(error)
    return {
        "name": card.name,
        "role": card.role,
        "installed": weights is not None,
        "problem": problem,
        "commit": weights.commit if weights else None,
        "revision": weights.revision if weights else None,
        "size_mb": round(weights.size_bytes / 1e6) if weights else card.download_mb,
        "gpu_mb": card.gpu_mb,
        "licence": card.licence,
        "repository": card.repository,
        "architecture": card.architecture,
        "version_id": card.version_id,
        "dimension": card.dimension,
        "use": card.use,
        "folder": str(weights.folder) if weights else None,
    }


def _said(row: dict[str, Any]) -> str:
    return "yes" if row["installed"] else "damaged" if row["problem"] else "no"
