"""Registration: the labelled objects of a batch, brought to the registry in one transaction."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from al_dagster.core.logging import UNITS
from al_dagster.core.project import UNKNOWN, ProjectConfig
from al_dagster.core.schemas import OBJECTS
from al_dagster.labelling.embed import know_version
from al_dagster.labelling.labels import classes_by_example, final_label
from al_dagster.labelling.stage import Rows, StageResult, by_frame, computed_units, failed_frames
from al_dagster.registry.batches import record_run
from al_dagster.registry.database import Registry
from al_dagster.registry.frame_labels import FrameOutcome, record_frames
from al_dagster.registry.labelling import LabelledObject, register_batch
from al_dagster.registry.objects import count_objects
from al_dagster.vision.profiles import Models

log = structlog.get_logger(__name__)
units_log = structlog.get_logger(UNITS)


def labelled_rows(
    detections: pa.Table, masks: pa.Table, classifications: pa.Table, project: ProjectConfig
) -> list[dict[str, Any]]:
    """The objects of a batch as they will stand in the registry: detection, mask and category joined.

    Returns:
        One row a detection that has a mask, with the keys of ``core.schemas.DETECTIONS``, ``mask_path``, ``polygon``,
        ``mask_rle``, ``area``, ``mask_score``, ``category`` (perhaps "Unknown") and the classifier's score and model,
        or None.
    """
    by_example = classes_by_example(project)
    mask_by_id = {row["object_id"]: row for row in masks.to_pylist()}
    class_by_id = {row["object_id"]: row for row in classifications.to_pylist()}
    rows = []
    for detection in detections.to_pylist():
        mask = mask_by_id.get(detection["object_id"])
        if mask is None:
            continue
        classified = class_by_id.get(detection["object_id"])
        rows.append(
            {
                **detection,
                "mask_path": mask["mask_path"],
                "polygon": mask["polygon"],
                "mask_rle": mask["rle"],
                "area": mask["area"],
                "mask_score": mask["score"],
                "category": final_label(detection["label"], classified and classified["label"], by_example),
                "classification_model": classified and classified["classification_model"],
                "classification_confidence": classified and classified["score"],
            }
        )
    return rows


def register(
    registry: Registry,
    *,
    batch_key: str,
    run_id: str,
    project: ProjectConfig,
    models: Models,
    frames: pa.Table,
    detections: pa.Table,
    masks: pa.Table,
    embeddings: pa.Table,
    classifications: pa.Table,
) -> StageResult:
    """Register the objects of a batch; objects that are "Unknown" stay in the lake only.

    A frame counts as labelled, so that objects it no longer shows are superseded, when every stage has done it. A frame
    that a stage could not do keeps its labels, and the batch stays unfinished, so that it is tried again.
    """
    know_version(registry, models.embedder)
    segmentation_model = f"{models.segmenter.model_id}@{models.segmenter.revision}"
    columns = embeddings.select(["object_id", "version_id"]).to_pydict()
    versions = dict(zip(columns["object_id"], columns["version_id"], strict=True))
    arrays = embeddings["embedding"].to_numpy(zero_copy_only=False)
    vectors = dict(zip(columns["object_id"], arrays, strict=True))
    rows = labelled_rows(detections, masks, classifications, project)
    outcomes = _frame_outcomes(frames, detections, masks, embeddings, rows, bool(classes_by_example(project)))
    labelled = sorted(frame for frame, outcome in outcomes.items() if outcome.error is None)
    ready = set(labelled)
    objects = [
        LabelledObject(
            object_id=row["object_id"],
            frame_id=row["frame_id"],
            source_id=row["source_id"],
            category=row["category"],
            bbox=(row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"]),
            confidence=row["confidence"],
            detection_model=row["detection_model"],
            p_label=row["p_label"],
            p_box=row["p_box"],
            classification_model=row["classification_model"],
            classification_confidence=row["classification_confidence"],
            segmentation_model=segmentation_model,
            mask_path=row["mask_path"],
            polygon=row["polygon"],
            mask_rle=row["mask_rle"],
            area=row["area"],
            mask_score=row["mask_score"],
            embedding=np.asarray(vectors[row["object_id"]], dtype=np.float32),
            embedding_version=versions[row["object_id"]],
        )
        for row in rows
        if row["frame_id"] in ready and row["category"] != UNKNOWN
    ]
    started = time.perf_counter()
    registration = register_batch(
        registry, project_id=project.name, batch_key=batch_key, run_id=run_id, frame_ids=labelled, objects=objects
    )
    registered = {detection_id for detection_id, _, _ in registration.outcomes}
    left_out = {item.frame_id for item in objects if item.object_id not in registered}
    outcomes |= dict.fromkeys(left_out, FrameOutcome(is_left_out=True))
    record_frames(registry, project.name, batch_key, outcomes, project.classes)
    record_run(
        registry,
        batch_key,
        run_id=run_id,
        parameters={
            "project": project.model_dump(mode="json"),
            "models": {
                "detector": f"{models.detector.model_id}@{models.detector.revision}",
                "segmenter": segmentation_model,
                "embedder": f"{models.embedder.model_id}@{models.embedder.revision}",
            },
        },
    )
    by_detection = {item.object_id: item for item in objects}
    elapsed_ms = round(1000 * (time.perf_counter() - started))
    for detection_id, object_id, outcome in registration.outcomes:
        item = by_detection[detection_id]
        units_log.info(
            "object_registered",
            object_id=object_id,
            category=item.category,
            confidence=item.confidence,
            outcome=outcome,
            elapsed_ms=elapsed_ms,
        )
    log.info("objects registered", batch=batch_key, objects=len(objects), frames=len(labelled), elapsed_ms=elapsed_ms)
    table = pa.Table.from_pylist(
        [
            {
                "object_id": object_id,
                "detection_id": detection_id,
                "outcome": outcome,
                "category": by_detection[detection_id].category,
            }
            for detection_id, object_id, outcome in registration.outcomes
        ],
        schema=OBJECTS,
    )
    unknown = sum(row["category"] == UNKNOWN for row in rows if row["frame_id"] in ready)
    named = {item.frame_id for item in objects}
    by_category = Counter(item.category for item in by_detection.values())
    return StageResult(
        table,
        computed=registration.counts.get("inserted", 0),
        reused=registration.counts.get("matched", 0) + registration.counts.get("kept", 0),
        figures={
            "objects": count_objects(registry, project=project.name, batch_key=batch_key),
            "unknown": unknown,
            "frames_unsure": sum(outcomes[frame].is_unsure for frame in labelled if frame not in named),
            "frames_failed": len(outcomes) - len(labelled),
            "failures": _told(outcomes) or "none",
            **dict(registration.counts),
            **{f"category: {name}": count for name, count in sorted(by_category.items())},
        },
        of_the_run=("outcome",),
    )


def _frame_outcomes(
    frames: pa.Table,
    detections: pa.Table,
    masks: pa.Table,
    embeddings: pa.Table,
    rows: Rows,
    by_example: bool,
) -> dict[str, FrameOutcome]:
    """What the stages came to for each frame, by its id."""
    failures = {**failed_frames(embeddings), **failed_frames(masks), **failed_frames(detections)}
    detected = computed_units(detections, "frame_id")
    boxes = Counter(detections["frame_id"].to_pylist())
    embedded = set(embeddings["object_id"].to_pylist())
    in_frame = by_frame(row for row in rows if row["object_id"] in embedded)

    def outcome(frame_id: str) -> FrameOutcome:
        mine = in_frame.get(frame_id, [])
        if frame_id in failures:
            return FrameOutcome(error=failures[frame_id])
        if frame_id not in detected:
            return FrameOutcome(error="is not detected yet: materialize detections")
        if len(mine) < boxes[frame_id]:
            return FrameOutcome(error="lacks masks or vectors: materialize masks and embeddings")
        if by_example and any(row["classification_model"] is None for row in mine):
            return FrameOutcome(error="is not classified yet: materialize classifications")
        return FrameOutcome(is_unsure=any(row["category"] == UNKNOWN for row in mine))

    return {frame_id: outcome(frame_id) for frame_id in frames["frame_id"].to_pylist()}


def _told(outcomes: Mapping[str, FrameOutcome]) -> str:
    """The reasons why frames could not be labelled, and how many each kept from it."""
    reasons = Counter(outcome.error for outcome in outcomes.values() if outcome.error is not None)
    return "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
