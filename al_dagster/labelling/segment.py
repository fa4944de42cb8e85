"""Segmentation: a mask for every box, kept as a PNG in the mask store and as polygons in the lake."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.geometry import xywh_to_xyxy
from al_dagster.labelling.images import frame_images
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks
from al_dagster.labelling.stage import Rows, StageResult, compute_new
from al_dagster.media.loader import ImageLoader
from al_dagster.vision.polygons import mask_polygons
from al_dagster.vision.protocols import Mask, Segmenter

CODE_VERSION = "1"
IMAGES_PER_CALL = 8


def segment(
    frames: pa.Table,
    detections: pa.Table,
    previous: pa.Table,
    *,
    segmenter: Segmenter,
    masks: RunMasks,
    images: ImageLoader,
) -> StageResult:
    """Cut out every detected object that was not cut out of the same image by the same model before.

    Args:
        frames: rows of ``core.schemas.FRAMES``.
        detections: rows of ``core.schemas.DETECTIONS``.
        previous: the last masks of this batch.
        segmenter: the model.
        masks: where masks are kept.
        images: reads the frames ahead.
    """
    model = f"{segmenter.model_id}@{segmenter.revision}"
    frame_by_id = {row["frame_id"]: row for row in frames.to_pylist()}
    boxes = detections.select(["object_id", "frame_id", *BOX_COLUMNS]).to_pylist()
    by_id = {row["object_id"]: row for row in boxes}
    prints = {
        row["object_id"]: fingerprint(
            code=CODE_VERSION,
            image=frame_by_id[row["frame_id"]]["sha256"],
            frame_idx=frame_by_id[row["frame_id"]]["frame_idx"],
            box=[row[column] for column in BOX_COLUMNS],
            model=model,
        )
        for row in boxes
    }

    def compute(object_ids: list[str]) -> Mapping[str, Rows]:
        by_frame: dict[str, Rows] = {}
        for object_id in object_ids:
            by_frame.setdefault(by_id[object_id]["frame_id"], []).append(by_id[object_id])
        todo = [frame_by_id[frame_id] for frame_id in by_frame]
        found: dict[str, Rows] = {}

        def keep(frames_of_chunk: Rows, masks_of_chunk: list[list[Mask]]) -> None:
            for frame, frame_masks in zip(frames_of_chunk, masks_of_chunk, strict=True):
                for row, mask in zip(by_frame[frame["frame_id"]], frame_masks, strict=True):
                    found[row["object_id"]] = [_row(row, frame, mask, prints[row["object_id"]], masks)]

        # The masks of a chunk are written while the next one is cut out.
        with ThreadPoolExecutor(1, thread_name_prefix="masks") as writer:
            kept: Future[None] | None = None
            for chunk in frame_images("masks", todo, images, IMAGES_PER_CALL):
                corners = [
                    xywh_to_xyxy(np.array([[row[c] for c in BOX_COLUMNS] for row in by_frame[frame["frame_id"]]]))
                    for frame, _ in chunk
                ]
                segmented = segmenter.segment([image for _, image in chunk], corners)
                if kept is not None:
                    kept.result()
                kept = writer.submit(keep, [frame for frame, _ in chunk], segmented)
            if kept is not None:
                kept.result()
        return found

    table, computed, reused = compute_new(
        list(prints.items()),
        previous,
        unit_column="object_id",
        compute=compute,
        reusable=lambda stored: [(masks.root / path).exists() for path in stored["mask_path"].to_pylist()],
    )
    area, score = table["area"].to_numpy(), table["score"].to_numpy()
    return StageResult(
        table,
        computed,
        reused,
        figures={
            "masks": table.num_rows,
            "mean_area_px": round(float(area.mean()), 1) if area.size else 0.0,
            "mean_score": round(float(score.mean()), 4) if score.size else 0.0,
        },
    )


def _row(box: dict[str, Any], frame: dict[str, Any], mask: Mask, print_: str, masks: RunMasks) -> dict[str, Any]:
    return {
        "object_id": box["object_id"],
        "frame_id": box["frame_id"],
        "mask_path": masks.write(box["object_id"], print_, mask, (frame["width"], frame["height"])),
        "polygon": mask_polygons(mask),
        "area": float(mask.area),
        "score": round(float(mask.score), 6),
    }
