"""Refreshing: mask and vector of the objects whose box a person moved are made anew, of what the box shows now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import structlog

from al_dagster.core.errors import UnreadableFileError, UserError
from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.progress import report
from al_dagster.core.project import ProjectConfig
from al_dagster.core.rle import encode
from al_dagster.core.settings import Settings
from al_dagster.labelling import segment
from al_dagster.labelling.embed import know_version
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks, corners
from al_dagster.labelling.models import environment, object_models
from al_dagster.media.reading import ImageFile, read_file
from al_dagster.registry.database import Registry
from al_dagster.registry.masks import MaskStore
from al_dagster.registry.paths import SeenFile, seen_files
from al_dagster.registry.projects import get_project
from al_dagster.registry.stale import Renewal, StaleObject, renew_objects, stale_objects
from al_dagster.vision.crops import crop_object
from al_dagster.vision.polygons import mask_polygons
from al_dagster.vision.profiles import Models
from al_dagster.vision.protocols import Image, Mask

logger = structlog.get_logger(__name__)


@dataclass
class RefreshReport:
    """What came of a refresh.

    Attributes:
        refreshed: objects whose vector, and mask if it was gone, were made anew.
        changed: objects that a person changed meanwhile; those that are stale still wait.
        unreadable: why the others still wait, by object id.
    """

    refreshed: int = 0
    changed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def refresh_objects(
    registry: Registry,
    project: ProjectConfig,
    models: Models,
    masks: RunMasks,
    *,
    max_pixels: int,
    object_ids: Sequence[str] | None = None,
) -> RefreshReport:
    """Make anew the masks and vectors that objects of a project wait for, a frame at a time.

    A frame is written when it is done, and only to objects that still stand as they did when it was begun: whoever is
    killed or overtaken by a person leaves the others to the next call, and calling again with nothing waiting does
    nothing. An object whose image cannot be read, or has other content than it was labelled with, goes on waiting.

    Args:
        registry: knows the objects.
        project: whose objects.
        models: the segmenter and the embedder.
        masks: where masks are kept.
        max_pixels: images of more pixels are not read.
        object_ids: only of these objects; None for all that wait.
    """
    done = RefreshReport()
    waiting = stale_objects(registry, project.name, models.embedder.version_id, object_ids)
    if not waiting:
        return done
    know_version(registry, models.embedder)
    files = seen_files(registry, [one.source_id for one in waiting], project.name)
    finished = 0
    for _, group in groupby(waiting, key=lambda one: one.frame_id):
        in_frame = list(group)
        try:
            image = _read(files.get(in_frame[0].source_id, []), in_frame[0], max_pixels)
            renewals = _renewals(in_frame, image, models, masks)
        except UserError as error:
            done.unreadable |= {one.object_id: str(error) for one in in_frame}
            logger.warning("objects wait for their vectors", frame_id=in_frame[0].frame_id, reason=str(error))
        else:
            masks.settle()
            renewed = renew_objects(registry, renewals)
            done.refreshed += len(renewed)
            done.changed += len(in_frame) - len(renewed)
        finished += len(in_frame)
        report("refresh", finished, len(waiting))
    return done


def refresh_project(
    settings: Settings, registry: Registry, project_id: str, object_ids: Sequence[str] | None = None
) -> RefreshReport:
    """`refresh_objects` with the models of the project on this machine, which are freed at the end.

    Raises:
        UserError: the segmenter or the embedder cannot be had; says what to do.
    """
    project = get_project(registry, project_id)
    masks = RunMasks(MaskStore(settings.masks_dir))
    with object_models(project, environment(settings)) as models:
        return refresh_objects(
            registry, project, models, masks, max_pixels=settings.max_image_pixels, object_ids=object_ids
        )


def _read(files: Iterable[SeenFile], of: StaleObject, max_pixels: int) -> Image:
    """The image of an object's frame, from the first of the files that still holds the content.

    Raises:
        UnreadableFileError: none does; names them all with their reasons.
    """
    reasons = []
    for seen in files:
        file = ImageFile(seen.file_path, of.sha256, seen.size_bytes, seen.mtime_ns, of.frame_idx)
        try:
            return read_file(file, max_pixels=max_pixels)
        except UnreadableFileError as error:
            reasons.append(f"{seen.file_path} {error}")
    raise UnreadableFileError("; ".join(reasons) or "its file is not known any more")


def _renewals(in_frame: list[StaleObject], image: Image, models: Models, masks: RunMasks) -> list[Renewal]:
    boxes = {one.object_id: dict(zip(BOX_COLUMNS, one.box, strict=True)) for one in in_frame}
    stale = [one for one in in_frame if one.is_stale]
    made: dict[str, Mask] = {}
    if stale:
        found = models.segmenter.segment([image], [corners(boxes[one.object_id] for one in stale)])[0]
        made = {one.object_id: mask for one, mask in zip(stale, found, strict=True)}
    crops = []
    for one in in_frame:
        mask = made.get(one.object_id)
        if mask is None and one.mask_path is not None:
            masks.restore((image.shape[1], image.shape[0]), one.mask_path, one.mask_rle)
            mask = masks.read(boxes[one.object_id], one.mask_path)
        crops.append(crop_object(image, corners([boxes[one.object_id]])[0], mask))
    return [
        Renewal(
            of=one,
            mask=_mask_columns(one, image, made[one.object_id], models, masks) if one.is_stale else {},
            embedding_version=models.embedder.version_id,
            embedding=vector,
        )
        for one, vector in zip(in_frame, models.embedder.embed(crops), strict=True)
    ]


def _mask_columns(one: StaleObject, image: Image, mask: Mask, models: Models, masks: RunMasks) -> Mapping[str, Any]:
    height, width = image.shape[:2]
    model = f"{models.segmenter.model_id}@{models.segmenter.revision}"
    made_from = fingerprint(
        code=segment.CODE_VERSION, image=one.sha256, frame_idx=one.frame_idx, box=list(one.box), model=model
    )
    frame = {"frame_id": one.frame_id, "width": width, "height": height}
    return {
        "mask_path": masks.write(frame, one.object_id, made_from, mask),
        "polygon": mask_polygons(mask),
        "mask_rle": encode(mask.pixels, mask.x, mask.y, width, height),
        "area": float(mask.area),
        "mask_score": round(float(mask.score), 6),
        "segmentation_model": model,
    }
