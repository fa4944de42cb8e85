"""Metadata as the Dagster UI shows it: pictures and tables."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from al_dagster.resources.pictures import shown_picture


def picture(content: bytes, kind: str) -> dg.MetadataValue:
    """A picture that stands already, shown in the UI.

    Args:
        content: the bytes of the file.
        kind: ``jpeg`` or ``png``.
    """
    from al_dagster.core.settings import load_settings

    made_from = hashlib.sha256(content).hexdigest()[:32]
    shown = shown_picture(load_settings().pictures_dir, made_from, kind, lambda: content)
    assert shown is not None
    return shown


def table_of(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Rows as a table; all have the keys of the first."""
    records = [dg.TableRecord(dict(row)) for row in rows]
    columns = [dg.TableColumn(name, type(value).__name__) for name, value in (rows[0] if rows else {}).items()]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))
