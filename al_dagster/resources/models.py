"""The models of a project as a resource, loaded when first used and unloaded when the run ends."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from al_dagster.core.project import ProjectConfig
    from al_dagster.vision.profiles import Models


class ModelsResource(dg.ConfigurableResource):
    """Holds the models of each project used in a run; where and how they run is read from the settings."""

    _models: "dict[str, Models]" = PrivateAttr(default_factory=dict)

    def of(self, project: "ProjectConfig") -> "Models":
        """The detector, segmenter and embedder of a project.

        Raises:
            UserError: one of them cannot be had; says what is missing and what to do.
        """
        key = project.model_dump_json()
        if key not in self._models:
            from al_dagster.core.settings import load_settings
            from al_dagster.labelling import models

            self._models[key] = models.project_models(project, models.environment(load_settings()))
        return self._models[key]

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Unload the models."""
        for models in self._models.values():
            models.close()
        self._models.clear()
