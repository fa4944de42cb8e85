"""Sources and frames: which files are known, which of them belong together, and which were turned away."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.registry.base import bulk_insert, chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.grouping import Standing, find_standing, join_groups
from al_dagster.registry.source_groups import group_batch
from al_dagster.registry.tables import Batch, BatchFile, Frame, Source

COPIED = (
    "source_id",
    "source_type",
    "file_path",
    "width",
    "height",
    "frame_count",
    "fps",
    "sha256",
    "perceptual_hash",
)
LATER = ("captured_at", "thumbnail")
"""Columns that sources registered by older versions lack."""

FRAME_SIZE = ("width", "height")


def register_sources(
    registry: Registry, batch_key: str, rows: Sequence[Mapping[str, Any]], duplicate_distance: int
) -> list[dict[str, Any]]:
    """Register the inspected files of a batch in one transaction; running it again changes nothing.

    The same bytes are one source. A file whose bytes stand earlier in the batch, or are ready in another batch of the
    project, becomes a duplicate whose reason names that file. A new source joins the cluster of the nearest source
    registered before it, if there is one within ``duplicate_distance`` bits, and never leaves it; in the project it
    gets its group (``registry.source_groups``).

    Args:
        registry: the registry.
        batch_key: the batch that claimed the files.
        rows: one for each file, with the columns of the ``sources`` table of the lake.
        duplicate_distance: most differing bits of the 256-bit perceptual hashes of near-duplicates.

    Returns:
        The rows in order, with their final status and reason.

    Raises:
        UserError: there is no such batch, or the project's table of groups cannot be read.
        ValueError: a row's file is not in the batch.
    """
    hashes = [row["perceptual_hash"] for row in rows if row["status"] == "ready" and row["perceptual_hash"]]
    with registry.reader() as session:
        near = find_standing(session, hashes, duplicate_distance)
    with registry.session() as session:
        batch = session.get(Batch, batch_key)
        if batch is None:
            raise UserError(f"there is no batch {batch_key!r}; `al status` lists the batches")
        _require_in_batch(session, batch_key, rows)
        final = _mark_duplicates(rows, _ready_elsewhere(session, batch, rows))
        _register(session, [row for row in final if row["status"] != "quarantined"], near, duplicate_distance)
        for row in final:
            values = {"status": row["status"], "reason": row["reason"]}
            if row["status"] != "quarantined":
                # A file that can no longer be read did hold its source when it was seen.
                values["source_id"] = row["source_id"]
            mine = (BatchFile.batch_key == batch_key, BatchFile.file_path == row["file_path"])
            session.execute(update(BatchFile).where(*mine).values(**values))
        group_batch(session, batch.project_id, batch_key)
    return final


def register_frames(registry: Registry, rows: Sequence[Mapping[str, Any]]) -> None:
    """Register frames that are not yet known, given with the columns of the ``frames`` table of the lake."""
    wanted = {row["frame_id"]: row for row in rows}
    with registry.session() as session:
        for chunk in chunked(list(wanted)):
            known = set(session.scalars(select(Frame.frame_id).where(Frame.frame_id.in_(chunk))))
            columns = ("frame_id", "source_id", "frame_idx", "timestamp_ms")
            new = [
                {column: wanted[key][column] for column in columns}
                | {column: wanted[key].get(column) for column in FRAME_SIZE}
                for key in chunk
                if key not in known
            ]
            bulk_insert(session, Frame, new)


def frame_indexes(registry: Registry, frame_ids: Sequence[str]) -> dict[str, int]:
    """The index of each registered frame in its source: of a file of several pages, the page."""
    found: dict[str, int] = {}
    with registry.reader() as session:
        for chunk in chunked(list(dict.fromkeys(frame_ids))):
            rows = session.execute(select(Frame.frame_id, Frame.frame_idx).where(Frame.frame_id.in_(chunk)))
            found.update((frame, index) for frame, index in rows)
    return found


def get_source(registry: Registry, source_id: str) -> dict[str, Any]:
    """A source with all its columns.

    Raises:
        UserError: there is no such source.
    """
    with registry.reader() as session:
        row = session.execute(select(Source.__table__).where(Source.source_id == source_id)).mappings().one_or_none()
    if row is None:
        raise UserError(f"there is no source {source_id!r}")
    return dict(row)


def quarantined_files(registry: Registry, project_id: str | None = None) -> list[tuple[str, str, str]]:
    """Files that could not become sources, as (project, path, reason), unless a newer version of the file came since.

    Args:
        registry: the registry.
        project_id: only this project's.
    """
    return _newest_files(registry, project_id, BatchFile.status == "quarantined")


def partly_read_files(registry: Registry, project_id: str | None = None) -> list[tuple[str, str, str]]:
    """Files of which something is left out, as (project, path, what): animations, and pages that cannot be read.

    Args:
        registry: the registry.
        project_id: only this project's.
    """
    return _newest_files(registry, project_id, BatchFile.status == "ready", BatchFile.reason.is_not(None))


def _newest_files(
    registry: Registry, project_id: str | None, *conditions: ColumnElement[bool]
) -> list[tuple[str, str, str]]:
    newest = select(func.max(BatchFile.id)).group_by(BatchFile.project_id, BatchFile.file_path)
    query = (
        select(BatchFile.project_id, BatchFile.file_path, func.coalesce(BatchFile.reason, ""))
        .where(*conditions, BatchFile.id.in_(newest))
        .order_by(BatchFile.project_id, BatchFile.file_path)
    )
    if project_id is not None:
        query = query.where(BatchFile.project_id == project_id)
    with registry.reader() as session:
        return [(project, path, reason) for project, path, reason in session.execute(query)]


def _require_in_batch(session: Session, batch_key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    claimed = set(session.scalars(select(BatchFile.file_path).where(BatchFile.batch_key == batch_key)))
    strangers = [row["file_path"] for row in rows if row["file_path"] not in claimed]
    if strangers:
        raise ValueError(f"{strangers[0]} is not in the batch {batch_key}")


def _ready_elsewhere(session: Session, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Paths of files of other batches of the project, by source, for the sources of the rows."""
    found: dict[str, str] = {}
    for chunk in chunked([row["source_id"] for row in rows if row["source_id"]]):
        others = session.execute(
            select(BatchFile.source_id, BatchFile.file_path)
            .where(
                BatchFile.source_id.in_(chunk),
                BatchFile.project_id == batch.project_id,
                BatchFile.batch_key != batch.batch_key,
                BatchFile.status == "ready",
            )
            .order_by(BatchFile.id.desc())
        )
        found.update({source: path for source, path in others if source})
    return found


