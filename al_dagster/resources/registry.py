"""The registry and its mask store as a resource."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from al_dagster.core.project import ProjectConfig
    from al_dagster.labelling.masks import RunMasks
    from al_dagster.registry.database import Registry


class RegistryResource(dg.ConfigurableResource):
    """Opens the registry when it is first used in a run, brought to the newest schema."""

    url: str = Field(description="SQLAlchemy URL.")
    masks_dir: str = Field(description="Folder of the mask store.")
    duplicate_distance: int = Field(description="Bits in which the perceptual hashes of near-duplicates may differ.")

    _registry: "Registry | None" = PrivateAttr(default=None)
    _masks: "RunMasks | None" = PrivateAttr(default=None)

    def open(self) -> "Registry":
        """The registry, open until the run ends."""
        if self._registry is None:
            from al_dagster.registry.database import open_registry

            self._registry = open_registry(self.url)
        return self._registry

    def project(self, name: str) -> "ProjectConfig":
        """The configuration of a project.

        Raises:
            UserError: there is no such project.
        """
        from al_dagster.registry.projects import get_project

        return get_project(self.open(), name)

    def masks(self) -> "RunMasks":
        """The mask store, with the masks that this run has made in memory."""
        if self._masks is None:
            from al_dagster.labelling.masks import RunMasks
            from al_dagster.registry.masks import MaskStore

            self._masks = RunMasks(MaskStore(Path(self.masks_dir)))
        return self._masks

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections of the run and free its masks."""
        self._masks = None
        if self._registry is not None:
            self._registry.dispose()
            self._registry = None
