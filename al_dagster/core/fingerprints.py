"""Fingerprints: what a stored row was made from, and which rows can be used again."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def fingerprint(**made_from: Any) -> str:
    """32 hex characters that change exactly when something the row was made from changes.

    Args:
        made_from: JSON-serialisable values: input content, model id and revision, parameters, code version.
    """
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def content_hash(columns: Mapping[str, list[Any]]) -> str:
    """32 hex characters over the values of a table, given as columns; the data version of a materialization."""
    canonical = json.dumps(columns, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def table_hash(table: "pa.Table") -> str:
    """32 hex characters over the columns and rows of an Arrow table, whatever its metadata and its chunks."""
    rows = hashlib.sha256(str(table.schema.names).encode())
    for batch in table.replace_schema_metadata(None).combine_chunks().to_batches():
        rows.update(batch.serialize().to_pybytes())
    return rows.hexdigest()[:32]


def _plain(value: Any) -> Any:
    # The text of a long NumPy array leaves most of its values out.
    return value.tolist() if hasattr(value, "tolist") else str(value)
