"""The Parquet lake: one file for each asset and partition, written whole, on any fsspec path."""

import errno
import hashlib
import shlex
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import fsspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from al_dagster.core.errors import DamagedTableError, UserError
from al_dagster.core.failpoints import reach
from al_dagster.core.files import write_whole
from al_dagster.core.ids import batch_project

if TYPE_CHECKING:
    import pyarrow as pa


_SEAL = b"AL-SHA256"

log = structlog.get_logger(__name__)


class Lake:
    """Reads and writes the tables of the lake, cast to their declared schemas.

    The SHA-256 of a file stands in it between the rows and the footer, where every reader of Parquet passes over it,
    so that a table that was cut off or changed on the disk is not taken for what was stored.

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

    def size(self, asset: str, partition: str) -> int:
        """Bytes of a stored table."""
        return int(self._fs.size(self.path(asset, partition)))

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
            DamagedTableError: it is not as it was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from al_dagster.core.schemas import LAKE_SCHEMAS

        declared = LAKE_SCHEMAS[asset]
        try:
            with self._fs.open(self.path(asset, partition), "rb") as file:
                content = file.read()
            _check_seal(content)
            table = pq.read_table(pa.BufferReader(content))
            table.select([field.name for field in declared if not field.nullable])
        except FileNotFoundError:
            raise UserError(f"{asset} of {partition} is not in the lake: materialize {asset} first") from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            # What Arrow says of a damaged file is an OSError without a number; others are of the file system.
            if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
                raise
            raise DamagedTableError(
                f"{self.path(asset, partition)}: is damaged; {_mended_by(asset, partition)}"
            ) from error
        for index, field in enumerate(declared):
            if field.nullable and field.name not in table.schema.names:
                table = table.add_column(index, field, pa.nulls(table.num_rows, field.type))
        return table

    def previous(self, asset: str, partition: str) -> "pa.Table":
        """What a stage stored last, for the stage itself, which may make all of it anew.

        An empty table of the declared schema if it never stored any, or if that is damaged.
        """
        from al_dagster.core.schemas import LAKE_SCHEMAS

        try:
            return self.read(asset, partition)
        except DamagedTableError as error:
            log.warning("damaged table is made anew", asset=asset, partition=partition, error=str(error.__cause__))
        except UserError:
            pass  # It was never stored.
        return LAKE_SCHEMAS[asset].empty_table()

    def write(self, asset: str, partition: str, table: "pa.Table") -> int:
        """Replace a partition's file by this table and return its size in bytes.

        The file is written beside its place and renamed into it, so that a reader sees the old table or the new one.
        Metadata of the table's schema is kept.

        Raises:
            pyarrow.ArrowInvalid, ValueError: the table does not have the declared columns.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from al_dagster.core.schemas import LAKE_SCHEMAS

        schema = LAKE_SCHEMAS[asset].with_metadata(table.schema.metadata)
        path = self.path(asset, partition)
        buffer = pa.BufferOutputStream()
        pq.write_table(table.select(schema.names).cast(schema), buffer, compression="zstd")
        content = _sealed(buffer.getvalue().to_pybytes())
        reach(f"{asset} not written")
        if isinstance(self._fs, LocalFileSystem):
            write_whole(Path(path), content, name=asset)
            return len(content)
        folder, _, name = path.rpartition("/")
        staged = f"{folder}/.{name}.{uuid.uuid4().hex}"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._fs.pipe_file(staged, content)
            self._fs.mv(staged, path)
        finally:
            if self._fs.exists(staged):
                self._fs.rm(staged)
        return len(content)


def _mended_by(asset: str, partition: str) -> str:
    if asset == "dataset":
        return "`al dataset build` of its dataset writes it again, if the labels are as they were"
    return f"`al ingest --project {shlex.quote(batch_project(partition))} --again` makes it anew"


def _sealed(content: bytes) -> bytes:
    """The bytes of a Parquet file with their SHA-256 before the footer."""
    footer = _footer(content)
    digest = hashlib.sha256(content).digest()
    return b"".join((content[:footer], _SEAL, digest, content[footer:]))


def _check_seal(content: bytes) -> None:
    """Refuse a file that is not as it was written; one of an older version has no seal.

    Raises:
        ValueError: it is not.
    """
    footer = _footer(content)
    seal = footer - len(_SEAL) - hashlib.sha256().digest_size
    if seal < 0 or content[seal : seal + len(_SEAL)] != _SEAL:
        return
    rows, rest = memoryview(content)[:seal], memoryview(content)[footer:]
    digest = hashlib.sha256(rows)
    digest.update(rest)
    if digest.digest() != content[seal + len(_SEAL) : footer]:
        raise ValueError("its bytes are not those that were written")


def _footer(content: bytes) -> int:
    """Where the footer of a Parquet file begins: before its last 8 bytes, the first 4 of which say how long it is."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")
