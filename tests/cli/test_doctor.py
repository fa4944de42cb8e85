"""What the doctor opens, and what it says of what is damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_dagster.cli import doctor


@pytest.fixture
def spoilt(place: Any, tmp_path: Path) -> Path:
    """A copy of the home, which a test may damage."""
    return Path(shutil.copytree(place.home, tmp_path / "copy"))


def wrong(said: Any) -> dict[str, str]:
    assert said.status == (1 if any(not row["ok"] for row in said.json) else 0)
    return {row["what"]: row["says"] for row in said.json if not row["ok"]}


def newest(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


@pytest.mark.parametrize("damage", ["emptied", "cut off", "flipped", "other magic"])
def test_damaged_masks_and_tables_are_found_and_the_command_it_names_mends_them(
    spoilt: Path, al: Callable, spoil: Callable, damage: str
) -> None:
    spoil(newest(spoilt / "registry" / "masks", "*.png"), damage)
    spoil(newest(spoilt / "lake" / "masks", "*.parquet"), damage)
    found = wrong(al(spoilt, "doctor", "--json"))
    assert set(found) == {"mask store", "lake"}
    assert all("`al ingest --project shapes --again` makes" in says for says in found.values())
    assert "1 of 8 masks are missing or damaged" in found["mask store"]
    said = al(spoilt, "ingest", "-p", "shapes", "--again")
    assert said.status == 0, said.err
    assert wrong(al(spoilt, "doctor", "--json")) == {}


def test_missing_tables_are_found(spoilt: Path, here: Callable) -> None:
    newest(spoilt / "lake" / "embeddings", "*.parquet").unlink()
    found = wrong(here("doctor", "--json", home=spoilt))
    assert set(found) == {"lake"}
    assert "is missing; `al ingest --project shapes --again` makes it anew" in found["lake"]


def test_above_its_bounds_it_says_how_many_it_looked_at(
    spoilt: Path, here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MASKS_LOOKED_AT", 3)
    monkeypatch.setattr(doctor, "TABLES_LOOKED_AT", 2)
    says = {row["what"]: row["says"] for row in here("doctor", "--json", home=spoilt).json}
    assert "masks as they were written: 3 looked at of 8" in says["mask store"]
    assert "tables as they were written: 2 looked at of 8" in says["lake"]


def test_a_damaged_or_missing_export_is_found_and_exporting_again_mends_it(
    spoilt: Path, al: Callable, spoil: Callable, tmp_path: Path
) -> None:
    (tmp_path / "parts.yaml").write_text("name: parts\nproject: shapes\nformats: [coco]\n")
    for command in (("create", tmp_path / "parts.yaml"), ("export", "parts")):
        said = al(spoilt, "dataset", *command)
        assert said.status == 0, said.err
    folder = spoilt / "exports" / "parts" / "1.0"
    assert wrong(al(spoilt, "doctor", "--json")) == {}
    spoil(newest(folder, "*.json"), "flipped")
    shutil.rmtree(spoilt / "lake" / "dataset")
    found = wrong(al(spoilt, "doctor", "--json"))
    assert set(found) == {"exports", "lake"}
    assert "`al dataset export parts@1.0` writes it again" in found["exports"]
    assert "`al dataset build parts` writes them again" in found["lake"]
    for command in ("build", "export"):
        assert al(spoilt, "dataset", command, "parts").status == 0
    assert wrong(al(spoilt, "doctor", "--json")) == {}
    shutil.rmtree(folder)
    assert "is missing" in wrong(al(spoilt, "doctor", "--json"))["exports"]
