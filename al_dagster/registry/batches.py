"""Batches: which files are labelled together. A file version is claimed once in a project, whoever asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.core.ids import batch_key
from al_dagster.registry.base import UtcNow, bulk_insert, chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import Batch, BatchFile, EmbeddingOutbox, FrameLabel, Object

Origin = Literal["inbox", "command"]

KEYS_PER_SECOND = 1000


@dataclass(frozen=True)
class FileEntry:
    """One version of a file: its path, size in bytes and time of last change in nanoseconds."""

    file_path: str
    size_bytes: int
    mtime_ns: int


def claim_files(
    registry: Registry, project_id: str, files: Sequence[FileEntry], batch_size: int, *, origin: Origin = "command"
) -> list[str]:
    """Cut the files that no batch of the project has claimed into new batches.

    Args:
        registry: the registry.
        project_id: the project that the files belong to.
        files: what stands in the inbox, claimed before or not.
        batch_size: most files in one batch, at least 1.
        origin: who sees to it that the batches are labelled: the sensor of the inbox, or the command that claims them.

    Returns:
        The keys of the new batches, in the order of the files; empty if all files were claimed before.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    with registry.session() as session:
        claimed = _claimed(session, project_id, files)
        new = [file for file in dict.fromkeys(files) if file not in claimed]
        chunks = [new[start : start + batch_size] for start in range(0, len(new), batch_size)]
        keys = _new_keys(session, project_id, len(chunks))
        bulk_insert(session, Batch, [{"batch_key": key, "project_id": project_id, "origin": origin} for key in keys])
        files_of_batches = [
            {"batch_key": key, "project_id": project_id, **vars(file)}
            for key, chunk in zip(keys, chunks, strict=True)
            for file in chunk
        ]
        bulk_insert(session, BatchFile, files_of_batches)
    return keys


def batch_manifest(registry: Registry, batch_key: str) -> list[FileEntry]:
    """The files of a batch, in the order in which they were claimed.

    Raises:
        UserError: there is no such batch.
    """
    columns = (BatchFile.file_path, BatchFile.size_bytes, BatchFile.mtime_ns)
    with registry.reader() as session:
        if session.get(Batch, batch_key) is None:
            raise UserError(f"there is no batch {batch_key!r}; `al status` lists the batches")
        rows = session.execute(select(*columns).where(BatchFile.batch_key == batch_key).order_by(BatchFile.id))
        return [FileEntry(*row) for row in rows]


def list_batches(registry: Registry, project_id: str | None = None) -> list[str]:
    """The keys of all batches or of one project's, oldest first."""
    # Many batches may be claimed in one moment, so that only the order of their files says which is older.
    oldest_first = select(BatchFile.batch_key).group_by(BatchFile.batch_key).order_by(func.min(BatchFile.id))
    if project_id is not None:
        oldest_first = oldest_first.where(BatchFile.project_id == project_id)
    with registry.reader() as session:
        return list(session.scalars(oldest_first))


def unfinished_batches(
    registry: Registry,
    *,
    project_id: str | None = None,
    origin: Origin | None = None,
    path: Path | None = None,
) -> list[str]:
    """The keys of the batches that no run has brought to its end with every frame labelled, oldest first.

    Args:
        registry: the registry.
        project_id: only batches of this project.
        origin: only batches that were claimed so.
        path: only batches with this file, or with a file below this folder.
    """
    unfinished = (
        select(BatchFile.batch_key)
        .join(Batch)
        .where(Batch.labelled_at.is_(None))
        .group_by(BatchFile.batch_key)
        .order_by(func.min(BatchFile.id))
    )
    if project_id is not None:
        unfinished = unfinished.where(Batch.project_id == project_id)
    if origin is not None:
        unfinished = unfinished.where(Batch.origin == origin)
    if path is not None:
        at = str(path.absolute())
        below = BatchFile.file_path.startswith(at.rstrip("/") + "/", autoescape=True)
        unfinished = unfinished.where(or_(BatchFile.file_path == at, below))
    with registry.reader() as session:
        return list(session.scalars(unfinished))


