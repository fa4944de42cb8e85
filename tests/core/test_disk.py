"""How a full disk is recognised: by errors that the system and the libraries really raise."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from al_dagster.core import disk
from al_dagster.core.disk import DiskFullError, disk_full, is_disk_full, require_space
from al_dagster.core.errors import UserError


def full_device() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def full_device_under_arrow() -> None:
    with pa.OSFile("/dev/full", "wb") as file:
        pq.write_table(pa.table({"a": list(range(100_000))}), file)


def full_database() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")


def full_database_under_sqlalchemy() -> None:
    with sa.create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
        connection.exec_driver_sql("PRAGMA max_page_count = 2")
        connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(100000))")


def quota() -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def wrapped() -> None:
    try:
        full_device()
    except OSError as error:
        raise RuntimeError("while handling output") from error


def hidden() -> None:
    try:
        full_device()
    except OSError:
        raise RuntimeError("while handling output") from None


def together() -> None:
    try:
        full_device()
    except OSError as error:
        raise ExceptionGroup("several", [ValueError("a"), error]) from None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    "fails",
    [
        full_device,
        full_device_under_arrow,
        full_database,
        full_database_under_sqlalchemy,
        quota,
        wrapped,
        hidden,
        together,
    ],
)
def test_a_full_disk_is_recognised_whoever_says_so(fails: Callable[[], None], tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        fails()
    assert is_disk_full(raised.value, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOENT, "No such file or directory", "no space left on device.txt"),
        UserError("model m does not fit: no space left on device; set AL_MODELS"),
        sqlite3.OperationalError("database is locked"),
        sqlite3.OperationalError("disk I/O error"),
        ValueError("space"),
    ],
)
def test_other_errors_are_not_taken_for_it_while_there_is_room(error: Exception, tmp_path: Path) -> None:
    assert not is_disk_full(error, tmp_path)


def test_an_unclear_error_means_a_full_disk_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
    assert is_disk_full(sqlite3.OperationalError("disk I/O error"), tmp_path / "not" / "there")
    assert not is_disk_full(sqlite3.OperationalError("no such table: t"), tmp_path)


def test_an_error_that_came_of_itself_is_looked_at_once(tmp_path: Path) -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_disk_full(first, tmp_path)


def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path / "not" / "there")
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
    with pytest.raises(DiskFullError, match=f"the disk is full: that of {tmp_path}.* make room and run"):
        require_space(tmp_path)
    assert is_disk_full(disk_full(tmp_path), tmp_path)
