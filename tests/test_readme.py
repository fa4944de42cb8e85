"""The README keeps up with the code."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from al_dagster.cli import app
from al_dagster.core.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_stands_in_the_table_with_its_default_and_meaning(name):
    field = Settings.model_fields[name]
    default = "" if field.default is None else f"`{field.default}`"
    assert f"| `{field.alias or f'AL_{name.upper()}'}` | {default} | {field.description} |" in README


def test_every_command_that_it_shows_exists():
    group = get_command(app)
    shown = {tuple(words.split()) for words in re.findall(r"^al ([a-z]+(?: [a-z]+)?)", README, flags=re.MULTILINE)}
    assert len(shown) >= 8
    for name, *rest in shown:
        command = group.commands[name]
        subcommands = getattr(command, "commands", None)
        assert subcommands is None or rest[0] in subcommands


def test_every_picture_that_it_shows_is_there_and_small():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert 0 < (ROOT / picture).stat().st_size < 500_000


def test_every_asset_stands_in_the_table_of_the_graph():
    from al_dagster.definitions import defs

    names = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert names == set(re.findall(r"^\| `([a-z_]+)` \| (?:batch|project|dataset) \|", README, flags=re.MULTILINE))
