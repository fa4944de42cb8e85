"""Few-shot classification: the objects of a batch, named by the examples of the project."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.geometry import iou_matrix
from al_dagster.core.project import UNKNOWN, ClassificationConfig, ProjectConfig
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks, corners
from al_dagster.labelling.stage import Rows, StageResult, by_frame, compute_new
from al_dagster.labelling.support import find_examples, load_examples
from al_dagster.registry.database import Registry
from al_dagster.vision.fewshot import REVISION, SupportSet, classify
from al_dagster.vision.overlaps import resolve_overlaps
from al_dagster.vision.profiles import Models

CODE_VERSION = "1"


def classify_objects(
    detections: pa.Table,
    mask_table: pa.Table,
    embeddings: pa.Table,
    previous: pa.Table,
    *,
    registry: Registry,
    project: ProjectConfig,
    models: Models,
    masks: RunMasks,
    max_pixels: int,
) -> StageResult:
    """Name every embedded object by the examples of the project; without any there is nothing to say.

    A frame is classified as a whole: of proposals that claim the same pixels one is named, the others are "Unknown".

    Args:
        detections: rows of ``core.schemas.DETECTIONS``.
        mask_table: rows of ``core.schemas.MASKS``.
        embeddings: rows of ``core.schemas.EMBEDDINGS``.
        previous: the last classifications of this batch.
        registry: has the validated objects that are examples.
        project: classes, examples and thresholds.
        models: the embedder and segmenter that the examples go through like any object.
        masks: where masks are kept.
        max_pixels: example pictures of more pixels are not read.

    Raises:
        UserError: a class has no example that can be used; see `labelling.support`.
    """
    examples = find_examples(project, registry)
    if examples is None:
        return StageResult(previous.slice(0, 0).replace_schema_metadata(None), computed=0, reused=0)
    in_frame = by_frame(_joined(detections, mask_table, embeddings))
    units = [
        (
            frame_id,
            fingerprint(
                code=CODE_VERSION,
                rules=REVISION,
                embeddings=[[row["object_id"], row["fingerprint"]] for row in rows],
                support=examples.content_hash,
                parameters=project.classification.model_dump(),
            ),
        )
        for frame_id, rows in in_frame.items()
    ]
    model = f"fewshot-{models.embedder.version_id}@{examples.content_hash[:12]}"

    def compute(frame_ids: list[str]) -> Mapping[str, Rows]:
        support = load_examples(examples, project, models, masks, max_pixels)
        return {
            frame_id: _classified(in_frame[frame_id], support, project.classification, masks, model)
            for frame_id in frame_ids
        }

    table, computed, reused = compute_new(units, previous, unit_column="frame_id", compute=compute)
    labels = Counter(table["label"].to_pylist())
    return StageResult(
        table,
        computed,
        reused,
        figures={
            "classifications": table.num_rows,
            "unknown": labels.pop(UNKNOWN, 0),
            **{f"label: {label}": count for label, count in sorted(labels.items())},
        },
    )


def _joined(detections: pa.Table, mask_table: pa.Table, embeddings: pa.Table) -> Iterator[dict[str, Any]]:
    """The embedded objects with box, mask path and vector, in the order of the embeddings."""
    boxes = {row["object_id"]: row for row in detections.select(["object_id", *BOX_COLUMNS]).to_pylist()}
    paths = dict(zip(mask_table["object_id"].to_pylist(), mask_table["mask_path"].to_pylist(), strict=True))
    vectors = embeddings["embedding"].to_numpy(zero_copy_only=False)
    rows = embeddings.select(["object_id", "frame_id", "fingerprint"]).to_pylist()
    for row, vector in zip(rows, vectors, strict=True):
        if row["object_id"] in boxes and row["object_id"] in paths:
            yield {**boxes[row["object_id"]], **row, "mask_path": paths[row["object_id"]], "embedding": vector}


def _classified(rows: Rows, support: SupportSet, rules: ClassificationConfig, masks: RunMasks, model: str) -> Rows:
    """The classifications of the objects of one frame."""
    vectors = np.stack([row["embedding"] for row in rows])
    found = classify(vectors, support, rules.threshold, rules.top_k, rules.min_margin)
    boxes = corners(rows)
    if np.triu(iou_matrix(boxes, boxes), k=1).any():
        cut = [masks.read(row, row["mask_path"]) for row in rows]
        found = resolve_overlaps(boxes, cut, found)
    return [
        {
            "object_id": row["object_id"],
            "frame_id": row["frame_id"],
            "label": result.label,
            "score": round(result.score, 6),
            "margin": round(result.margin, 6),
            "classification_model": model,
        }
        for row, result in zip(rows, found, strict=True)
    ]
