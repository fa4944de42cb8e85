"""Lineage: what a source, object, dataset or model was made from, and what was made from it."""

from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.core.settings import Settings
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.datasets import DatasetRecord, get_dataset, list_datasets, list_definitions
from al_dagster.registry.objects import get_object
from al_dagster.registry.sources import get_source
from al_dagster.registry.tables import Batch, BatchFile, Category, DatasetObject, Object, Source
from al_dagster.training.tracking import DATASET_TAG, Tracking

FILES_SHOWN = 20
REVIEW = ("validated_by", "validated_at", "validation_rule", "edited_by", "edited_at")

Chain = dict[str, Any]


def trace(settings: Settings, identifier: str) -> Chain:
    """The chain of a thing, both ways.

    Args:
        settings: where registry and MLflow are.
        identifier: the id of a source, an object or a dataset; the name of a dataset (its newest version) or
            ``name@version``; a model as ``name/version``; or the id of an MLflow run.

    Returns:
        ``kind``, ``id``, what it is, ``made_from`` and ``used_in``, as far as the chain goes.

    Raises:
        UserError: nothing has this id.
    """
    with open_registry(settings.database_url) as registry:
        records = list_datasets(registry)
        with registry.reader() as session:
            tracer = _Tracer(session, standing_tracking(settings), records)
            if identifier.startswith("src_"):
                return tracer.source(get_source(registry, identifier))
            if identifier.startswith("obj_"):
                return tracer.object(get_object(registry, identifier))
            if _names_dataset(registry, identifier):
                return tracer.dataset(get_dataset(registry, identifier))
            return tracer.model(identifier)


def trained_on(settings: Settings, dataset_id: str) -> list[Chain]:
    """The MLflow runs on a dataset, newest first, as ``Tracking.runs_of_dataset`` gives them."""
    tracking = standing_tracking(settings)
    return tracking.runs_of_dataset(dataset_id) if tracking else []


def standing_tracking(settings: Settings) -> Tracking | None:
    """MLflow, or None where no training has made its database yet; to make it takes many seconds."""
    database = settings.tracking_uri.removeprefix("sqlite:///")
    if database != settings.tracking_uri and not Path(database).exists():
        return None
    return Tracking(settings.tracking_uri, settings.artifacts_dir)


def _names_dataset(registry: Registry, identifier: str) -> bool:
    name = identifier.partition("@")[0]
    return identifier.startswith("ds_") or name != identifier or name in list_definitions(registry)


