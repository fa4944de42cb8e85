"""What every stage gives back, and how it finds the rows that it need not compute again."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_WITHOUT_ROWS = b"al_dagster.computed_without_rows"
_FAILURES = b"al_dagster.failures"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sheet:
    """A picture that need not be drawn where it stands already.

    Args:
        made_from: 32 hex characters that change with whatever it shows.
        draw: makes it, a JPEG; None where there is nothing to show.
    """

    made_from: str
    draw: Callable[[], bytes | None]


@dataclass(frozen=True)
class StageResult:
    """One partition's table and what is worth telling about it.

    Args:
        table: the rows, in the order of their inputs.
        computed: units that a model or a check was called for.
        reused: units whose rows were taken from the last materialization.
        figures: numbers for people, by name.
        tables: rows for people, by name; all rows of a table have the same keys.
        contact_sheet: a picture of what was made, or None.
        of_the_run: columns that tell what this run did, which are no part of the content.
    """

    table: pa.Table
    computed: int
    reused: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Rows] = field(default_factory=dict)
    contact_sheet: "Sheet | None" = None
    of_the_run: tuple[str, ...] = ()


def compute_new(
    units: Sequence[tuple[str, str]],
    previous: pa.Table,
    *,
    unit_column: str,
    compute: Callable[[list[str]], Mapping[str, Rows]],
    reusable: Callable[[pa.Table], Sequence[bool]] | None = None,
) -> tuple[pa.Table, int, int]:
    """Take unchanged units from the last materialization and compute the others.

    A unit is what a model is called for: a frame, or an object. Units that gave no rows are remembered in the
    metadata of the table's schema, so that they are not computed again either.

    Args:
        units: id and fingerprint of each unit, in the order that the rows shall have.
        previous: the last materialization; its rows have a ``fingerprint`` column.
        unit_column: the column that holds the id of a row's unit.
        compute: given the ids that are new or changed, the rows of each, without fingerprints; a unit that it leaves
            out, because its image can no longer be read, is tried again next time.
        reusable: for each stored row, whether it still stands, for instance whether its file is there.

    Returns:
        The table of all units, the number computed and the number reused.
    """
    stored: dict[str, list[int]] = {}
    for index, unit in enumerate(previous[unit_column].to_pylist()):
        stored.setdefault(unit, []).append(index)
    prints = previous["fingerprint"].to_pylist()
    stands = [True] * len(prints) if reusable is None else reusable(previous)
    without_rows = _computed_without_rows(previous)

    def unchanged(unit: str, fingerprint: str) -> bool:
        if unit not in stored:
            return without_rows.get(unit) == fingerprint
        return all(prints[index] == fingerprint and stands[index] for index in stored[unit])

    new = [unit for unit, fingerprint in units if not unchanged(unit, fingerprint)]
    computed = compute(new) if new else {}
    fresh_units = set(new)
    fresh: Rows = []
    order: list[int] = []
    empty: dict[str, str] = {}
    for unit, fingerprint in units:
        if unit in fresh_units:
            places = [len(prints) + len(fresh) + index for index in range(len(computed.get(unit, [])))]
            fresh += ({**row, "fingerprint": fingerprint} for row in computed.get(unit, []))
        else:
            places = stored.get(unit, [])
        order += places
        if not places and (unit not in fresh_units or unit in computed):
            empty[unit] = fingerprint
    schema = previous.schema.remove_metadata()
    rows = pa.concat_tables([previous.replace_schema_metadata(None), pa.Table.from_pylist(fresh, schema=schema)])
    table = rows.take(pa.array(order, pa.int64())).combine_chunks()
    if empty:
        table = table.replace_schema_metadata({_WITHOUT_ROWS: json.dumps(empty, sort_keys=True).encode()})
    return table, len(new), len(units) - len(new)


def of_frames(table: pa.Table, frames: pa.Table) -> pa.Table:
    """The rows of a stage whose frames still stand: a file may have been quarantined since the stage ran."""
    return table.filter(pc.is_in(table["frame_id"], value_set=frames["frame_id"].combine_chunks()))


def with_failures(table: pa.Table, failures: Mapping[str, str]) -> pa.Table:
    """The table of a stage with the frames that it could not do, and why, in the metadata of its schema."""
    if not failures:
        return table
    metadata = {**(table.schema.metadata or {}), _FAILURES: json.dumps(dict(failures), sort_keys=True).encode()}
    return table.replace_schema_metadata(metadata)


def failed_frames(table: pa.Table) -> dict[str, str]:
    """Why a stage could not do a frame, by the ids of the frames that it could not do."""
    failures: dict[str, str] = json.loads((table.schema.metadata or {}).get(_FAILURES, b"{}"))
    return failures


def by_frame(rows: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    """Rows that have a ``frame_id``, by their frame, in their order."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["frame_id"], []).append(row)
    return found


def computed_units(table: pa.Table, unit_column: str) -> set[str]:
    """The ids of the units that were computed, with rows or without."""
    return {*table[unit_column].to_pylist(), *_computed_without_rows(table)}


def _computed_without_rows(table: pa.Table) -> dict[str, str]:
    metadata: dict[str, str] = json.loads((table.schema.metadata or {}).get(_WITHOUT_ROWS, b"{}"))
    return metadata
