"""Embedding: a vector for every object, of its crop with the background masked out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from al_dagster.core.fingerprints import fingerprint
from al_dagster.labelling.images import FrameImage, frame_images
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks, corners
from al_dagster.labelling.stage import Rows, StageResult, by_frame, compute_new, of_frames, with_failures
from al_dagster.media.loader import ImageLoader
from al_dagster.registry.database import Registry
from al_dagster.registry.embedding_versions import ensure_version
from al_dagster.vision.crops import crop_object
from al_dagster.vision.parallel import stream_calls
from al_dagster.vision.protocols import Embedder, Image

CODE_VERSION = "1"


def embed(
    frames: pa.Table,
    detections: pa.Table,
    mask_table: pa.Table,
    previous: pa.Table,
    *,
    embedder: Embedder,
    masks: RunMasks,
    images: ImageLoader,
) -> StageResult:
    """Embed every masked object that was not embedded with the same mask and model before.

    Args:
        frames: rows of ``core.schemas.FRAMES``.
        detections: rows of ``core.schemas.DETECTIONS``.
        mask_table: rows of ``core.schemas.MASKS``.
        previous: the last embeddings of this batch.
        embedder: the model.
        masks: where masks are kept.
        images: reads the frames ahead.
    """
    model = f"{embedder.model_id}@{embedder.revision}"
    frame_by_id = {row["frame_id"]: row for row in frames.to_pylist()}
    boxes = {row["object_id"]: row for row in detections.select(["object_id", *BOX_COLUMNS]).to_pylist()}
    columns = of_frames(mask_table, frames).select(["object_id", "frame_id", "mask_path", "fingerprint"])
    masked = [row for row in columns.to_pylist() if row["object_id"] in boxes]
    failures: dict[str, str] = {}
    by_id = {row["object_id"]: row for row in masked}
    units = [
        (
            row["object_id"],
            fingerprint(code=CODE_VERSION, mask=row["fingerprint"], model=model, version=embedder.version_id),
        )
        for row in masked
    ]

    def compute(object_ids: list[str]) -> Mapping[str, Rows]:
        in_frame = by_frame(by_id[object_id] for object_id in object_ids)

        def cropped(chunk: list[FrameImage]) -> tuple[Rows, list[Image]]:
            rows = [(row, image) for frame, image in chunk for row in in_frame[frame["frame_id"]]]
            return [row for row, _ in rows], [_crop(image, boxes[row["object_id"]], row, masks) for row, image in rows]

        todo = [frame_by_id[frame_id] for frame_id in in_frame]
        # The crops of a chunk are made while those of the one before are embedded.
        chunks = map(cropped, frame_images("embeddings", todo, images, embedder.images_per_call, failures))
        return {
            row["object_id"]: [_row(row["object_id"], row["frame_id"], vector, embedder)]
            for (rows, _), vectors in stream_calls(lambda chunk: embedder.embed(chunk[1]), chunks)
            for row, vector in zip(rows, vectors, strict=True)
        }

    table, computed, reused = compute_new(units, previous, unit_column="object_id", compute=compute)
    return StageResult(
        with_failures(table, failures),
        computed,
        reused,
        figures={
            "embeddings": table.num_rows,
            "failed": len(failures),
            "version_id": embedder.version_id,
            "dimension": embedder.dimension,
        },
    )


def know_version(registry: Registry, embedder: Embedder) -> None:
    """Make the embedding version of a model known to the registry, before its vectors are kept."""
    ensure_version(
        registry,
        embedder.version_id,
        model_name=embedder.model_id,
        model_type=embedder.model_id.partition("-")[0],
        dimension=embedder.dimension,
    )


def _crop(image: Image, box: dict[str, Any], mask_row: dict[str, Any], masks: RunMasks) -> Image:
    return crop_object(image, corners([box])[0], masks.read(box, mask_row["mask_path"]))


def _row(object_id: str, frame_id: str, vector: NDArray[np.float32], embedder: Embedder) -> dict[str, Any]:
    return {
        "object_id": object_id,
        "frame_id": frame_id,
        "version_id": embedder.version_id,
        "embedding": vector,
    }
