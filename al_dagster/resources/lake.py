"""The IO manager of the lake."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from al_dagster.core.disk import disk_full, is_disk_full
from al_dagster.core.errors import UserError
from al_dagster.core.lake import Lake
from al_dagster.core.settings import load_settings

if TYPE_CHECKING:
    import pyarrow as pa


class StoredTables(Mapping[str, "pa.Table"]):
    """The tables of an asset by partition, each read from the lake when it is asked for."""

    def __init__(self, lake: Lake, asset: str, partitions: list[str]) -> None:
        self._lake, self._asset, self._partitions = lake, asset, partitions

    def __getitem__(self, partition: str) -> "pa.Table":
        return self._lake.read(self._asset, partition)

    def __iter__(self) -> Iterator[str]:
        return iter(self._partitions)

    def __len__(self) -> int:
        return len(self._partitions)


class NewTables:
    """The tables of an asset by partition, each made when the one before is written."""

    def __init__(self, tables: "Iterable[tuple[str, pa.Table]]") -> None:
        self._tables = tables

    def __iter__(self) -> "Iterator[tuple[str, pa.Table]]":
        return iter(self._tables)


class LakeIOManager(dg.ConfigurableIOManager):
    """Keeps each partition of an asset as one Parquet file, cast to the columns declared in ``core.schemas``.

    An asset gives its new tables by partition. Each table is computed, written and renamed into place
    before the next is asked for, so that a run over a range of partitions holds one at a time, and a run that is
    killed keeps those it has finished. An input is a mapping that reads a partition when it is asked for.
    """

    root: str = Field(description="Local folder or fsspec path of the lake.")

    _lake: Lake | None = PrivateAttr(default=None)

    @property
    def lake(self) -> Lake:
        """The lake itself, for what is not an input: the last materialization of the asset being made."""
        if self._lake is None:
            self._lake = Lake(self.root)
        return self._lake

    def handle_output(self, context: dg.OutputContext, obj: NewTables) -> None:
        """Write the tables of an asset and publish their columns and sizes."""
        asset = context.asset_key.to_user_string()
        written = 0
        home = load_settings().home
        try:
            for partition, table in obj:
                written += self.lake.write(asset, partition, table)
        except Exception as error:
            # The stage itself runs in this loop too.
            if not isinstance(error, UserError) and is_disk_full(error, home):
                raise disk_full(home.absolute()) from error
            raise
        context.add_output_metadata(
            {
                "dagster/column_schema": column_schema(asset),
                "lake_folder": dg.MetadataValue.path(f"{self.root}/{asset}"),
                "bytes_written": written,
            }
        )

    def load_input(self, context: dg.InputContext) -> StoredTables:
        """The tables of the partitions that the input has in this run."""
        return StoredTables(self.lake, context.asset_key.to_user_string(), list(context.asset_partition_keys))


def column_schema(asset: str) -> dg.TableSchema:
    """The declared columns of an asset as Dagster shows them."""
    from al_dagster.core.schemas import LAKE_SCHEMAS

    return dg.TableSchema(
        columns=[
            dg.TableColumn(field.name, str(field.type), constraints=dg.TableColumnConstraints(nullable=field.nullable))
            for field in LAKE_SCHEMAS[asset]
        ]
    )