class _Tracer:
    """Follows the chain through one reading of the registry, and MLflow where there is one."""

    def __init__(self, session: Session, tracking: Tracking | None, records: list[DatasetRecord]) -> None:
        self._session, self._tracking = session, tracking
        self._records = {record.dataset_id: record for record in records}

    def source(self, source: Chain) -> Chain:
        of_source = Object.source_id == source["source_id"]
        return {
            "kind": "source",
            "id": source["source_id"],
            **_picked(source, "file_path", "source_type", "sha256", "width", "height", "group_key"),
            "made_from": {"files": self._files(BatchFile.source_id == source["source_id"])},
            "used_in": {
                "batches": self._batches(of_source),
                "objects": self._objects(of_source),
                "datasets": self._datasets(of_source),
            },
        }

    def object(self, found: Chain) -> Chain:
        of_object = Object.object_id == found["object_id"]
        source = self._session.get_one(Source, found["source_id"])
        models = ("detection_model", "segmentation_model", "embedding_version", "classification_model")
        return {
            "kind": "object",
            "id": found["object_id"],
            **_picked(found, "project_id", "category", "confidence", "state"),
            "bbox_xywh": [found["bbox_x"], found["bbox_y"], found["bbox_w"], found["bbox_h"]],
            "dagster_run_id": found["run_id"],
            "made_from": {
                "source": {"source_id": source.source_id, "file_path": source.file_path, "sha256": source.sha256},
                "models": _picked(found, *models),
                "review": _picked(found, *REVIEW),
                "batches": self._batches(of_object),
            },
            "used_in": {"datasets": self._datasets(of_object)},
        }

    def dataset(self, record: DatasetRecord) -> Chain:
        in_dataset = Object.object_id.in_(
            select(DatasetObject.object_id).where(DatasetObject.dataset_id == record.dataset_id)
        )
        sources = select(Object.source_id).where(in_dataset)
        return {
            "kind": "dataset",
            "id": record.dataset_id,
            **self._described(record),
            "definition": record.definition,
            "made_from": {
                "files": self._files(BatchFile.source_id.in_(sources) & (BatchFile.status == "ready")),
                "models": self._models(in_dataset),
                "batches": self._batches(in_dataset),
            },
            "used_in": {"models": self._trained(record.dataset_id)},
        }

    def model(self, identifier: str) -> Chain:
        if self._tracking is None:
            raise _unknown(identifier)
        name, _, version = identifier.rpartition("/")
        try:
            run = self._tracking.run_lineage(self._tracking.run_of_model(name, version) if name else identifier)
        except UserError:
            raise _unknown(identifier) from None
        record = self._records.get(run["tags"].get(DATASET_TAG, ""))
        return {
            "kind": "model",
            **_model(run),
            "artifacts": run["artifacts"],
            "parameters": run["params"],
            "metrics": {name: round(value, 4) for name, value in run["metrics"].items()},
            "made_from": {"dataset": self.dataset(record)} if record else {"datasets": run["datasets"]},
            "used_in": {},
        }

    def _files(self, condition: ColumnElement[bool]) -> Chain:
        paths = select(BatchFile.file_path).where(condition).distinct().order_by(BatchFile.file_path)
        count = self._session.scalar(select(func.count()).select_from(paths.subquery())) or 0
        return {"count": count, "first": list(self._session.scalars(paths.limit(FILES_SHOWN)))}

    def _objects(self, condition: ColumnElement[bool]) -> list[Chain]:
        rows = self._session.execute(
            select(Object.object_id, Category.name.label("category"), Object.confidence, Object.state)
            .join(Category, isouter=True)
            .where(condition)
            .order_by(Object.object_id)
        )
        return [dict(row) for row in rows.mappings()]

    def _models(self, condition: ColumnElement[bool]) -> list[Chain]:
        """Each combination of model revisions, and how many objects it made."""
        columns = (
            Object.detection_model,
            Object.segmentation_model,
            Object.embedding_version,
            Object.classification_model,
        )
        rows = self._session.execute(
            select(*columns, func.count().label("objects")).where(condition).group_by(*columns).order_by(*columns)
        )
        return [dict(row) for row in rows.mappings()]

    def _batches(self, condition: ColumnElement[bool]) -> list[Chain]:
        """The batches whose labels stand, with the run that registered them and the parameters as they were."""
        keys = select(Object.batch_key).where(condition)
        rows = self._session.scalars(select(Batch).where(Batch.batch_key.in_(keys)).order_by(Batch.batch_key))
        return [{"batch": row.batch_key, "dagster_run_id": row.run_id, "parameters": row.parameters} for row in rows]

    def _datasets(self, condition: ColumnElement[bool]) -> list[Chain]:
        rows = self._session.execute(
            select(DatasetObject.dataset_id, DatasetObject.split, func.count().label("objects"))
            .join(Object, Object.object_id == DatasetObject.object_id)
            .where(condition)
            .group_by(DatasetObject.dataset_id, DatasetObject.split)
            .order_by(DatasetObject.dataset_id, DatasetObject.split)
        ).all()
        return [
            {
                "dataset_id": row.dataset_id,
                "split": row.split,
                "objects": row.objects,
                **self._described(self._records[row.dataset_id]),
                "models": self._trained(row.dataset_id),
            }
            for row in rows
            if row.dataset_id in self._records
        ]

    def _described(self, record: DatasetRecord) -> Chain:
        return {
            "name": record.name,
            "version": record.version,
            "content_hash": record.content_hash,
            "objects_by_split": record.objects_by_split,
            "export_path": record.export_path,
            "dagster_run_id": record.run_id,
        }

    def _trained(self, dataset_id: str) -> list[Chain]:
        return [_model(run) for run in self._tracking.runs_of_dataset(dataset_id)] if self._tracking else []


def _model(run: Chain) -> Chain:
    registered = f"{run['model_name']}/{run['model_version']}" if run["model_name"] else None
    return {
        "id": registered or run["run_id"],
        "mlflow_run_id": run["run_id"],
        "status": run["status"],
        "dagster_run_id": run["tags"].get("al.dagster_run_id"),
        "test_map50": run["metrics"].get("test_map50"),
    }


def _unknown(identifier: str) -> UserError:
    return UserError(
        f"nothing has the id {identifier!r}: give a source (src_…), an object (obj_…), a dataset (ds_…, its name or "
        "name@version), a model (name/version) or an MLflow run; `al objects list` and `al dataset list` list some"
    )


def _picked(values: Chain, *keys: str) -> Chain:
    return {key: values[key] for key in keys if values.get(key) is not None}
