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


def wrong(said: Any) -> dict[str, str]:
    assert said.status == (1 if any(not row["ok"] for row in said.json) else 0)
    return {row["what"]: row["says"] for row in said.json if not row["ok"]}


def newest(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["emptied", "cut off", "flipped", "other magic"])
def test_damaged_masks_and_tables_are_found_and_the_command_it_names_mends_them(
    place: Any, al: Callable, spoil: Callable, damage: str
) -> None:
    spoil(newest(place.home / "registry" / "masks", "*.png"), damage)
    spoil(newest(place.home / "lake" / "masks", "*.parquet"), damage)
    found = wrong(al(place.home, "doctor", "--json"))
    assert set(found) == {"mask store", "lake"}
    assert all("`al ingest --project shapes --again` makes" in says for says in found.values())
    assert "1 of 8 masks are missing or damaged" in found["mask store"]
    said = al(place.home, "ingest", "-p", "shapes", "--again")
    assert said.status == 0, said.err
    assert wrong(al(place.home, "doctor", "--json")) == {}


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


def test_missing_tables_are_found(place: Any, here: Callable) -> None:
    newest(place.home / "lake" / "embeddings", "*.parquet").unlink()
    found = wrong(here("doctor", "--json", home=place.home))
    assert set(found) == {"lake"}
    assert "is missing; `al ingest --project shapes --again` makes it anew" in found["lake"]


def test_above_its_bounds_it_says_how_many_it_looked_at(
    place: Any, here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MASKS_LOOKED_AT", 3)
    monkeypatch.setattr(doctor, "TABLES_LOOKED_AT", 2)
    says = {row["what"]: row["says"] for row in here("doctor", "--json", home=place.home).json}
    assert "masks as they were written: 3 looked at of 8" in says["mask store"]
    assert "tables as they were written: 2 looked at of 8" in says["lake"]


@pytest.mark.slow
def test_a_damaged_or_missing_export_is_found_and_exporting_again_mends_it(
    place: Any, al: Callable, spoil: Callable, tmp_path: Path
) -> None:
    (tmp_path / "parts.yaml").write_text("name: parts\nproject: shapes\nformats: [coco]\n")
    for command in (("create", tmp_path / "parts.yaml"), ("export", "parts")):
        said = al(place.home, "dataset", *command)
        assert said.status == 0, said.err
    folder = place.home / "exports" / "parts" / "1.0"
    assert wrong(al(place.home, "doctor", "--json")) == {}
    spoil(newest(folder, "*.json"), "flipped")
    shutil.rmtree(place.home / "lake" / "dataset")
    found = wrong(al(place.home, "doctor", "--json"))
    assert set(found) == {"exports", "lake"}
    assert "`al dataset export parts@1.0` writes it again" in found["exports"]
    assert "`al dataset build parts` writes them again" in found["lake"]
    for command in ("build", "export"):
        assert al(place.home, "dataset", command, "parts").status == 0
    assert wrong(al(place.home, "doctor", "--json")) == {}
    shutil.rmtree(folder)
    assert "is missing" in wrong(al(place.home, "doctor", "--json"))["exports"]


def one_object(home: Path, here: Callable) -> str:
    return str(here("objects", "list", "--json", home=home).json[0]["object_id"])


@pytest.mark.parametrize("lost", ["folder", "emptied", "vectors"])
def test_a_lost_vector_index_is_noticed_and_reconciling_fills_it(place: Any, here: Callable, lost: str) -> None:
    index, named = place.home / "registry" / "chroma", one_object(place.home, here)
    if lost == "folder":
        shutil.rmtree(index)
    elif lost == "emptied":
        (index / "chroma.sqlite3").write_bytes(b"")
    else:
        shutil.rmtree(index)
        with open_registry(Settings(home=place.home).database_url) as registry:
            (version,) = list_versions(registry)
        ChromaStore(index, version.version_id, version.dimension).close()
    found = wrong(here("doctor", "--json", home=place.home))
    assert set(found) == {"vector store"}
    assert "`al sync --reconcile`" in found["vector store"]
    said = here("search", named, home=place.home)
    assert (said.status, said.out) == (2, "")
    assert "`al sync --reconcile`" in said.err
    if lost != "vectors":
        assert "`al sync --reconcile` fills it from the registry" in here("status", home=place.home).err
        assert here("status", "--json", home=place.home).json["problems"]
    assert here("sync", "--reconcile", "--json", home=place.home).json["repaired"] == 8
    assert wrong(here("doctor", "--json", home=place.home)) == {}
    assert len(here("search", named, "--json", home=place.home).json) == 7


def test_the_doctor_makes_no_index(place: Any, here: Callable) -> None:
    shutil.rmtree(place.home / "registry" / "chroma")
    here("doctor", "--json", home=place.home)
    assert not (place.home / "registry" / "chroma").exists()


@pytest.mark.slow
def test_labelling_fills_a_lost_vector_index(place: Any, al: Callable, here: Callable) -> None:
    shutil.rmtree(place.home / "registry" / "chroma")
    said = al(place.home, "ingest", "-p", "shapes", "--again")
    assert said.status == 0, said.err
    assert wrong(here("doctor", "--json", home=place.home)) == {}


@pytest.mark.parametrize("lost", ["gone", "emptied", "cut off", "other magic"])
def test_a_lost_registry_beside_what_it_knew_is_noticed_and_never_made_anew(
    place: Any, here: Callable, spoil: Callable, lost: str
) -> None:
    database = place.home / "registry" / "registry.db"
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
        said = here(*command, home=place.home)
        assert (said.status, said.out, said.err.count("\n")) == (2, "", 1), said
        assert "put back a copy of it" in said.err
    found = wrong(here("doctor", "--json", home=place.home))
    assert set(found) == {"registry"}
    assert "put back a copy of it" in found["registry"]
    assert (database.read_bytes() if database.exists() else None) == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["emptied", "cut off", "other magic"])
@pytest.mark.parametrize("name", DATABASES)
def test_a_damaged_database_of_dagster_is_named_and_moving_it_away_mends_it(
    place: Any, here: Callable, spoil: Callable, name: str, damage: str
) -> None:
    database = place.home / "dagster" / name
    spoil(database, damage)
    found = wrong(here("doctor", "--json", home=place.home))
    assert set(found) == {"dagster"}
    said = here("sync", "--reconcile", home=place.home)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1), said
    assert f"{database}: a database of Dagster is damaged" in said.err
    assert "move it away" in said.err
    database.rename(database.with_suffix(".away"))
    assert wrong(here("doctor", "--json", home=place.home)) == {}
    assert here("sync", "--reconcile", home=place.home).status == 0


def test_a_lost_mlflow_database_beside_its_models_is_noticed(place: Any, here: Callable) -> None:
    weights = place.home / "mlartifacts" / "parts" / "a1b2" / "artifacts" / "weights"
    weights.mkdir(parents=True)
    found = wrong(here("doctor", "--json", home=place.home))
    assert set(found) == {"mlflow"}
    assert "is gone, while" in found["mlflow"]
