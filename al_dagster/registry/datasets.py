"""Datasets in the registry: definitions by name, and frozen selections of objects with their splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from al_dagster.core import ids
from al_dagster.core.errors import UserError
from al_dagster.registry.base import UtcNow
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import Dataset, DatasetDefinition, DatasetObject

SPLITS = ("train", "val", "test")
FIRST_VERSION = "1.0"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class DatasetRecord:
    """A frozen dataset.

    Attributes:
        dataset_id: id, of its name and content.
        name: name of the definition that it was made from.
        version: ``1.0``, ``1.1``, … in the order in which the contents of a name were frozen.
        content_hash: hash of the selection; the same content of a name is the same dataset.
        object_count: number of objects.
        objects_by_split: number of objects of each split that has some.
        definition: the definition as it was when the dataset was frozen.
        category_mapping: class names to class ids of the export, or None.
        run_id: run that froze it, or None.
        export_path: folder of its export, or None.
        created_at: when it was frozen, UTC.
        exported_at: when it was exported last, UTC, or None.
        created: whether the call that returned this record froze it; False when it stood already.
    """

    dataset_id: str
    name: str
    version: str
    content_hash: str
    object_count: int
    objects_by_split: dict[str, int]
    definition: dict[str, Any]
    category_mapping: dict[str, int] | None
    run_id: str | None
    export_path: str | None
    created_at: datetime
    exported_at: datetime | None
    created: bool = False

    @property
    def reference(self) -> str:
        """The version as ``get_dataset`` takes it: ``name@version``."""
        return f"{self.name}@{self.version}"


def freeze_dataset(
    registry: Registry,
    *,
    name: str,
    definition: Mapping[str, Any],
    content_hash: str,
    run_id: str | None,
    assignments: Sequence[tuple[str, str]],
    category_mapping: Mapping[str, int] | None = None,
) -> DatasetRecord:
    """Keep a selection of objects and their splits as the next version of a dataset, in one transaction.

    Args:
        registry: where it is kept.
        name: name of the dataset.
        definition: JSON-serialisable; its ``filter``, ``project`` and ``split`` also fill the dataset's
            ``filter_config`` and ``split_config``.
        content_hash: hash of the selection. If the name has a dataset of this hash already, that one is returned, and
            is the current version again.
        run_id: run that freezes it.
        assignments: object id and split (train, val or test) of every object.
        category_mapping: class names to class ids.

    Raises:
        ValueError: an object comes twice or a split has another name.
        sqlalchemy.exc.IntegrityError: an object is not in the registry.
    """
    _check_assignments(assignments)
    dataset_id = ids.dataset_id(name, content_hash)
    with registry.session() as session:
        standing = session.get(Dataset, dataset_id)
        if standing is not None:
            if _current(session, name) is not standing:
                session.execute(update(Dataset).where(Dataset.dataset_id == dataset_id).values(built_at=UtcNow()))
            return _record(standing)
        dataset = Dataset(
            dataset_id=dataset_id,
            name=name,
            version=_next_version(session, name),
            filter_config={
                **definition.get("filter", {}),
                "project_id": definition.get("project"),
                "definition": dict(definition),
            },
            category_mapping=None if category_mapping is None else dict(category_mapping),
            object_count=len(assignments),
            objects_by_split=dict(sorted(Counter(split for _, split in assignments).items())),
            content_hash=content_hash,
            run_id=run_id,
        )
        if "split" in definition:
            dataset.split_config = dict(definition["split"])
        session.add(dataset)
        session.flush()
        if assignments:
            rows = [
                {"dataset_id": dataset_id, "object_id": object_id, "split": split} for object_id, split in assignments
            ]
            session.execute(insert(DatasetObject), rows)
        session.refresh(dataset)
        record = _record(dataset, created=True)
    log.info("dataset frozen", dataset=f"{name}@{record.version}", dataset_id=dataset_id, objects=record.object_count)
    return record


def get_dataset(registry: Registry, dataset: str) -> DatasetRecord:
    """A frozen dataset by its id, its name (the version that was built last) or ``name@version``.

    Raises:
        UserError: there is none.
    """
    name, _, version = dataset.rpartition("@")
    with registry.reader() as session:
        row = session.get(Dataset, dataset)
        if row is not None:
            return _record(row)
        current = _current(session, dataset)
        if current is not None:
            return _record(current)
        for candidate in _versions(session, name) if name else []:
            if candidate.version == version:
                return _record(candidate)
        known = [f"{row.name}@{row.version}" for row in session.scalars(select(Dataset).order_by(Dataset.name))]
    if dataset in list_definitions(registry):
        raise UserError(f"dataset {dataset!r} has no version yet: `al dataset build {dataset}` makes one")
    raise UserError(
        f"dataset {dataset!r} is not in the registry; known: "
        f"{', '.join(known) or 'none: build one with al dataset build'}"
    )


def list_datasets(registry: Registry, name: str | None = None) -> list[DatasetRecord]:
    """The frozen datasets, or those of a name, by name and version, oldest first."""
    with registry.reader() as session:
        statement = select(Dataset) if name is None else select(Dataset).where(Dataset.name == name)
        rows = sorted(session.scalars(statement), key=lambda row: (row.name, _version_key(row)))
        return [_record(row) for row in rows]


def dataset_objects(registry: Registry, dataset_id: str) -> list[tuple[str, str]]:
    """Object id and split of every object of a frozen dataset, by object id; empty for an unknown id."""
    statement = (
        select(DatasetObject.object_id, DatasetObject.split)
        .where(DatasetObject.dataset_id == dataset_id)
        .order_by(DatasetObject.object_id)
    )
    with registry.reader() as session:
        return [(object_id, split) for object_id, split in session.execute(statement)]


def mark_exported(registry: Registry, dataset_id: str, path: Path | str) -> None:
    """Note where and that now a dataset was exported.

    Raises:
        UserError: the dataset is not in the registry.
    """
    statement = (
        update(Dataset)
        .where(Dataset.dataset_id == dataset_id)
        .values(export_path=str(path), exported_at=UtcNow())
        .returning(Dataset.dataset_id)
    )
    with registry.session() as session:
        if session.scalar(statement) is None:
            raise UserError(f"dataset {dataset_id!r} is not in the registry")


def save_definition(registry: Registry, name: str, definition: Mapping[str, Any]) -> None:
    """Keep a dataset's definition under its name, in place of an earlier one; frozen datasets stay as they are."""
    with registry.session() as session:
        row = session.get(DatasetDefinition, name)
        if row is None:
            session.add(DatasetDefinition(name=name, definition=dict(definition)))
        else:
            row.definition = dict(definition)


