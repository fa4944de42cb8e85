"""Contact sheets: what a stage made of a few frames of the batch, as one small picture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.fingerprints import fingerprint, table_hash
from al_dagster.core.project import UNKNOWN, ProjectConfig
from al_dagster.labelling.images import image_file
from al_dagster.labelling.masks import RunMasks, corners
from al_dagster.labelling.register import labelled_rows
from al_dagster.labelling.stage import Rows, Sheet, StageResult, by_frame
from al_dagster.media.contact_sheet import SheetItem, contact_sheet
from al_dagster.media.loader import ImageLoader

CODE_VERSION = "1"
FRAMES_ON_SHEET = 12


def detection_sheet(result: StageResult, frames: pa.Table, images: ImageLoader) -> StageResult:
    """The result with a picture of its boxes and labels."""
    rows = result.table.to_pylist()
    return _with_sheet(result, frames, rows, images, None, [frames, result.table])


def label_sheet(
    result: StageResult,
    frames: pa.Table,
    detections: pa.Table,
    masks: pa.Table,
    project: ProjectConfig,
    store: RunMasks,
    images: ImageLoader,
) -> StageResult:
    """The result with a picture of the masks and of the labels that the objects will have in the registry."""
    rows = labelled_rows(detections, masks, result.table, project)
    named = [{**row, "label": row["category"]} for row in rows if row["category"] != UNKNOWN]
    return _with_sheet(result, frames, named, images, store, [frames, detections, masks, result.table])


def _with_sheet(
    result: StageResult,
    frames: pa.Table,
    objects: Rows,
    images: ImageLoader,
    store: RunMasks | None,
    made_from: Sequence[pa.Table],
) -> StageResult:
    def draw() -> bytes | None:
        in_frame = by_frame(objects)
        items = []
        for frame in _chosen(frames.to_pylist(), in_frame):
            try:
                image = images.load(image_file(frame))
            except UnreadableFileError:
                continue
            rows = in_frame.get(frame["frame_id"], [])
            items.append(
                SheetItem(
                    image,
                    boxes=corners(rows),
                    labels=[row["label"] for row in rows],
                    masks=[store.read(row, row["mask_path"]) for row in rows] if store else None,
                )
            )
        return contact_sheet(items) if items else None

    labels = sorted((row["object_id"], row["label"]) for row in objects)
    content = [table_hash(table) for table in made_from]
    return replace(result, contact_sheet=Sheet(fingerprint(code=CODE_VERSION, content=content, labels=labels), draw))


def _chosen(frames: Sequence[dict[str, Any]], in_frame: dict[str, Rows]) -> list[dict[str, Any]]:
    """Frames from the whole batch, evenly spaced; those with objects before those without."""
    found = [frame for frame in frames if frame["frame_id"] in in_frame]
    pool = found if len(found) >= FRAMES_ON_SHEET else [*found, *(f for f in frames if f["frame_id"] not in in_frame)]
    spaced = np.linspace(0, len(pool) - 1, min(FRAMES_ON_SHEET, len(pool))).round().astype(int)
    return [pool[index] for index in spaced]
