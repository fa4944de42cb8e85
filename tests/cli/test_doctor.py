"""What the doctor opens, and what it says of what is damaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_dagster.cli import doctor
from al_dagster.core.settings import Settings
from al_dagster.registry.database import open_registry
from al_dagster.registry.embedding_versions import list_versions
from al_dagster.resources.instance import DATABASES
from al_dagster.vectors.chroma import ChromaStore


@pytest.fixture
def spoilt(place: Any) -> Path:
    """The home, which a test may damage."""
    return Path(place.home)


def wrong(said: Any) -> dict[str, str]:
    assert said.status == (1 if any(not row["ok"] for row in said.json) else 0)
    return {row["what"]: row["says"] for row in said.json if not row["ok"]}


def newest(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_file_has_more_permissions_than_the_umask_leaves(place: Any, al: Callable, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        home = tmp_path / "home"
        for command in (
            ("ingest", place.images, "-p", "shapes", "-c", "square,disc", "--support", place.support),
            ("dataset", "create", "--name", "parts", "-p", "shapes"),
            ("dataset", "export", "parts"),
        ):
            said = al(home, *command)
            assert said.status == 0, said.err
    finally:
        os.umask(before)
    files = [path for path in home.rglob("*") if not path.is_symlink()]
    assert len(files) > 50
    assert [path for path in files if path.stat().st_mode & 0o077] == []


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


@pytest.mark.slow
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


def one_object(home: Path, here: Callable) -> str:
    return str(here("objects", "list", "--json", home=home).json[0]["object_id"])


@pytest.mark.parametrize("lost", ["folder", "emptied", "vectors"])
def test_a_lost_vector_index_is_noticed_and_reconciling_fills_it(spoilt: Path, here: Callable, lost: str) -> None:
    index, named = spoilt / "registry" / "chroma", one_object(spoilt, here)
    if lost == "folder":
        shutil.rmtree(index)
    elif lost == "emptied":
        (index / "chroma.sqlite3").write_bytes(b"")
    else:
        shutil.rmtree(index)
        with open_registry(Settings(home=spoilt).database_url) as registry:
            (version,) = list_versions(registry)
        ChromaStore(index, version.version_id, version.dimension).close()
    found = wrong(here("doctor", "--json", home=spoilt))
    assert set(found) == {"vector store"}
    assert "`al sync --reconcile`" in found["vector store"]
    said = here("search", named, home=spoilt)
    assert (said.status, said.out) == (2, "")
    assert "`al sync --reconcile`" in said.err
    if lost != "vectors":
        assert "`al sync --reconcile` fills it from the registry" in here("status", home=spoilt).err
        assert here("status", "--json", home=spoilt).json["problems"]
    assert here("sync", "--reconcile", "--json", home=spoilt).json["repaired"] == 8
    assert wrong(here("doctor", "--json", home=spoilt)) == {}
    assert len(here("search", named, "--json", home=spoilt).json) == 7


def test_the_doctor_makes_no_index(spoilt: Path, here: Callable) -> None:
    shutil.rmtree(spoilt / "registry" / "chroma")
    here("doctor", "--json", home=spoilt)
    assert not (spoilt / "registry" / "chroma").exists()


@pytest.mark.slow
def test_labelling_fills_a_lost_vector_index(spoilt: Path, al: Callable, here: Callable) -> None:
    shutil.rmtree(spoilt / "registry" / "chroma")
    said = al(spoilt, "ingest", "-p", "shapes", "--again")
    assert said.status == 0, said.err
    assert wrong(here("doctor", "--json", home=spoilt)) == {}


@pytest.mark.parametrize("lost", ["gone", "emptied", "cut off", "other magic"])
def test_a_lost_registry_beside_what_it_knew_is_noticed_and_never_made_anew(
    spoilt: Path, place: Any, here: Callable, spoil: Callable, lost: str
) -> None:
    database = spoilt / "registry" / "registry.db"
    if lost == "gone":
        database.unlink()
    else:
        spoil(database, lost)
    if lost == "cut off":
        database.write_bytes(database.read_bytes()[: len(database.read_bytes()) // 2])
    before = database.read_bytes() if database.exists() else None
    commands = (
        ["status"],
        ["search", "obj_aaaaaaaaaaaa"],
        ["objects", "list"],
        ["sync"],
        ["ingest", place.images, "-p", "new", "-c", "person"],
    )
    for command in commands:
        said = here(*command, home=spoilt)
        assert (said.status, said.out, said.err.count("\n")) == (2, "", 1), said
        assert "put back a copy of it" in said.err
    found = wrong(here("doctor", "--json", home=spoilt))
    assert set(found) == {"registry"}
    assert "put back a copy of it" in found["registry"]
    assert (database.read_bytes() if database.exists() else None) == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["emptied", "cut off", "other magic"])
@pytest.mark.parametrize("name", DATABASES)
def test_a_damaged_database_of_dagster_is_named_and_moving_it_away_mends_it(
    spoilt: Path, here: Callable, spoil: Callable, name: str, damage: str
) -> None:
    database = spoilt / "dagster" / name
    spoil(database, damage)
    found = wrong(here("doctor", "--json", home=spoilt))
    assert set(found) == {"dagster"}
    said = here("sync", "--reconcile", home=spoilt)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1), said
    assert f"{database}: a database of Dagster is damaged" in said.err
    assert "move it away" in said.err
    database.rename(database.with_suffix(".away"))
    assert wrong(here("doctor", "--json", home=spoilt)) == {}
    assert here("sync", "--reconcile", home=spoilt).status == 0


def test_a_lost_mlflow_database_beside_its_models_is_noticed(spoilt: Path, here: Callable) -> None:
    weights = spoilt / "mlartifacts" / "parts" / "a1b2" / "artifacts" / "weights"
    weights.mkdir(parents=True)
    found = wrong(here("doctor", "--json", home=spoilt))
    assert set(found) == {"mlflow"}
    assert "is gone, while" in found["mlflow"]
