"""Where the content of a source lies: every path that it was seen at, the asking project's own first."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from al_dagster.registry.base import chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import Batch, BatchFile


@dataclass(frozen=True)
class SeenFile:
    """A file that held the content of a source when it was last looked at.

    Attributes:
        file_path: its path.
        size_bytes: its size then.
        mtime_ns: its time of change then, in nanoseconds.
    """

    file_path: str
    size_bytes: int
    mtime_ns: int


def seen_files(
    registry: Registry, source_ids: Sequence[str], project_id: str | None = None
) -> dict[str, list[SeenFile]]:
    """The files that each source was seen at, without looking at the disk: any that still holds the content serves.

    Args:
        registry: the registry.
        source_ids: the sources.
        project_id: whose paths come first; the others follow. Of either, those seen last come first. Paths that another
            source was seen at since come last of all.

    Returns:
        For each source that was seen anywhere, at least one file; no path twice.
    """
    columns = (BatchFile.source_id, BatchFile.file_path, BatchFile.size_bytes, BatchFile.mtime_ns, BatchFile.project_id)
    found: dict[str, dict[str, SeenFile]] = {}
    with registry.reader() as session:
        for chunk in chunked(list(dict.fromkeys(source_ids))):
            query = select(*columns).where(BatchFile.source_id.in_(chunk)).order_by(BatchFile.id.desc())
            rows = session.execute(query).all()
            newest = _newest(session, [row.file_path for row in rows])
            for row in sorted(
                rows, key=lambda row: (newest[row.file_path] != row.source_id, row.project_id != project_id)
            ):
                file = SeenFile(row.file_path, row.size_bytes, row.mtime_ns)
                found.setdefault(str(row.source_id), {}).setdefault(row.file_path, file)
    return {source_id: list(files.values()) for source_id, files in found.items()}


def _newest(session: Session, file_paths: Sequence[str]) -> dict[str, str]:
    """The source that was seen last at each path, by whatever project."""
    found: dict[str, str] = {}
    for chunk in chunked(list(dict.fromkeys(file_paths))):
        # The index has the project before the path.
        at = (
            BatchFile.project_id.in_(select(Batch.project_id)),
            BatchFile.file_path.in_(chunk),
            BatchFile.source_id.is_not(None),
        )
        last = select(func.max(BatchFile.id)).where(*at).group_by(BatchFile.file_path)
        rows = session.execute(select(BatchFile.file_path, BatchFile.source_id).where(BatchFile.id.in_(last)))
        found.update((path, str(source)) for path, source in rows)
    return found


def newest_path(registry: Registry, source_id: str, project_id: str | None) -> str | None:
    """Where a source was seen last, by the project if it ever saw it; None where nobody did."""
    files = seen_files(registry, [source_id], project_id).get(source_id)
    return files[0].file_path if files else None


def source_at(registry: Registry, project_id: str, file_path: str) -> str | None:
    """The source that a project saw last at a path, or None."""
    mine = (BatchFile.project_id == project_id, BatchFile.file_path == file_path, BatchFile.source_id.is_not(None))
    with registry.reader() as session:
        return session.scalar(select(BatchFile.source_id).where(*mine).order_by(BatchFile.id.desc()).limit(1))
