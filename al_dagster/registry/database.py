"""Opening the registry: one engine for a database that is at the newest revision, shared safely by processes."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import orjson
import structlog
from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.orm import Session

from al_dagster.core.databases import is_damaged
from al_dagster.core.disk import disk_full, is_disk_full
from al_dagster.core.errors import UserError
from al_dagster.registry.migrations import HEAD

BUSY_TIMEOUT_MS = 30_000
MIGRATIONS = Path(__file__).parent / "migrations"

BESIDE_DATASETS = frozenset(
    {"batches", "conflicts", "content_state", "dataset_definitions", "dataset_objects", "datasets", "embedding_outbox"}
)
"""Tables that say nothing of what a dataset would hold now; a change of any other renames the state."""

_RENAME_STATE = text(
    "INSERT INTO content_state (state_id, state) VALUES (1, :state) "
    "ON CONFLICT (state_id) DO UPDATE SET state = excluded.state"
)

log = structlog.get_logger(__name__)


class Registry:
    """A registry database; made by `open_registry`.

    Attributes:
        url: SQLAlchemy URL.
        engine: its engine; transactions begun on it directly only read, unless nobody else writes.
    """

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self.engine = engine
        self._writer = engine.execution_options(begin_mode="IMMEDIATE")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A write transaction: committed at the end of the block, rolled back if the block raises.

        On SQLite it takes the write lock at once, waiting up to 30 s for another writer, so keep the block short.
        Whatever is written to other tables than ``BESIDE_DATASETS`` renames the state that ``content_state`` gives.
        """
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            connection = session.connection()
            changes: list[str] = []

            def note(conn: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
                if not changes and _may_change_datasets(statement, context):
                    changes.append(statement)

            event.listen(connection, "before_cursor_execute", note)
            yield session
            session.flush()
            if changes:
                connection.execute(_RENAME_STATE, {"state": uuid4().hex})

    def content_state(self) -> str:
        """A name for the state of all that datasets are made of, which no other state has or will have.

        What is read after it was asked for may be newer than the state, never older.
        """
        with self.reader() as session:
            return session.scalar(text("SELECT state FROM content_state")) or ""

    @contextmanager
    def reader(self) -> Iterator[Session]:
        """A transaction for reading one consistent state, which waits for no writer; what it changes is rolled back."""
        with Session(self.engine) as session:
            yield session

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.dispose()


def open_registry(url: str) -> Registry:
    """Open a registry, first creating its folder and bringing its tables to the newest revision where needed.

    Safe to call from several processes at once.

    Args:
        url: SQLAlchemy URL of a SQLite file, such as ``sqlite:////data/registry/registry.db``.

    Raises:
        UserError: the URL or the file cannot be used, it is gone beside what it knew of, or a newer version of the
            program has written it.
    """
    path = _database_path(url)
    if is_lost(path):
        raise UserError(
            f"{path}: the registry is gone, while masks or vectors of earlier labelling stand beside it: put back a "
            f"copy of it, for what people said is nowhere else; or move {path.parent} away to begin anew"
        )
    engine = _create_engine(make_url(url))
    try:
        if not path.exists() or _revision(engine) != HEAD:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(path.name + ".migrate.lock")):
                _migrate(engine)
    except (OSError, DatabaseError) as error:
        engine.dispose()
        if is_disk_full(error, path):
            raise disk_full(path.parent) from error
        cause = error.orig if isinstance(error, DatabaseError) else error.strerror
        if is_damaged(error):
            raise UserError(
                f"{path}: cannot be used as the registry: {cause}; put back a copy of it, for what people said is "
                "nowhere else, or check AL_REGISTRY_URL and AL_HOME"
            ) from error
        raise UserError(f"{path}: cannot be used as the registry: {cause}; check AL_REGISTRY_URL and AL_HOME") from None
    except UserError:
        engine.dispose()
        raise
    return Registry(url, engine)


def is_lost(path: Path) -> bool:
    """Whether a registry is gone or empty, though masks or vectors that it knew of stand beside it."""
    if path.exists() and path.stat().st_size:
        return False
    beside = (path.with_name("masks").glob("*/*/*.png"), path.with_name("chroma").glob("chroma.sqlite3"))
    return any(next(found, None) is not None for found in beside)


def check_integrity(registry: Registry) -> None:
    """Read the whole database and check that it is consistent.

    Raises:
        UserError: it is not.
    """
    with registry.reader() as session:
        found = session.scalar(text("PRAGMA quick_check(1)"))
    if found != "ok":
        raise UserError(f"{registry.engine.url.database}: the registry is damaged ({found}): put back a copy of it")


def _database_path(url: str) -> Path:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UserError(
            f"AL_REGISTRY_URL: {url!r} is not a database URL; give one like sqlite:////data/registry.db"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        raise UserError(
            f"AL_REGISTRY_URL: {parsed.get_backend_name()} is not supported; give sqlite:////path/of/registry.db"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise UserError("AL_REGISTRY_URL: the registry needs a file; give sqlite:////path/of/registry.db")
    return Path(parsed.database)


def _create_engine(url: URL) -> Engine:
    engine = create_engine(
        url, json_serializer=_as_json, json_deserializer=orjson.loads, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
    )
    event.listen(engine, "connect", _prepare_connection)
    event.listen(engine, "begin", _begin)
    return engine


def _as_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _prepare_connection(connection: sqlite3.Connection, record: Any) -> None:
    # sqlite3 must not begin transactions by itself: it would begin them deferred, and two writers that both
    # started by reading cannot both go on.
    connection.isolation_level = None
    for pragma in (f"busy_timeout = {BUSY_TIMEOUT_MS}", "foreign_keys = ON", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _may_change_datasets(statement: str, context: Any) -> bool:
    """Whether a statement writes to a table that is not beside the datasets; what cannot be told may."""
    if statement.lstrip()[:6].upper() == "SELECT":
        return False
    compiled = getattr(context, "compiled", None)
    table = getattr(getattr(compiled, "statement", None), "table", None)
    return getattr(table, "name", None) not in BESIDE_DATASETS


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin_mode', 'DEFERRED')}")


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.scalar(text("SELECT version_num FROM alembic_version"))


def _migrate(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    found = _revision(engine)
    if found == HEAD:
        return
    if found and found not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise UserError(
            f"{engine.url.database}: was written by a newer version of al_dagster (revision {found}, this one knows "
            f"up to {HEAD}); install that version"
        )
    # Outside any transaction, and only under the migration lock: SQLite does not wait for others here.
    raw = engine.raw_connection()
    try:
        raw.execute("PRAGMA journal_mode = WAL")
    finally:
        raw.close()
    with engine.execution_options(begin_mode="IMMEDIATE").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.execute(_RENAME_STATE, {"state": uuid4().hex})
    log.info("registry migrated", path=engine.url.database, from_revision=found, to_revision=HEAD)
