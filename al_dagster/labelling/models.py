"""The models of a project, as this machine's settings have them made."""

from pathlib import Path

from al_dagster.core.project import PROPOSAL, ProjectConfig
from al_dagster.core.settings import Settings
from al_dagster.labelling.labels import detector_prompts
from al_dagster.training.models import trained_weights
from al_dagster.training.tracking import Tracking
from al_dagster.vision.profiles import Environment, Models, build_models
from al_dagster.vision.protocols import Prompt


def environment(settings: Settings) -> Environment:
    """What this machine gives to models."""

    def find(dataset: str) -> Path:
        return trained_weights(Tracking(settings.tracking_uri, settings.artifacts_dir), dataset)

    return Environment(
        models_dir=settings.models_dir,
        scratch_dir=settings.scratch_dir,
        device=settings.device,
        max_vram_gb=settings.max_vram_gb,
        compile=settings.torch_compile,
        trained_weights=find,
    )


def object_models(project: ProjectConfig, machine: Environment) -> Models:
    """Like `project_models`, where objects are only cut out and embedded: the project's own detector is not needed.

    Raises:
        UserError: the segmenter or the embedder cannot be had; says what to do.
    """
    return build_models(project.profile, project.models, [Prompt(PROPOSAL)], machine)


def project_models(project: ProjectConfig, machine: Environment) -> Models:
    """The models of a project, nothing loaded yet.

    Raises:
        UserError: the support folder does not fit the classes, or a model cannot be had; says what to do.
    """
    return build_models(project.profile, project.models, detector_prompts(project), machine)
