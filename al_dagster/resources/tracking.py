"""MLflow as a resource."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from al_dagster.training.tracking import Tracking


class TrackingResource(dg.ConfigurableResource):
    """Where trainings are recorded and models registered."""

    uri: str = Field(description="MLflow tracking URI.")
    artifacts_dir: str = Field(description="Folder of the artifacts.")
    scratch_dir: str = Field(description="Folder for what a training or prediction process needs while it runs.")

    @property
    def work_dir(self) -> Path:
        """The scratch folder."""
        return Path(self.scratch_dir)

    def open(self) -> "Tracking":
        """The tracking store."""
        from al_dagster.training.tracking import Tracking

        return Tracking(self.uri, Path(self.artifacts_dir))
