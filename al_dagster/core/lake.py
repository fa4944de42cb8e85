"""The Parquet lake: one file for each asset and partition, written whole, on any fsspec path."""

import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import fsspec

from al_dagster.core.errors import UserError
from al_dagster.core.failpoints import reach

if TYPE_CHECKING:
    import pyarrow as pa


class Lake:
    """Reads and writes the tables of the lake, cast to their declared schemas.

    Args:
        root: a local folder or any fsspec path, such as ``s3://bucket/lake``.
    """

    def __init__(self, root: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(root)

    def path(self, asset: str, partition: str) -> str:
        """The path of a partition's file; characters that a file name cannot hold are percent-encoded."""
        return f"{self._root}/{asset}/{quote(partition, safe=' ')}.parquet"

    def exists(self, asset: str, partition: str) -> bool:
        """Whether a table of this partition is stored."""
        return bool(self._fs.exists(self.path(asset, partition)))

    def partitions(self, asset: str) -> list[str]:
        """The partitions of an asset that are in the lake, sorted."""
        folder = f"{self._root}/{asset}"
        if not self._fs.exists(folder):
            return []
        names = (path.rpartition("/")[2] for path in self._fs.ls(folder, detail=False))
        return sorted(unquote(name[: -len(".parquet")]) for name in names if name.endswith(".parquet"))

    def read(self, asset: str, partition: str) -> "pa.Table":
        """The stored table of a partition.

        Declared columns that may be empty, and that an older version did not write, are empty.

        Raises:
            UserError: none is stored; an empty table would say that there is nothing, which nobody has looked at.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from al_dagster.core.schemas import LAKE_SCHEMAS

        try:
            with self._fs.open(self.path(asset, partition), "rb") as file:
                table = pq.read_table(file)
        except FileNotFoundError:
            raise UserError(f"{asset} of {partition} is not in the lake: materialize {asset} first") from None
        declared = LAKE_SCHEMAS[asset]
        for index, field in enumerate(declared):
            if field.nullable and field.name not in table.schema.names:
                table = table.add_column(index, field, pa.nulls(table.num_rows, field.type))
        return table

    def previous(self, asset: str, partition: str) -> "pa.Table":
        """What a stage stored last, for the stage itself; an empty table of the declared schema if it never did."""
        from al_dagster.core.schemas import LAKE_SCHEMAS

        return self.read(asset, partition) if self.exists(asset, partition) else LAKE_SCHEMAS[asset].empty_table()

    def write(self, asset: str, partition: str, table: "pa.Table") -> int:
        """Replace a partition's file by this table and return its size in bytes.

        The file is written beside its place and renamed into it, so that a reader sees the old table or the new one.
        Metadata of the table's schema is kept.

        Raises:
            pyarrow.ArrowInvalid, ValueError: the table does not have the declared columns.
        """
        import pyarrow.parquet as pq

        from al_dagster.core.schemas import LAKE_SCHEMAS

        schema = LAKE_SCHEMAS[asset].with_metadata(table.schema.metadata)
        path = self.path(asset, partition)
        folder, _, name = path.rpartition("/")
        staged = f"{folder}/.{name}.{uuid.uuid4().hex}"
        self._fs.makedirs(folder, exist_ok=True)
        reach(f"{asset} not written")
        try:
            with self._fs.open(staged, "wb") as file:
                reach(f"{asset} half written")
                pq.write_table(table.select(schema.names).cast(schema), file, compression="zstd")
            size = int(self._fs.size(staged))
            self._fs.mv(staged, path)
            reach(f"{asset} written")
        finally:
            if self._fs.exists(staged):
                self._fs.rm(staged)
        return size
