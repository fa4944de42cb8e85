"""What all tables share: naming of constraints, JSON columns, and timestamps by the database's clock."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import JSON, MetaData, insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import DateTime

T = TypeVar("T")


class UtcNow(FunctionElement[datetime]):
    """The current time in UTC with at least millisecond precision, by the database's clock."""

    type = DateTime()
    inherit_cache = True


@compiles(UtcNow)
def _utc_now(element: UtcNow, compiler: SQLCompiler, **options: Any) -> str:
    return "(timezone('utc', CURRENT_TIMESTAMP))"


@compiles(UtcNow, "sqlite")
def _utc_now_sqlite(element: UtcNow, compiler: SQLCompiler, **options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"


class Base(DeclarativeBase):
    """Declares the tables; a Python None in a JSON column is SQL NULL."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True), list[Any]: JSON(none_as_null=True)}  # noqa: RUF012


def utc_now() -> Mapped[datetime]:
    """A column that the database fills with the current time."""
    return mapped_column(server_default=UtcNow())


def bulk_insert(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, given by column name and all with the same columns, without an object for each; none is fine."""
    if rows:
        session.connection().execute(insert(table), rows)


def chunked(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """The values in pieces that fit a query's ``IN``; databases limit the number of its parameters."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
