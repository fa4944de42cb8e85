"""Chroma as the vector store: an embedded, persistent index that one process at a time has open."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.disk import MIN_FREE_BYTES, disk_full, free_bytes, is_disk_full, require_space
from al_dagster.core.errors import UserError
from al_dagster.vectors.chroma_process import lock_path

LOCK_TIMEOUT_SECONDS = 120.0
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,500}[A-Za-z0-9]")
LOOK_EVERY_SECONDS = 0.05
CALL_SECONDS = 120.0
"""A call that takes longer will not return; the slowest, of thousands of vectors into a million, takes some 10 s."""

DATABASE = "chroma.sqlite3"


class ChromaError(Exception):
    """Chroma refused a call, or did not return from it."""


class ChromaStuckError(UserError):
    """Chroma did not return from a call; the process that made it was ended."""


def has_index(path: Path) -> bool:
    """Whether there is an index in a folder."""
    database = path / DATABASE
    return database.exists() and database.stat().st_size > 0


class ChromaStore:
    """A vector store in a folder: one Chroma collection for each embedding version, cosine distance, exact ids.

    Chroma runs in a process of its own (`chroma_process`), which all stores of this process share, and may have an
    index open in one process only. A lock file beside the folder (``chroma.lock`` for ``chroma``) is held while any
    store of the folder is open in this process, and opening waits for it. After the last one is closed, the next that
    is opened reads what other processes have written since. Many threads may use a store; their calls take turns.

    Args:
        path: folder of the index; made if it is missing.
        version_id: embedding version, such as ``dinov2_base_v1``; its collection is ``objects_<version_id>``.
        dimension: length of a vector.
        lock_timeout: seconds to wait for another process to let go of the index.
        call_timeout: seconds after which a call is given up.

    Raises:
        UserError: another process has the index open for longer than that, or it cannot be read.
        DiskFullError: there is no room for an index.
        ValueError: the version's name does not fit, or its vectors have another dimension.
    """

    def __init__(
        self,
        path: Path,
        version_id: str,
        dimension: int,
        *,
        lock_timeout: float = LOCK_TIMEOUT_SECONDS,
        call_timeout: float = CALL_SECONDS,
    ) -> None:
        if not _VERSION_ID.fullmatch(version_id):
            raise ValueError(
                f"an embedding version is named with letters, digits, '_', '-' and '.', got {version_id!r}"
            )
        if dimension < 1:
            raise ValueError(f"vectors must have a dimension of at least 1, got {dimension}")
        self.version_id = version_id
        self.dimension = dimension
        self._path = path.resolve()
        self._name = f"objects_{version_id}"
        self._call_timeout = call_timeout
        self._closed = False
        if not has_index(self._path):
            require_space(self._path)
        self._path.mkdir(parents=True, exist_ok=True)
        self._process = _process()
        self._open(lock_timeout)
        try:
            kept, self._most = self._call("collection", self._name, dimension)
            if kept != dimension:
                raise ValueError(f"the index of {version_id} has vectors of dimension {kept}, not {dimension}")
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """The id of the process that has the index open."""
        return self._process.pid

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        metadatas: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """Write vectors; see VectorStore. Of a call that fails, any part may have been written."""
        ids = list(ids)
        self._check_vectors(vectors, len(ids))
        if len(set(ids)) != len(ids):
            raise ValueError(f"ids must be unique, got {len(ids)} of which {len(set(ids))} differ")
        if metadatas is not None and len(metadatas) != len(ids):
            raise ValueError(f"expected one metadata for each of {len(ids)} ids, got {len(metadatas)}")
        for start in range(0, len(ids), self._most):
            part = slice(start, start + self._most)
            require_space(self._path)
            self._collection(
                "upsert",
                ids=ids[part],
                embeddings=vectors[part],
                metadatas=None if metadatas is None else [dict(metadata) for metadata in metadatas[part]],
            )

    def delete(self, ids: Sequence[str]) -> None:
        """Remove ids; see VectorStore."""
        for part in self._parts(ids):
            require_space(self._path)
            self._collection("delete", ids=part)

    def query(self, vector: NDArray[np.float32], n: int) -> list[tuple[str, float]]:
        """The nearest ids of a vector; see VectorStore."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if np.shape(vector) != (self.dimension,):
            raise ValueError(f"expected a vector of shape ({self.dimension},), got {np.shape(vector)}")
        self._check_vectors(vector[None], 1)
        found = self._collection("query", query_embeddings=[vector], n_results=n, include=["distances"])
        if not found["ids"][0]:
            return []
        similarities = np.clip(1.0 - np.asarray(found["distances"][0], dtype=np.float64), -1.0, 1.0)
        return list(zip(found["ids"][0], similarities.tolist(), strict=True))

    def get(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors of ids; see VectorStore."""
        vectors: dict[str, NDArray[np.float32]] = {}
        for part in self._parts(ids):
            found = self._collection("get", ids=part, include=["embeddings"])
            if found["ids"]:
                vectors.update(zip(found["ids"], np.asarray(found["embeddings"], dtype=np.float32), strict=True))
        return vectors

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those ids that are there; see VectorStore."""
        return {found for part in self._parts(ids) for found in self._collection("get", ids=part, include=[])["ids"]}

    def ids(self) -> Iterator[str]:
        """Every id, read in pages; see VectorStore."""
        offset = 0
        while page := self._collection("get", include=[], limit=self._most, offset=offset)["ids"]:
            yield from page
            offset += len(page)

    def count(self) -> int:
        """How many vectors the store has."""
        return int(self._collection("count"))

    def close(self) -> None:
        """Close the index and let other processes have it; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._process.is_alive:
            self._call("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self, lock_timeout: float) -> None:
        deadline = time.monotonic() + lock_timeout
        try:
            while not self._call("open"):
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"{lock_path(self._path)}: another process is writing to the vector index and did not finish "
                        f"within {lock_timeout:g} s; wait for it or end it, then try again"
                    )
                time.sleep(LOOK_EVERY_SECONDS)
        except ChromaError as error:
            raise UserError(
                f"{self._path}: the vector index cannot be opened ({error}); move the folder away and run "
                "'al sync --reconcile' to build it again from the registry"
            ) from error

    def _collection(self, method: str, **arguments: Any) -> Any:
        return self._call("call", self._name, method, arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the process for this index.

        Raises:
            ChromaError: it failed.
            ChromaStuckError: it did not return; the process was ended, and with it every store of this process.
            DiskFullError: it failed since the disk is full. Chroma must not be called again: it might not return.
        """
        try:
            return self._process.call(self._call_timeout, name, str(self._path), *arguments)
        except ChromaError as error:
            if is_disk_full(error, self._path):
                self._process.end()
                raise disk_full(self._path) from error
            raise
        except TimeoutError:
            if free_bytes(self._path) < MIN_FREE_BYTES:
                raise disk_full(self._path) from None
            raise ChromaStuckError(
                f"{self._path}: the vector index did not answer within {self._call_timeout:g} s and was given up; run "
                "the command again, and if it does so again, move the folder away and run 'al sync --reconcile'"
            ) from None

    def _check_vectors(self, vectors: NDArray[np.float32], count: int) -> None:
        if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
            actual = vectors.dtype if isinstance(vectors, np.ndarray) else type(vectors).__name__
            raise ValueError(f"expected vectors of dtype float32, got {actual}")
        if vectors.shape != (count, self.dimension):
            raise ValueError(f"expected vectors of shape ({count}, {self.dimension}), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("expected finite vectors, got NaN or infinity")
        if not vectors.any(axis=1).all():
            raise ValueError("expected vectors of a length above zero, got a zero vector")

    def _parts(self, ids: Sequence[str]) -> Iterator[list[str]]:
        unique = list(dict.fromkeys(ids))
        for start in range(0, len(unique), self._most):
            yield unique[start : start + self._most]


class _Process:
    """A process that runs Chroma, and the pipe to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._turn = threading.Lock()
        mine, its = Pipe()
        # In a session of its own: a Ctrl-C is for this process, which closes what it has opened. No module of the
        # folder that a command is called in may stand in for one of ours.
        command = [sys.executable, "-P", "-m", "al_dagster.vectors.chroma_process", str(its.fileno())]
        with its:
            self._process = subprocess.Popen(
                command,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._pipe: Connection | None = mine

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can still be called."""
        return self._pipe is not None

    def call(self, timeout: float, name: str, *arguments: Any) -> Any:
        """Call a method of `chroma_process.Indexes`.

        Raises:
            ChromaError: it failed, or the process is gone.
            TimeoutError: it did not return; the process was ended.
        """
        with self._turn:
            if self._pipe is None:
                raise ChromaError("the process that had the index open is gone")
            try:
                self._pipe.send((name, arguments))
                if not self._pipe.poll(timeout):
                    raise TimeoutError(f"{name} did not return within {timeout:g} s")
                succeeded, value = self._pipe.recv()
            except (EOFError, ConnectionError):
                self.end()
                raise ChromaError(f"its process ended with status {self._process.returncode}") from None
            except BaseException:
                # The answer to this call must not be taken for that to the next.
                self.end()
                raise
        if not succeeded:
            raise ChromaError(value)
        return value

    def end(self) -> None:
        """End the process, whatever it is at; an index stands that."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        self._process.kill()
        self._process.wait()


_starting = threading.Lock()
_standing: _Process | None = None


def _process() -> _Process:
    """The process that runs Chroma for this one, started when it is first needed."""
    global _standing
    with _starting:
        if _standing is None or not _standing.is_alive or _standing.owner != os.getpid():
            _standing = _Process()
        return _standing
