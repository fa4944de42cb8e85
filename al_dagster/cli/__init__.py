"""The ``al`` command."""

import os
import sys
from typing import Annotated

import typer

from al_dagster.cli import (
    calibrate,
    datasets,
    doctor,
    images,
    ingest,
    interrupts,
    lineage,
    look,
    models,
    objects,
    system,
    weights,
)
from al_dagster.cli.failures import INTERRUPTED, told

app = typer.Typer(
    name="al",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (system, doctor, ingest, look, images, objects, calibrate, datasets, models, weights, lineage):
    module.add_to(app)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"al {version('al_dagster')}")
        raise typer.Exit


@app.callback()
def prepare(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Auto-labelling on Dagster: photos in; labelled objects, datasets and trained models out.

    Everything is kept in the folder AL_HOME, by default ./data. Start with `al demo`, or with
    `al ingest FOLDER --project NAME --classes person,face`.
    """
    from al_dagster.core.logging import configure_logging
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    configure_logging(settings, quiet=True)


def main() -> None:
    """Run the command and exit.

    Exit status 0: done; 2: something that the user can put right, said in one sentence; 1: anything else, with the
    place of its log; 130: interrupted.
    """
    interrupts.watch()
    with told():
        status = app(prog_name="al", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
