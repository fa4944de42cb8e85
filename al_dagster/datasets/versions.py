"""The frozen rows of dataset versions: one table of the lake for each, by the id of the version."""

import dataclasses
import json
from dataclasses import dataclass

import pyarrow as pa

from al_dagster.core.errors import DamagedTableError, UserError
from al_dagster.core.lake import Lake
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.report import BuildReport, report_of
from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import DatasetRecord, get_dataset

ASSET = "dataset"
_REPORT_KEY = b"al_dagster.build_report"


@dataclass(frozen=True)
class Version:
    """A version of a dataset.

    Args:
        record: what the registry says of it.
        dataset: its rows.
        report: what its build came to.
    """

    record: DatasetRecord
    dataset: FrozenDataset
    report: BuildReport


def store_version(lake: Lake, dataset: FrozenDataset, report: BuildReport) -> int:
    """Keep the rows of a version and the report of its build; gives the bytes written.

    Rows that are kept already stay as they were frozen: only how they are to be exported and what was left out are
    newer.
    """
    table = dataset.to_table()
    metadata = {**table.schema.metadata, _REPORT_KEY: json.dumps(report.to_json(), sort_keys=True).encode()}
    if (stored := _stored(lake, dataset.dataset_id)) is not None:
        table = stored
    return lake.write(ASSET, dataset.dataset_id, table.replace_schema_metadata(metadata))


def load_version(registry: Registry, lake: Lake, reference: str) -> FrozenDataset:
    """The rows of a version as they were frozen, whatever became of the objects since.

    Args:
        registry: where versions are recorded.
        lake: where their rows are.
        reference: the name of a dataset (the version that was built last), ``name@version`` or the id of a version.

    Raises:
        UserError: there is no such version, or its rows are gone.
    """
    return read_version(registry, lake, reference).dataset


def read_version(registry: Registry, lake: Lake, reference: str) -> Version:
    """A version with its rows and its report; as ``load_version``."""
    record = get_dataset(registry, reference)
    table = _table(lake, record)
    # The number is given when the version is recorded, after its rows are stored.
    dataset = dataclasses.replace(FrozenDataset.from_table(table), version=record.version)
    stored = (table.schema.metadata or {}).get(_REPORT_KEY)
    report = BuildReport.from_json(json.loads(stored)) if stored else report_of(dataset.table, dataset.classes)
    return Version(record, dataset, report)


def _table(lake: Lake, record: DatasetRecord) -> pa.Table:
    # Before versions had a table each, the newest one was kept under the dataset's name.
    for partition in (record.dataset_id, record.name):
        table = _stored(lake, partition)
        if table is not None and FrozenDataset.from_table(table).dataset_id == record.dataset_id:
            return table
    raise UserError(
        f"the rows of dataset {record.name}@{record.version} are not in the lake, or damaged: if its labels are as "
        f"they were, `al dataset build {record.name}` writes them again"
    )


def _stored(lake: Lake, partition: str) -> pa.Table | None:
    """The rows that are kept, or None if there are none that can be read."""
    try:
        return lake.read(ASSET, partition) if lake.exists(ASSET, partition) else None
    except DamagedTableError:
        return None
