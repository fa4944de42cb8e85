"""Chroma as the vector store: an embedded, persistent index that one process at a time has open."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from al_dagster.core.errors import UserError

# In clear clusters the recall@10 is 1.0 whatever these are. Of barely clustered vectors (20,000, 768-d) Chroma's search
# effort of 100 finds 0.73, 300 finds 0.83 and 500 finds 0.89, for some 3 ms more a query; a construction effort of 60
# instead of 100 costs less than 0.005 of that and writes a third faster.
INDEX = {"space": "cosine", "max_neighbors": 16, "ef_construction": 60, "ef_search": 500}
LOCK_TIMEOUT_SECONDS = 120.0
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,500}[A-Za-z0-9]")
_opening = threading.RLock()


class ChromaStore:
    """A vector store in a folder: one Chroma collection for each embedding version, cosine distance, exact ids.

    Chroma's persistent client may be used by many threads but by one process only. A lock file beside the folder
    (``chroma.lock`` for ``chroma``) is held while any store of the folder is open in this process, and opening waits
    for it. After the last one is closed, the next that is opened reads what other processes have written since.

    Args:
        path: folder of the index; made if it is missing.
        version_id: embedding version, such as ``dinov2_base_v1``; its collection is ``objects_<version_id>``.
        dimension: length of a vector.
        lock_timeout: seconds to wait for another process to let go of the index.

    Raises:
        UserError: another process has the index open for longer than that, or it cannot be read.
        ValueError: the version's name does not fit, or its vectors have another dimension.
    """

    def __init__(
        self, path: Path, version_id: str, dimension: int, *, lock_timeout: float = LOCK_TIMEOUT_SECONDS
    ) -> None:
        if not _VERSION_ID.fullmatch(version_id):
            raise ValueError(
                f"an embedding version is named with letters, digits, '_', '-' and '.', got {version_id!r}"
            )
        if dimension < 1:
            raise ValueError(f"vectors must have a dimension of at least 1, got {dimension}")
        self.version_id = version_id
        self.dimension = dimension
        self._closed = False
        path = path.resolve()
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_of(path)
        with _opening:
            self._acquire(lock_timeout)
            try:
                self._client = _open_client(path)
                try:
                    self._collection = self._open_collection()
                except BaseException:
                    self._client.close()
                    raise
            except BaseException:
                self._lock.release()
                raise
        self._most = int(self._client.get_max_batch_size())

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
            self._collection.upsert(
                ids=ids[part],
                embeddings=vectors[part],
                metadatas=None if metadatas is None else [dict(metadata) for metadata in metadatas[part]],
            )

    def delete(self, ids: Sequence[str]) -> None:
        """Remove ids; see VectorStore."""
        for part in self._parts(ids):
            self._collection.delete(ids=part)

    def query(self, vector: NDArray[np.float32], n: int) -> list[tuple[str, float]]:
        """The nearest ids of a vector; see VectorStore."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if np.shape(vector) != (self.dimension,):
            raise ValueError(f"expected a vector of shape ({self.dimension},), got {np.shape(vector)}")
        self._check_vectors(vector[None], 1)
        found = self._collection.query(query_embeddings=[vector], n_results=n, include=["distances"])
        if not found["ids"][0]:
            return []
        similarities = np.clip(1.0 - np.asarray(found["distances"][0], dtype=np.float64), -1.0, 1.0)
        return list(zip(found["ids"][0], similarities.tolist(), strict=True))

    def get(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors of ids; see VectorStore."""
        vectors: dict[str, NDArray[np.float32]] = {}
        for part in self._parts(ids):
            found = self._collection.get(ids=part, include=["embeddings"])
            if found["ids"]:
                vectors.update(zip(found["ids"], np.asarray(found["embeddings"], dtype=np.float32), strict=True))
        return vectors

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those ids that are there; see VectorStore."""
        return {found for part in self._parts(ids) for found in self._collection.get(ids=part, include=[])["ids"]}

    def ids(self) -> Iterator[str]:
        """Every id, read in pages; see VectorStore."""
        offset = 0
        while page := self._collection.get(include=[], limit=self._most, offset=offset)["ids"]:
            yield from page
            offset += len(page)

    def count(self) -> int:
        """How many vectors the store has."""
        return int(self._collection.count())

    def close(self) -> None:
        """Close the index and let other processes have it; closing twice does nothing."""
        with _opening:
            if self._closed:
                return
            self._closed = True
            del self._collection
            self._client.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _acquire(self, timeout: float) -> None:
        try:
            self._lock.acquire(timeout=timeout)
        except Timeout:
            raise UserError(
                f"{self._lock.lock_file}: another process is writing to the vector index and did not finish within "
                f"{timeout:g} s; wait for it or end it, then try again"
            ) from None

    def _open_collection(self) -> Any:
        collection = self._client.get_or_create_collection(
            f"objects_{self.version_id}",
            configuration={"hnsw": INDEX},
            embedding_function=None,
            metadata={"dimension": self.dimension},
        )
        kept = (collection.metadata or {}).get("dimension")
        if kept != self.dimension:
            raise ValueError(f"the index of {self.version_id} has vectors of dimension {kept}, not {self.dimension}")
        return collection

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


def _lock_of(path: Path) -> FileLock:
    # One lock object for each folder and process, counting its holders, so that several stores of it may be open.
    return FileLock(path.with_name(path.name + ".lock"), is_singleton=True, thread_local=False)


def _open_client(path: Path) -> Any:
    import chromadb
    from chromadb.config import Settings

    try:
        return chromadb.PersistentClient(str(path), settings=Settings(anonymized_telemetry=False))
    except Exception as error:
        raise UserError(
            f"{path}: the vector index cannot be opened ({error}); move the folder away and run 'al sync --reconcile' "
            "to build it again from the registry"
        ) from error
