"""The inbox as a resource."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from al_dagster.labelling.intake import Intake
    from al_dagster.registry.database import Registry


class InboxResource(dg.ConfigurableResource):
    """The folder that is watched for new files, one folder a project."""

    path: str = Field(description="The folder.")
    batch_size: int = Field(description="Most files in one batch.")
    settle_seconds: float = Field(description="A file is taken once it has not changed for this long.")

    def take(self, registry: "Registry") -> "Intake":
        """Cut the new, fully written files of every project into batches."""
        from al_dagster.labelling.intake import take_inbox

        return take_inbox(registry, Path(self.path), batch_size=self.batch_size, settle_seconds=self.settle_seconds)

    def bounds_of(self, registry: "Registry", batch_key: str) -> Path | None:
        """The folder that links among the files of a batch must not lead out of; None where they may lead anywhere."""
        from al_dagster.registry.batches import batch_origin

        return Path(self.path) if batch_origin(registry, batch_key) == "inbox" else None
