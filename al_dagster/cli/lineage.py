"""``al lineage``."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from al_dagster.cli.output import Json, print_json, print_whole, progress_bars
from al_dagster.core.text import printable

LINE_LENGTH = 60
LEFT_OUT = ("training",)
"""Only in the JSON: what a dataset's definition says of training; a trained model lists its own parameters."""

Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A source (src_…), an object (obj_…), a dataset (ds_…, its name, or name@version), a model "
        "(name/version), or the id of an MLflow run.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lineage)


def lineage(identifier: Id, as_json: Json = False) -> None:
    """Show what a thing was made from, and what was made from it."""
    from al_dagster.cli.stores import standing_registry
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    with standing_registry(settings):
        pass
    with progress_bars(not as_json, title="tracing"):
        from al_dagster.lineage import trace

        found = trace(settings, identifier)
    if as_json:
        print_json(found)
        return
    tree = Tree(f"[bold]{found['kind']}[/bold] {escape(printable(found['id']))}")
    _grow(tree, {key: value for key, value in found.items() if key not in ("kind", "id")})
    print_whole(tree)


def _grow(tree: Tree, values: dict[str, Any]) -> None:
    for key, value in values.items():
        name = f"[cyan]{escape(printable(key.replace('_', ' ')))}[/cyan]"
        if value is None or value in ({}, []) or key in LEFT_OUT:
            continue
        if isinstance(value, list) and isinstance(value[0], dict):
            branch = tree.add(name)
            for item in value:
                _add_item(branch, item)
        elif isinstance(value, dict) and (any(map(_is_nested, value.values())) or len(_text(value)) > LINE_LENGTH):
            _grow(tree.add(name), value)
        elif isinstance(value, list) and len(_text(value)) > LINE_LENGTH:
            branch = tree.add(name)
            for item in value:
                branch.add(escape(_text(item)))
        else:
            tree.add(f"{name} {escape(_text(value))}")


def _add_item(branch: Tree, item: dict[str, Any]) -> None:
    """A thing in a list: its first value and the other plain ones in one line, what is nested in it below."""
    (_, title), *rest = item.items()
    plain = {key: value for key, value in rest if not _is_nested(value)}
    line = "  ".join(filter(None, [_text(title), _text(plain)]))
    _grow(branch.add(escape(line)), {key: value for key, value in rest if _is_nested(value)})


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{printable(key.replace('_', ' '))} {_text(item)}" for key, item in value.items() if item is not None
        )
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
