"""What the command prints: tables for people, JSON for programs, progress bars while one waits."""

import io
import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from al_dagster.cli.interrupts import interrupted
from al_dagster.core.progress import listening
from al_dagster.core.text import printable, printable_json

console = Console()
errors = Console(stderr=True)

WIDEST = 100_000
"""Columns of what is no terminal: more than any row has."""

LINE_EVERY_SECONDS = 20.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def say(text: str) -> None:
    """Print a line as it is, not folded, whatever characters are in it."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line on standard error, under the command's name."""
    errors.print("[red]al:[/red] ", end="", highlight=False)
    errors.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def many(count: int, name: str) -> str:
    """A count with what is counted, as in "1 file" and "2 files"."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def print_json(value: object) -> None:
    """Print a value as JSON; dates become ISO text, and what JSON does not know becomes text."""
    typer.echo(printable_json(json.dumps(value, indent=2, default=_plain, ensure_ascii=False)))


def print_table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, wide: Collection[str] = ()
) -> None:
    """Print rows as a table, or that there are none.

    Args:
        title: what the rows are.
        rows: their values by key.
        columns: the keys that are shown, with their headers.
        wide: the columns that are folded where the terminal is too narrow; no other is.
    """
    if not rows:
        say(f"{title}: none")
        return
    table = Table(
        title=escape(printable(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for key, header in columns.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        numeric = bool(values) and all(isinstance(value, (int, float)) for value in values)
        table.add_column(
            header, justify="right" if numeric else "left", overflow="fold", no_wrap=key not in wide, min_width=4
        )
    for row in rows:
        table.add_row(*(escape(_cell(row.get(key))) for key in columns))
    print_whole(table)


def print_whole(shown: RenderableType) -> None:
    """Print a table or a tree, as wide as the terminal or COLUMNS; where the output has no width, as wide as it is."""
    if console.file.isatty() or "COLUMNS" in os.environ:
        console.print(shown, highlight=False)
        return
    wide = Console(width=WIDEST)
    with wide.capture() as captured:
        wide.print(shown, highlight=False)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print a heading and under it names with their values; None is left out."""
    console.print(printable(title), style="bold", markup=False, highlight=False, soft_wrap=True)
    shown = {
        name: f"{round(value, 3):g}" if isinstance(value, float) else _cell(value)
        for name, value in facts.items()
        if value is not None
    }
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        say(f"  {name:<{width}}  {value}")


@contextmanager
def progress_bars(enabled: bool = True, *, title: str = "", lines: bool = False) -> Iterator[None]:
    """Show on a terminal that a command is at work, and a bar for each step that reports how far it has come.

    The bars are on standard error and vanish at the end. Ctrl-C stops a step when it reports.

    Args:
        enabled: whether anything is shown.
        title: what the command is doing.
        lines: where standard error is no terminal, say in lines what is begun, and now and then how far it has come.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    tasks: dict[str, TaskID] = {}
    with _own_console() as shown_on:
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeElapsedColumn(),
            console=shown_on,
            disable=not (enabled and shown_on.is_terminal),
            transient=True,
        )

        told = time.monotonic()

        def tell(text: str, *, at_once: bool) -> None:
            nonlocal told
            in_lines = enabled and lines and not shown_on.is_terminal
            if in_lines and (at_once or time.monotonic() - told >= LINE_EVERY_SECONDS):
                told = time.monotonic()
                shown_on.print(printable(text), markup=False, highlight=False, soft_wrap=True)

        def listener(step: str, done: int, total: int) -> None:
            if interrupted():
                raise KeyboardInterrupt
            if step not in tasks:
                tasks[step] = progress.add_task(escape(printable(step)), total=total, count="")
            tell(f"{title}: {step} {done}/{total}", at_once=done == total)
            progress.update(tasks[step], completed=done, total=total, count=f"{done}/{total}")

        tell(title, at_once=True)
        with progress, listening(listener):
            whole = progress.add_task(f"[bold]{escape(printable(title))}[/bold]", total=None, count="")
            yield
            progress.update(whole, total=1, completed=1)


@contextmanager
def _own_console() -> Iterator[Console]:
    """Standard error as it is now: Dagster sends what a run writes there into the run's own log."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (io.UnsupportedOperation, AttributeError, ValueError):
        yield errors
        return
    with os.fdopen(descriptor, "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        yield Console(file=stream)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else printable(str(value))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
