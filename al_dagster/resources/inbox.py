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

    def root_of(self, file_path: str) -> Path | None:
        """The inbox, if the file lies in it, since a link there must not lead out of it; else None."""
        inbox = Path(self.path)
        return inbox if Path(file_path).is_relative_to(inbox) else None
