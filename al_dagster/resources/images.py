"""Decoded images, shared by the stages of a run."""

import os
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from al_dagster.media.loader import ImageLoader

MOST_WORKERS = 16


class ImagesResource(dg.ConfigurableResource):
    """Reads images ahead and keeps the decoded ones of a run, as many as the memory given takes."""

    max_pixels: int = Field(description="Images that decode to more pixels are quarantined.")
    cache_mb: int = Field(description="Memory for decoded images.")

    _loader: "ImageLoader | None" = PrivateAttr(default=None)

    def loader(self) -> "ImageLoader":
        """The loader of this run."""
        if self._loader is None:
            from al_dagster.media.loader import ImageLoader

            self._loader = ImageLoader(self.max_pixels, self.cache_mb, workers=min(MOST_WORKERS, os.cpu_count() or 1))
        return self._loader

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Free the decoded images."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None
