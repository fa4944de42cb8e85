"""What there is, for `al status`: projects, files that were not read or not whole, datasets, the outbox."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import case, func, select

from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import list_datasets
from al_dagster.registry.frame_labels import count_frames
from al_dagster.registry.outbox import outbox_counts
from al_dagster.registry.source_groups import grouped
from al_dagster.registry.sources import partly_read_files, quarantined_files
from al_dagster.registry.tables import Batch, BatchFile, Conflict, Object, Project


def read_status(registry: Registry) -> dict[str, Any]:
    """Counts of each project, the files of which all or something is left out and why, the datasets and the outbox.

    Returns:
        ``projects``, ``quarantined``, ``labelled_in_part`` and ``datasets`` as lists of rows, ``outbox`` as counts by
        status.
    """
    return {
        "projects": _projects(registry),
        "quarantined": _with_reasons(quarantined_files(registry)),
        "labelled_in_part": _with_reasons(partly_read_files(registry)),
        "datasets": [
            {
                "dataset": record.name,
                "version": record.version,
                "project": record.definition["project"],
                "objects": record.object_count,
                "exported": record.export_path,
            }
            for record in list_datasets(registry)
        ],
        "outbox": outbox_counts(registry),
    }


def _with_reasons(files: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"project": project, "file": path, "reason": reason} for project, path, reason in files]


def _projects(registry: Registry) -> list[dict[str, Any]]:
    def having(status: str) -> Any:
        return func.count(case((BatchFile.status == status, 1)))

    batches = select(Batch.project_id, func.count(), func.count(case((Batch.labelled_at.is_(None), 1))))
    # A file that has changed is in several batches: what it is now, is what the newest of them says.
    newest = select(func.max(BatchFile.id)).group_by(BatchFile.project_id, BatchFile.file_path)
    files = select(BatchFile.project_id, func.count(), having("quarantined"), having("duplicate")).where(
        BatchFile.id.in_(newest)
    )
    objects = select(
        Object.project_id,
        func.count(),
        func.count(case((Object.is_validated, 1))),
        func.count(case((Object.is_stale, 1))),
    )
    conflicts = select(Object.project_id, func.count()).join(Conflict).where(Conflict.resolved_at.is_(None))
    with registry.reader() as session:
        names = list(session.scalars(select(Project.project_id).order_by(Project.project_id)))
        by_batch = {row[0]: row for row in session.execute(batches.group_by(Batch.project_id))}
        by_file = {row[0]: row for row in session.execute(files.group_by(BatchFile.project_id))}
        active = objects.where(Object.state == "active").group_by(Object.project_id)
        by_object = {row[0]: row for row in session.execute(active)}
        by_conflict = {row[0]: row for row in session.execute(conflicts.group_by(Object.project_id))}
    none = (None, 0, 0, 0)
    return [
        {
            "project": name,
            "batches": by_batch.get(name, none)[1],
            "unfinished": by_batch.get(name, none)[2],
            "files": by_file.get(name, none)[1],
            "quarantined": by_file.get(name, none)[2],
            "duplicates": by_file.get(name, none)[3],
            "grouping": asdict(grouped(registry, name)),
            "images": count_frames(registry, name),
            "objects": by_object.get(name, none)[1],
            "validated": by_object.get(name, none)[2],
            "stale": by_object.get(name, none)[3],
            "conflicts": by_conflict.get(name, none)[1],
        }
        for name in names
    ]
