"""Detection: the boxes, labels and confidence of the frames of a batch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
import supervision as sv

from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.geometry import MIN_SIDE, clip_xyxy, xyxy_to_xywh
from al_dagster.core.ids import object_id
from al_dagster.core.logging import UNITS
from al_dagster.core.project import PROPOSAL, DetectionConfig, ProjectConfig
from al_dagster.labelling.images import FrameImage, frame_images
from al_dagster.labelling.labels import detector_prompts
from al_dagster.labelling.masks import BOX_COLUMNS
from al_dagster.labelling.stage import Rows, StageResult, compute_new, with_failures
from al_dagster.media.loader import ImageLoader
from al_dagster.vision.parallel import stream_calls
from al_dagster.vision.protocols import P_BOX, P_LABEL, Detector, Prompt

CODE_VERSION = "1"

units_log = structlog.get_logger(UNITS)


def detect(
    frames: pa.Table, previous: pa.Table, *, detector: Detector, project: ProjectConfig, images: ImageLoader
) -> StageResult:
    """Find the objects of every frame that was not detected with the same model, prompts and thresholds before.

    Args:
        frames: rows of ``core.schemas.FRAMES``.
        previous: the last detections of this batch.
        detector: the model.
        project: classes and thresholds.
        images: reads the frames ahead.

    Raises:
        UserError: the detector does not know a class.
    """
    prompts = detector_prompts(project)
    model = f"{detector.model_id}@{detector.revision}"
    rules = project.detection
    if rules.confidence is None:
        rules = rules.model_copy(update={"confidence": detector.least_confidence})
    by_id = {row["frame_id"]: row for row in frames.to_pylist()}
    failures: dict[str, str] = {}
    units = [
        (
            frame["frame_id"],
            fingerprint(
                code=CODE_VERSION,
                project=project.name,
                image=frame["sha256"],
                frame_idx=frame["frame_idx"],
                model=model,
                prompts=[asdict(prompt) for prompt in prompts],
                parameters=rules.model_dump(),
            ),
        )
        for frame in by_id.values()
    ]

    def boxes_of(chunk: list[FrameImage]) -> list[sv.Detections]:
        return detector.detect([image for _, image in chunk], prompts)

    def compute(frame_ids: list[str]) -> Mapping[str, Rows]:
        found: dict[str, Rows] = {}
        todo = [by_id[frame_id] for frame_id in frame_ids]
        chunks = frame_images("detections", todo, images, detector.images_per_call, failures)
        for chunk, detections in stream_calls(boxes_of, chunks):
            for (frame, _), boxes in zip(chunk, detections, strict=True):
                kept = _rows(frame, boxes, prompts, model, project.name, rules)
                units_log.debug("detected", frame_id=frame["frame_id"], boxes=len(boxes), kept=len(kept), model=model)
                found[frame["frame_id"]] = kept
        return found

    table, computed, reused = compute_new(units, previous, unit_column="frame_id", compute=compute)
    if not reused:
        # Whatever is reused was asked of this very model with these very prompts.
        detector.check_prompts(prompts)
    confidence = table["confidence"].to_numpy()
    return StageResult(
        with_failures(table, failures),
        computed,
        reused,
        figures={
            "detections": table.num_rows,
            "frames": frames.num_rows,
            "failed": len(failures),
            "mean_confidence": round(float(confidence.mean()), 4) if confidence.size else 0.0,
            **{f"label: {label}": count for label, count in sorted(Counter(table["label"].to_pylist()).items())},
        },
    )


def _rows(
    frame: dict[str, Any],
    boxes: sv.Detections,
    prompts: tuple[Prompt, ...],
    model: str,
    project_id: str,
    rules: DetectionConfig,
) -> Rows:
    """The boxes worth keeping, best first: inside the image, sure enough, and no two of one label for one thing.

    Proposals may be readings of the same pixels: the few-shot classifier decides between them.
    """
    if len(boxes) == 0:
        return []
    xyxy = clip_xyxy(np.asarray(boxes.xyxy, dtype=float), frame["width"], frame["height"])
    confidence, class_id = np.asarray(boxes.confidence), np.asarray(boxes.class_id)
    sure = ((xyxy[:, 2:] - xyxy[:, :2]).min(axis=1) >= MIN_SIDE) & (confidence >= rules.confidence)
    candidates = np.column_stack([xyxy, confidence, class_id])
    single = sv.box_non_max_suppression(candidates, rules.nms_iou)
    single |= np.array([prompts[index].label == PROPOSAL for index in class_id])
    rows: dict[str, dict[str, Any]] = {}
    xywh = xyxy_to_xywh(xyxy).round(2)
    for index in np.argsort(-confidence, kind="stable"):
        if not (sure[index] and single[index]):
            continue
        box = [float(value) for value in xywh[index]]
        new_id = object_id(project_id, frame["source_id"], frame["frame_idx"], model, box)
        row = {
            "object_id": new_id,
            "frame_id": frame["frame_id"],
            "source_id": frame["source_id"],
            "label": prompts[int(class_id[index])].label,
            **dict(zip(BOX_COLUMNS, box, strict=True)),
            "confidence": round(float(confidence[index]), 6),
            **{part: _part(boxes, part, int(index)) for part in (P_LABEL, P_BOX)},
            "detection_model": model,
        }
        rows.setdefault(new_id, row)
    return list(rows.values())


def _part(boxes: sv.Detections, part: str, index: int) -> float | None:
    """A part of the confidence of a box, or None of a detector that does not give it."""
    value = float(boxes.data[part][index]) if part in boxes.data else float("nan")
    return None if np.isnan(value) else round(value, 6)
