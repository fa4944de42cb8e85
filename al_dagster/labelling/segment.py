"""Segmentation: a mask for every box, kept as a PNG in the mask store, as run lengths and polygons in the lake."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.rle import encode
from al_dagster.labelling.images import FrameImage, frame_images
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks, corners
from al_dagster.labelling.stage import Rows, StageResult, by_frame, compute_new, of_frames, with_failures
from al_dagster.media.loader import ImageLoader
from al_dagster.vision.parallel import map_images, stream_calls
from al_dagster.vision.polygons import mask_polygons
from al_dagster.vision.protocols import Mask, Segmenter

CODE_VERSION = "2"


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
    failures: dict[str, str] = {}
    boxes = of_frames(detections, frames).select(["object_id", "frame_id", *BOX_COLUMNS]).to_pylist()
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
        in_frame = by_frame(by_id[object_id] for object_id in object_ids)

        def masks_of(chunk: list[FrameImage]) -> list[list[Mask]]:
            boxes = [corners(in_frame[frame["frame_id"]]) for frame, _ in chunk]
            return segmenter.segment([image for _, image in chunk], boxes)

        todo = [frame_by_id[frame_id] for frame_id in in_frame]
        chunks = frame_images("masks", todo, images, segmenter.images_per_call, failures)

        def stored(found: tuple[dict[str, Any], dict[str, Any], Mask]) -> tuple[str, Rows]:
            box, frame, mask = found
            return box["object_id"], [_row(box, frame, mask, prints[box["object_id"]], masks)]

        rows: dict[str, Rows] = {}
        for chunk, found in stream_calls(masks_of, chunks):
            cut_out = [
                (box, frame, mask)
                for (frame, _), frame_masks in zip(chunk, found, strict=True)
                for box, mask in zip(in_frame[frame["frame_id"]], frame_masks, strict=True)
            ]
            rows.update(map_images(stored, cut_out))
        return rows

    table, computed, reused = compute_new(
        list(prints.items()),
        previous,
        unit_column="object_id",
        compute=compute,
        reusable=lambda stored: [
            frame is not None and masks.is_intact(frame, path)
            for frame, path in zip(
                map(frame_by_id.get, stored["frame_id"].to_pylist()), stored["mask_path"].to_pylist(), strict=True
            )
        ],
    )
    masks.settle()
    area, score = table["area"].to_numpy(), table["score"].to_numpy()
    return StageResult(
        with_failures(table, failures),
        computed,
        reused,
        figures={
            "masks": table.num_rows,
            "failed": len(failures),
            "mean_area_px": round(float(area.mean()), 1) if area.size else 0.0,
            "mean_score": round(float(score.mean()), 4) if score.size else 0.0,
        },
    )


def _row(box: dict[str, Any], frame: dict[str, Any], mask: Mask, print_: str, masks: RunMasks) -> dict[str, Any]:
    return {
        "object_id": box["object_id"],
        "frame_id": box["frame_id"],
        "mask_path": masks.write(frame, box["object_id"], print_, mask),
        "polygon": mask_polygons(mask),
        "rle": encode(mask.pixels, mask.x, mask.y, frame["width"], frame["height"]),
        "area": float(mask.area),
        "score": round(float(mask.score), 6),
    }
