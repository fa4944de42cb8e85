"""Few-shot classification: the objects of a batch, named by the examples of the project's support set."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.core.project import ClassificationConfig, ProjectConfig
from al_dagster.labelling.masks import BOX_COLUMNS, RunMasks
from al_dagster.labelling.stage import Rows, StageResult, by_frame, compute_new
from al_dagster.media.reading import read_image
from al_dagster.vision.fewshot import BACKGROUND, REVISION, SupportSet, classify, load_support, support_classes
from al_dagster.vision.overlaps import resolve_overlaps
from al_dagster.vision.profiles import Models
from al_dagster.vision.protocols import UNKNOWN

CODE_VERSION = "1"


def classify_objects(
    detections: pa.Table,
    mask_table: pa.Table,
    embeddings: pa.Table,
    previous: pa.Table,
    *,
    project: ProjectConfig,
    models: Models,
    masks: RunMasks,
    max_pixels: int,
) -> StageResult:
    """Name every embedded object by the support set; without one there is nothing to say.

    A frame is classified as a whole: of proposals that claim the same pixels one is named, the others are "Unknown".

    Args:
        detections: rows of ``core.schemas.DETECTIONS``.
        mask_table: rows of ``core.schemas.MASKS``.
        embeddings: rows of ``core.schemas.EMBEDDINGS``.
        previous: the last classifications of this batch.
        project: classes, support folder and thresholds.
        models: the embedder and segmenter that the examples go through like any object.
        masks: where masks are kept.
        max_pixels: example pictures of more pixels are not read.

    Raises:
        UserError: the support folder is missing, or has a folder that is no class or holds no readable picture.
    """
    if project.support is None:
        return StageResult(previous.slice(0, 0).replace_schema_metadata(None), computed=0, reused=0)
    in_frame = by_frame(_joined(detections, mask_table, embeddings))
    support_hash = _content_hash(project.support, project.classes)
    units = [
        (
            frame_id,
            fingerprint(
                code=CODE_VERSION,
                rules=REVISION,
                embeddings=[[row["object_id"], row["fingerprint"]] for row in rows],
                support=support_hash,
                parameters=project.classification.model_dump(),
            ),
        )
        for frame_id, rows in in_frame.items()
    ]
    model = f"fewshot-{models.embedder.version_id}@{support_hash[:12]}"

    def compute(frame_ids: list[str]) -> Mapping[str, Rows]:
        support = _load_support(project, models, max_pixels)
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
        yield {**boxes[row["object_id"]], **row, "mask_path": paths[row["object_id"]], "embedding": vector}


def _classified(rows: Rows, support: SupportSet, rules: ClassificationConfig, masks: RunMasks, model: str) -> Rows:
    """The classifications of the objects of one frame."""
    vectors = np.stack([row["embedding"] for row in rows])
    found = classify(vectors, support, rules.threshold, rules.top_k, rules.min_margin)
    boxes = xywh_to_xyxy(np.array([[row[column] for column in BOX_COLUMNS] for row in rows]))
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


def _load_support(project: ProjectConfig, models: Models, max_pixels: int) -> SupportSet:
    assert project.support is not None
    return load_support(
        project.support,
        project.classes,
        models.embedder,
        partial(read_image, max_pixels=max_pixels),
        segmenter=models.segmenter,
    )


def _content_hash(folder: Path, classes: tuple[str, ...]) -> str:
    """Hash of the example pictures and of the classes they stand for, made without calling a model."""
    digest = hashlib.sha256()
    for name in (*support_classes(folder, classes), BACKGROUND):
        for path in sorted((folder / name).glob("[!.]*")):
            digest.update(f"{name}\x1f{path.name}\x1f{hashlib.sha256(path.read_bytes()).hexdigest()}\x1e".encode())
    return digest.hexdigest()[:32]
