"""The hash of a table's values, the same however they lie in memory."""

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa


def table_hash(table: pa.Table) -> str:
    """32 hex characters over names, types, order and values of a table's columns.

    Neither how the table is cut into chunks nor what lies in memory under empty values changes it.

    Raises:
        TypeError: a column holds something else than numbers, text, truth values and lists of them.
    """
    whole = hashlib.sha256()
    for field in table.schema:
        # Validity, lengths and values are hashed each by itself, so that chunks can follow one another.
        parts: dict[str, Any] = defaultdict(hashlib.sha256)
        for chunk in table[field.name].chunks:
            if len(chunk):
                _feed(parts, "", chunk)
        whole.update(f"{field.name}\0{_kind(field.type)}\0{table.num_rows}\0".encode())
        for name in sorted(parts):
            whole.update(name.encode() + parts[name].digest())
    return whole.hexdigest()[:32]


def _kind(kind: pa.DataType) -> str:
    # What the items of a list are called is no part of its values.
    return f"list of {_kind(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def _feed(parts: dict[str, Any], path: str, values: pa.Array) -> None:
    kind = values.type
    parts[f"{path}valid"].update(values.is_valid().cast(pa.uint8()).to_numpy())
    if pa.types.is_list(kind):
        parts[f"{path}lengths"].update(values.value_lengths().fill_null(0).to_numpy().astype("<i8"))
        items = values.flatten()  # of the lists that are there, unlike the buffer of values
        if len(items):
            _feed(parts, f"{path}items ", items)
    elif pa.types.is_string(kind):
        text = values.fill_null("")
        offsets = np.frombuffer(text.buffers()[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
        parts[f"{path}lengths"].update(np.diff(offsets).astype("<i8"))
        parts[f"{path}values"].update(memoryview(text.buffers()[2] or b"")[offsets[0] : offsets[-1]])
    elif pa.types.is_boolean(kind):
        parts[f"{path}values"].update(values.fill_null(False).cast(pa.uint8()).to_numpy())
    elif pa.types.is_integer(kind):
        parts[f"{path}values"].update(values.fill_null(0).to_numpy().astype("<i8"))
    elif pa.types.is_floating(kind):
        parts[f"{path}values"].update(values.fill_null(0.0).to_numpy().astype("<f8", copy=False))
    else:
        raise TypeError(f"a column of {kind} cannot be hashed")
