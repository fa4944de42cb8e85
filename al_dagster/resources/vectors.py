"""The vector store as a resource."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from al_dagster.vectors.chroma import ChromaStore


class VectorStoreResource(dg.ConfigurableResource):
    """Opens the store of an embedding version; only one process has it open at a time."""

    path: str = Field(description="Folder of the embedded Chroma.")

    def store(self, version_id: str, dimension: int) -> "ChromaStore":
        """The store of an embedding version, to be used as a context manager."""
        from al_dagster.vectors.chroma import ChromaStore

        return ChromaStore(Path(self.path), version_id, dimension)