def has_files(registry: Registry, project_id: str, folder: Path) -> bool:
    """Whether a batch of a project has files below a folder."""
    below = BatchFile.file_path.startswith(f"{folder}/", autoescape=True)
    with registry.reader() as session:
        return (
            session.scalar(select(BatchFile.id).where(BatchFile.project_id == project_id, below).limit(1)) is not None
        )


def batch_origin(registry: Registry, batch_key: str) -> str:
    """Who claimed a batch, ``inbox`` or ``command``.

    Raises:
        UserError: there is no such batch.
    """
    with registry.reader() as session:
        batch = session.get(Batch, batch_key)
        if batch is None:
            raise UserError(f"there is no batch {batch_key!r}; `al status` lists the batches")
        return batch.origin


def describe_batches(registry: Registry, batch_keys: Sequence[str]) -> list[dict[str, Any]]:
    """Of each batch its project, who sees to it (``origin``), how many files it has and the folder of the first."""
    rows = {}
    with registry.reader() as session:
        for chunk in chunked(list(batch_keys)):
            query = (
                select(Batch.batch_key, Batch.project_id, Batch.origin, func.count(), func.min(BatchFile.file_path))
                .join(BatchFile)
                .where(Batch.batch_key.in_(chunk))
                .group_by(Batch.batch_key)
            )
            for key, project, origin, files, first in session.execute(query):
                row = {"batch": key, "project": project, "origin": origin, "files": files}
                rows[key] = {**row, "folder": str(Path(first).parent)}
    return [rows[key] for key in batch_keys]


def record_run(registry: Registry, batch_key: str, *, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Note which run registered the objects of a batch, and how.

    Args:
        registry: the registry.
        batch_key: the batch.
        run_id: the Dagster run that registered them.
        parameters: the project's configuration and the models as they were.
    """
    values: dict[str, Any] = {"run_id": run_id, "parameters": dict(parameters)}
    with registry.session() as session:
        session.execute(update(Batch).where(Batch.batch_key == batch_key).values(values))


def mark_labelled(registry: Registry, batch_key: str) -> None:
    """Note that every stage has done a batch, unless some frame of it could not be labelled or a vector still waits.

    A batch that never was finished is asked for again, so that this comes last, when all else is stored.

    Args:
        registry: the registry.
        batch_key: the batch.
    """
    failed = select(FrameLabel.frame_id).where(FrameLabel.batch_key == batch_key, FrameLabel.error.is_not(None))
    waiting = (
        select(EmbeddingOutbox.id)
        .join(Object, Object.object_id == EmbeddingOutbox.object_id)
        .where(Object.batch_key == batch_key, EmbeddingOutbox.status == "pending")
    )
    with registry.session() as session:
        finished = (Batch.batch_key == batch_key, ~failed.exists(), ~waiting.exists())
        session.execute(update(Batch).where(*finished).values(labelled_at=UtcNow()))


def mark_unfinished(session: Session, batch_key: str) -> None:
    """Note within a transaction that a batch waits for its vectors, though it was finished before."""
    session.execute(update(Batch).where(Batch.batch_key == batch_key).values(labelled_at=None))


def _claimed(session: Session, project_id: str, files: Sequence[FileEntry]) -> set[FileEntry]:
    columns = (BatchFile.file_path, BatchFile.size_bytes, BatchFile.mtime_ns)
    claimed: set[FileEntry] = set()
    for chunk in chunked([file.file_path for file in files]):
        rows = session.execute(
            select(*columns).where(BatchFile.project_id == project_id, BatchFile.file_path.in_(chunk))
        )
        claimed.update(FileEntry(*row) for row in rows)
    return claimed


def _new_keys(session: Session, project_id: str, count: int) -> list[str]:
    if not count:
        return []
    now = datetime.now(UTC)
    taken = set(session.scalars(select(Batch.batch_key).where(Batch.project_id == project_id)))
    keys: list[str] = []
    while len(keys) < count:
        # A second has room for 65,536 keys; moving on well before keeps the draw of an unused one short.
        key = batch_key(project_id, now + timedelta(seconds=len(keys) // KEYS_PER_SECOND))
        if key not in taken:
            taken.add(key)
            keys.append(key)
    return keys
