"""What every vector store does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


class VectorStore(Protocol):
    """The vectors of one embedding version, by object id.

    Writing is idempotent: the same upsert or delete twice leaves what one leaves. A store is a context manager that
    closes itself.

    Attributes:
        version_id: embedding version, such as ``dinov2_base_v1``; vectors of two versions never mix.
        dimension: length of a vector.
    """

    version_id: str
    dimension: int

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        metadatas: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """Write vectors; an id that is already there gets the new one.

        Args:
            ids: n object ids, each once.
            vectors: (n, dimension), float32, finite, not zero.
            metadatas: for each id, strings to keep beside it, such as its project.

        Raises:
            ValueError: the vectors do not have that shape, dtype or values, or an id comes twice.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Remove ids; one that is not there is passed over."""

    def query(self, vector: NDArray[np.float32], n: int) -> list[tuple[str, float]]:
        """The nearest ids of a vector, nearest first.

        Args:
            vector: (dimension,), float32.
            n: most ids to return; fewer come when the store has fewer.

        Returns:
            Ids with their similarity, 1 − cosine distance, in −1 to 1.

        Raises:
            ValueError: the vector has another shape or dtype, or n is below 1.
        """
        ...

    def get(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors, (dimension,) float32, of those ids that are there; the last bit may be rounded."""
        ...

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those ids that are there."""
        ...

    def ids(self) -> Iterator[str]:
        """Every id of the store; writing while iterating is not defined."""
        ...

    def count(self) -> int:
        """How many vectors the store has."""
        ...

    def close(self) -> None:
        """Let go of files and locks; closing twice does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...
