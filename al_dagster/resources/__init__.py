"""Configuration and lifecycle of what the assets use: registry, lake, images, models, vectors, MLflow."""

from typing import Any

from al_dagster.core.settings import Settings
from al_dagster.resources.exports import ExportsResource
from al_dagster.resources.images import ImagesResource
from al_dagster.resources.inbox import InboxResource
from al_dagster.resources.lake import LakeIOManager
from al_dagster.resources.models import ModelsResource
from al_dagster.resources.registry import RegistryResource
from al_dagster.resources.tracking import TrackingResource
from al_dagster.resources.vectors import VectorStoreResource

__all__ = [
    "ExportsResource",
    "ImagesResource",
    "InboxResource",
    "LakeIOManager",
    "ModelsResource",
    "RegistryResource",
    "TrackingResource",
    "VectorStoreResource",
    "build_resources",
]


def build_resources(settings: Settings) -> dict[str, Any]:
    """The resources of the code location, by the names that assets ask for them."""
    return {
        "lake": LakeIOManager(root=settings.lake),
        "registry": RegistryResource(
            url=settings.database_url,
            masks_dir=str(settings.masks_dir),
            duplicate_distance=settings.duplicate_distance,
        ),
        "inbox": InboxResource(
            path=str(settings.inbox), batch_size=settings.batch_size, settle_seconds=settings.settle_seconds
        ),
        "images": ImagesResource(max_pixels=settings.max_image_pixels, cache_mb=settings.image_cache_mb),
        "models": ModelsResource(),
        "vectors": VectorStoreResource(path=str(settings.chroma_dir)),
        "tracking": TrackingResource(
            uri=settings.tracking_uri,
            artifacts_dir=str(settings.artifacts_dir),
            scratch_dir=str(settings.scratch_dir),
        ),
        "exports": ExportsResource(folder=str(settings.exports_dir)),
    }