def get_definition(registry: Registry, name: str) -> dict[str, Any]:
    """The definition of a dataset.

    Raises:
        UserError: there is none of this name.
    """
    definitions = list_definitions(registry)
    if name not in definitions:
        known = ", ".join(definitions) or "none: create one with al dataset create"
        raise UserError(f"dataset definition {name!r} is not in the registry; known: {known}")
    return definitions[name]


def list_definitions(registry: Registry) -> dict[str, dict[str, Any]]:
    """All dataset definitions by name, sorted."""
    with registry.reader() as session:
        rows = session.scalars(select(DatasetDefinition).order_by(DatasetDefinition.name))
        return {row.name: row.definition for row in rows}


def _check_assignments(assignments: Sequence[tuple[str, str]]) -> None:
    unknown = sorted({split for _, split in assignments} - set(SPLITS))
    if unknown:
        raise ValueError(f"splits are {', '.join(SPLITS)}, got {', '.join(unknown)}")
    twice = [object_id for object_id, count in Counter(object_id for object_id, _ in assignments).items() if count > 1]
    if twice:
        raise ValueError(f"an object is in one split of a dataset only, got {twice[0]} more than once")


def _versions(session: Session, name: str) -> list[Dataset]:
    return sorted(session.scalars(select(Dataset).where(Dataset.name == name)), key=_version_key)


def _current(session: Session, name: str) -> Dataset | None:
    """The version that was built last; an older one is again when its content comes back."""
    return max(_versions(session, name), key=lambda row: (row.built_at, _version_key(row)), default=None)


def _next_version(session: Session, name: str) -> str:
    versions = _versions(session, name)
    if not versions:
        return FIRST_VERSION
    major, minor = _version_key(versions[-1])
    return f"{major}.{minor + 1}"


def _version_key(row: Dataset) -> tuple[int, int]:
    major, minor = row.version.split(".")
    return int(major), int(minor)


def _record(row: Dataset, *, created: bool = False) -> DatasetRecord:
    return DatasetRecord(
        dataset_id=row.dataset_id,
        name=row.name,
        version=row.version,
        content_hash=row.content_hash or "",
        object_count=row.object_count,
        objects_by_split=row.objects_by_split or {},
        definition=(row.filter_config or {}).get("definition", {}),
        category_mapping=row.category_mapping,
        run_id=row.run_id,
        export_path=row.export_path,
        created_at=row.created_at,
        exported_at=row.exported_at,
        created=created,
    )
