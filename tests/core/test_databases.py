"""Damaged SQLite files."""

import sqlite3
from pathlib import Path

import pytest

from al_dagster.core.databases import damage_of, is_damaged


@pytest.fixture(params=["delete", "wal"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {request.param}")
    with connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(100)])
    connection.close()
    return path


@pytest.mark.parametrize(
    ("damage", "told"),
    [("emptied", "it is empty"), ("cut off", "it is cut off"), ("other magic", "it is no SQLite database")],
)
def test_damage_is_told_at_first_sight(database: Path, spoil, damage: str, told: str) -> None:
    assert damage_of(database) is None
    spoil(database, damage)
    assert damage_of(database) == told


def test_a_database_that_is_not_there_or_being_written_is_not_damaged(database: Path) -> None:
    assert damage_of(database.with_name("none.db")) is None
    with sqlite3.connect(database) as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [("y" * 500,) for _ in range(5000)])
        assert damage_of(database) is None
    connection.close()
    assert damage_of(database) is None


def test_what_sqlite_says_of_damage_is_recognised_and_nothing_else(database: Path, spoil) -> None:
    with sqlite3.connect(database) as connection, pytest.raises(sqlite3.OperationalError) as other:
        connection.execute("SELECT * FROM none")
    connection.close()
    spoil(database, "other magic")
    with sqlite3.connect(database) as connection, pytest.raises(sqlite3.DatabaseError) as raised:
        connection.execute("SELECT * FROM t")
    connection.close()
    assert is_damaged(raised.value)
    assert not is_damaged(other.value)
    assert not is_damaged(ValueError("database disk image is malformed"))
