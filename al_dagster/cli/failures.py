"""What a command that cannot go on says, and the exit status that it leaves."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import typer

from al_dagster.cli.interrupts import interrupted
from al_dagster.cli.output import warn
from al_dagster.core.databases import is_damaged
from al_dagster.core.disk import disk_full, is_disk_full
from al_dagster.core.errors import UserError

FAILED, USERS, INTERRUPTED = 1, 2, 130
STOPPED = "interrupted; the same command again goes on where this one stopped"
LOG_FILE = "al.log"


@contextmanager
def told() -> Iterator[None]:
    """Turn every exception of a command into one line on standard error and an exit status."""
    try:
        yield
    except UserError as error:
        _end(USERS, str(error))
    except typer.TyperException as error:
        _end(error.exit_code, _usage(error))
    except (KeyboardInterrupt, typer.Abort):
        _end(INTERRUPTED, STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None or _is_disk_full(error):
            _unexpected(error)
        _end(USERS, f"{error.filename}: {error.strerror or error}; if it lies in AL_HOME, set that to another folder")
    except Exception as error:
        _unexpected(error)


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the arguments in one line; the help itself where a group was called alone."""
    context = getattr(error, "ctx", None)
    message = error.format_message().strip()
    if context is None or message == "":
        return message
    return f"{message.rstrip('.')}; `{context.command_path} --help` shows what it takes"


def _unexpected(error: Exception) -> NoReturn:
    if interrupted():
        _end(INTERRUPTED, STOPPED)
    if _is_disk_full(error):
        _end(USERS, str(disk_full(_home())))
    if is_damaged(error):
        where = f"a database in {_home()} is damaged"
        _end(USERS, f"{where}: `al doctor` says which one and what to do; {_logged(error)}")
    # A run can only have failed where the module that starts runs is loaded; to load it here would take seconds.
    runs = sys.modules.get("al_dagster.runs")
    if runs is not None and isinstance(error, runs.RunFailedError):
        _end(FAILED, str(error))
    said = (str(error).strip() or "no message").splitlines()[0]
    _end(FAILED, f"unexpected {type(error).__name__}: {said}; {_logged(error)}")


def _is_disk_full(error: Exception) -> bool:
    return is_disk_full(error, _home())


def _home() -> Path:
    from al_dagster.core.settings import load_settings

    try:
        return load_settings().home.absolute()
    except UserError:
        return Path.cwd()


def _logged(error: Exception) -> str:
    path = _home() / LOG_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {' '.join(sys.argv)}\n")
            log.write("".join(traceback.format_exception(error)))
    except OSError:
        return "its stack trace could not be written to AL_HOME"
    return f"its stack trace is in {path}"


def _end(status: int, message: str) -> NoReturn:
    if message:
        warn(message)
    sys.exit(status)
