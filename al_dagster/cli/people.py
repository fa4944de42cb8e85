"""Who makes a change: the option that names the person."""

import getpass
from typing import Annotated

import typer

from al_dagster.core.errors import UserError


def _whoami() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


By = Annotated[
    str,
    typer.Option("--by", help="Who says so; the user's name if left out.", default_factory=_whoami, show_default=False),
]


def named(by: str) -> str:
    """The name of the person who makes a change.

    Raises:
        UserError: it is empty.
    """
    if not by.strip():
        raise UserError("a change needs the name of the person who makes it: give --by NAME")
    return by
