"""Metadata as the Dagster UI shows it: pictures and tables."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg


def picture(content: bytes, kind: str) -> dg.MetadataValue:
    """A picture, shown in the UI; it lives in the event log, so it must be small.

    Args:
        content: the bytes of the file.
        kind: ``jpeg`` or ``png``.
    """
    return dg.MetadataValue.md(f"![](data:image/{kind};base64,{base64.b64encode(content).decode()})")


def table_of(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Rows as a table; all have the keys of the first."""
    records = [dg.TableRecord(dict(row)) for row in rows]
    columns = [dg.TableColumn(name, type(value).__name__) for name, value in (rows[0] if rows else {}).items()]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))