def _mark_duplicates(rows: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> list[dict[str, Any]]:
    first = dict(known)
    final: list[dict[str, Any]] = []
    for row in rows:
        if row["status"] == "quarantined":
            final.append(dict(row))
            continue
        other = first.setdefault(row["source_id"], row["file_path"])
        is_first = row["source_id"] not in known and other == row["file_path"]
        reason = row["reason"] if is_first else f"same content as {other}"
        final.append({**row, "status": "ready" if is_first else "duplicate", "reason": reason})
    return final


def _register(session: Session, rows: Sequence[Mapping[str, Any]], near: Standing, duplicate_distance: int) -> None:
    standing: set[str] = set()
    for chunk in chunked([row["source_id"] for row in rows]):
        standing.update(session.scalars(select(Source.source_id).where(Source.source_id.in_(chunk))))
    for row in rows:
        if row["source_id"] in standing:
            _fill(session, row)
    new = [row for row in rows if row["status"] == "ready" and row["source_id"] not in standing]
    hashes = [(row["source_id"], row["perceptual_hash"]) for row in new]
    groups = join_groups(session, hashes, near, duplicate_distance)
    bulk_insert(session, Source, [_source_columns(row, group) for row, group in zip(new, groups, strict=True)])


def _fill(session: Session, row: Mapping[str, Any]) -> None:
    for name in LATER:
        if row.get(name) is not None:
            lacking = update(Source).where(Source.source_id == row["source_id"], getattr(Source, name).is_(None))
            session.execute(lacking.values({name: row[name]}))


def _source_columns(row: Mapping[str, Any], group_key: str) -> dict[str, Any]:
    return {
        **{column: row[column] for column in COPIED},
        **{column: row.get(column) for column in LATER},
        "file_name": Path(row["file_path"]).name,
        "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
        "group_key": group_key,
    }
