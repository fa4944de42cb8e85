"""What a dataset needs of the registry, copied at one moment, as tables in DuckDB."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    import duckdb

Parts = Mapping[str, tuple[str, str]]
"""By the name of a table: its columns with their types, and the query that fills it, which may name ``:project``."""

_BUSY_SECONDS = 30
_PAGE_BYTES = 65536


@contextmanager
def snapshot(registry_url: str, project: str, parts: Parts) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A DuckDB connection with the tables ``registry.<part>``, all of one state of the registry.

    DuckDB never opens the registry itself: it brings a SQLite of its own, and two in one process do not see each
    other's locks, so that one would pull the shared memory from under the other.

    Args:
        registry_url: SQLAlchemy URL of the registry.
        project: the project, as ``:project`` in the queries.
        parts: what is copied.

    Raises:
        UserError: the registry is not a SQLite file.
    """
    import duckdb

    path = _file_of(registry_url)
    with TemporaryDirectory(prefix="al-registry-") as folder:
        copy = Path(folder) / "registry.db"
        _copy(path, copy, project, parts)
        # The signature of the extension, whose check takes longer than a small dataset, is that of a package that was
        # installed by its hash; nothing is ever loaded from elsewhere.
        with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as connection:
            connection.execute(f"LOAD {_quoted(_extension('sqlite_scanner'))}")
            connection.execute(f"ATTACH {_quoted(str(copy))} AS registry (TYPE sqlite, READ_ONLY)")
            yield connection


def _copy(path: str, copy: Path, project: str, parts: Parts) -> None:
    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS copy", (str(copy),))
        # Nobody else sees the copy, and it is thrown away.
        for pragma in (f"page_size = {_PAGE_BYTES}", "journal_mode = OFF", "synchronous = OFF"):
            connection.execute(f"PRAGMA copy.{pragma}")
        connection.execute("BEGIN")
        for table, (columns, query) in parts.items():
            connection.execute(f"CREATE TABLE copy.{table} ({columns})")
            connection.execute(f"INSERT INTO copy.{table} {query}", {"project": project} if ":project" in query else {})
        connection.execute("COMMIT")


def _file_of(registry_url: str) -> str:
    url = make_url(registry_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise UserError(
            f"the registry {url.render_as_string()} cannot be selected from: datasets need a registry in a SQLite "
            "file; set AL_REGISTRY_URL to sqlite:///PATH"
        )
    return url.database


def _extension(name: str) -> str:
    """The file of a DuckDB extension that was installed as a wheel: loading it from there needs no download."""
    import duckdb

    return str(files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
