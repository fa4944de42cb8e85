"""The models of a profile as a resource, loaded when first used and unloaded when the run ends."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from al_dagster.vision.profiles import Models


class ModelsResource(dg.ConfigurableResource):
    """Holds one set of models for each profile used in a run."""

    _models: "dict[str, Models]" = PrivateAttr(default_factory=dict)

    def profile(self, name: str) -> "Models":
        """The detector, segmenter and embedder of a profile.

        Raises:
            UserError: there is no such profile.
        """
        if name not in self._models:
            from al_dagster.vision.profiles import build_models

            self._models[name] = build_models(name)
        return self._models[name]

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Unload the models."""
        for models in self._models.values():
            models.close()
        self._models.clear()
