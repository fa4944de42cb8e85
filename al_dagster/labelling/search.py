"""Search: the objects most like an object of the registry, or like the object that a picture shows."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al_dagster.core.errors import UnreadableFileError, UserError
from al_dagster.core.settings import Settings
from al_dagster.labelling.index import sync_stores
from al_dagster.labelling.models import environment, project_models
from al_dagster.media.reading import read_image
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.embedding_versions import list_versions, versions_in_use
from al_dagster.registry.objects import get_object
from al_dagster.registry.outbox import has_synced, lost_index
from al_dagster.registry.paths import newest_path
from al_dagster.registry.projects import get_project
from al_dagster.registry.search import SearchHit, search_object, search_vectors
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision.crops import crop_object
from al_dagster.vision.profiles import build_embedding_models

PICTURE_MARGIN = 0.04


def search_like(settings: Settings, like: str, **conditions: Any) -> list[dict[str, Any]]:
    """The objects most like something, most similar first.

    Args:
        settings: where registry and vector store are.
        like: the id of an object, or the path of a picture that shows one object.
        conditions: ``top_k``, ``category``, ``project`` and ``min_confidence`` of ``registry.search``.

    Returns:
        The columns of each object, with ``category``, ``similarity`` and ``file_path``.

    Raises:
        UserError: there is no such object or picture, nothing is indexed yet, or the index is gone.
    """
    with open_registry(settings.database_url) as registry:
        if lost := lost_index(registry, settings.chroma_dir):
            raise UserError(lost)
        sync_stores(registry, partial(ChromaStore, settings.chroma_dir))
        if Path(like).is_file():
            hits = _like_picture(settings, registry, Path(like), conditions)
        elif like.startswith("obj_"):
            hits = _like_object(settings, registry, like, conditions)
        else:
            raise UserError(
                f"{like!r} is neither an object id nor a file: give an object id or a picture of one object; words "
                "cannot be searched for"
            )
        return [
            {
                "similarity": round(hit.similarity, 4),
                **{key: value for key, value in hit.object.items() if key != "polygon"},
                "file_path": newest_path(registry, hit.object["source_id"], hit.object["project_id"]),
            }
            for hit in hits
        ]


def _like_object(settings: Settings, registry: Registry, object_id: str, conditions: dict[str, Any]) -> list[SearchHit]:
    version_id = get_object(registry, object_id)["embedding_version"]
    versions = {version.version_id: version for version in list_versions(registry)}
    if version_id not in versions:
        raise UserError(f"{object_id} has no embedding; materialize its batch")
    with ChromaStore(settings.chroma_dir, version_id, versions[version_id].dimension) as store:
        _check_filled(settings, registry, store)
        return search_object(registry, store, object_id, **conditions)


def _like_picture(settings: Settings, registry: Registry, path: Path, conditions: dict[str, Any]) -> list[SearchHit]:
    """Embeds the picture the way a support picture is: the object fills it but for a small margin."""
    project = conditions.get("project")
    indexed = versions_in_use(registry, project)
    if not indexed:
        raise UserError("nothing is indexed yet; `al ingest` labels and indexes images")
    machine = environment(settings)
    if project is not None:
        own = project_models(get_project(registry, project), machine).embedder.version_id
        indexed.sort(key=lambda version: version != own)
    elif len(indexed) > 1:
        raise UserError("projects have vectors of several embedders, which cannot be compared: name one by --project")
    models = next((found for version in indexed if (found := build_embedding_models(version, machine))), None)
    if models is None:
        raise UserError(
            f"the objects have vectors of {' and '.join(indexed)}, which this machine cannot make of a picture: give "
            "an object id, or make the vectors anew with `al ingest --again -p PROJECT` and `al objects refresh`"
        )
    try:
        image = read_image(path, max_pixels=settings.max_image_pixels)
    except UnreadableFileError as error:
        raise UserError(f"{path} {error}; give an object id or a picture of one object") from None
    height, width = image.shape[:2]
    margin = PICTURE_MARGIN * min(height, width)
    box = np.array([[margin, margin, width - margin, height - margin]])
    with models:
        mask = models.segmenter.segment([image], [box])[0][0]
        vector = models.embedder.embed([crop_object(image, box[0], mask)])[0]
        with ChromaStore(settings.chroma_dir, models.embedder.version_id, models.embedder.dimension) as store:
            _check_filled(settings, registry, store)
            return search_vectors(registry, store, vector, **conditions)


def _check_filled(settings: Settings, registry: Registry, store: ChromaStore) -> None:
    if not store.count() and has_synced(registry, store.version_id):
        raise UserError(
            f"the vectors of {store.version_id} in {settings.chroma_dir} are gone; `al sync --reconcile` writes them "
            "anew from the registry"
        )
