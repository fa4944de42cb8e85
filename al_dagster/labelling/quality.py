"""What must hold of the tables of a batch; each rule looks at the stored rows alone, not at how they were made."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.core.verdict import Verdict
from al_dagster.labelling.masks import RunMasks

DUPLICATE_IOU = 0.95
NORM_TOLERANCE = 1e-3
PIXEL_TOLERANCE = 1.0
MOST_QUARANTINED = 0.1


def quarantined_share(sources: pa.Table) -> Verdict:
    """At most a tenth of the files of a batch are quarantined."""
    status = sources["status"].to_pylist()
    share = status.count("quarantined") / len(status) if status else 0.0
    return Verdict(share <= MOST_QUARANTINED, {"files": len(status), "quarantined_share": round(share, 4)})


def boxes_inside_image(detections: pa.Table, frames: pa.Table) -> Verdict:
    """Every box has an area and lies inside its image."""
    size = {row["frame_id"]: (row["width"], row["height"]) for row in frames.to_pylist()}
    limits = np.array([size[frame] for frame in detections["frame_id"].to_pylist()], dtype=float).reshape(-1, 2)
    corners = xywh_to_xyxy(_boxes(detections))
    rules = [corners[:, :2] >= 0, corners[:, 2:] <= limits + 0.01, corners[:, 2:] > corners[:, :2]]
    return _verdict(detections, np.asarray(np.concatenate(rules, axis=1).all(axis=1)))


def no_duplicate_boxes(detections: pa.Table) -> Verdict:
    """No two boxes of one label in one frame cover nearly the same pixels."""
    corners = xywh_to_xyxy(_boxes(detections))
    groups: dict[tuple[str, str], list[int]] = {}
    keys = zip(detections["frame_id"].to_pylist(), detections["label"].to_pylist(), strict=True)
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    single = np.ones(detections.num_rows, dtype=bool)
    for members in groups.values():
        overlaps = np.triu(iou_matrix(corners[members], corners[members]), k=1)
        single[np.array(members)[(overlaps >= DUPLICATE_IOU).any(axis=0)]] = False
    return _verdict(detections, single)


def masks_inside_boxes(masks: pa.Table, detections: pa.Table, store: RunMasks) -> Verdict:
    """Every mask has pixels, lies inside its box to the pixel, and its file is there."""
    boxes = dict(zip(detections["object_id"].to_pylist(), xywh_to_xyxy(_boxes(detections)), strict=True))
    good = []
    for row in masks.to_pylist():
        x1, y1, x2, y2 = boxes[row["object_id"]]
        points = np.array([value for ring in row["polygon"] for value in ring]).reshape(-1, 2)
        low = np.array([x1, y1]) - PIXEL_TOLERANCE
        high = np.array([x2, y2]) + PIXEL_TOLERANCE
        inside = bool(((points >= low) & (points <= high)).all()) and len(points) > 0
        good.append(inside and row["area"] > 0 and (store.root / row["mask_path"]).exists())
    return _verdict(masks, np.array(good, dtype=bool))


def embeddings_well_formed(embeddings: pa.Table, dimension: int) -> Verdict:
    """Every vector has the embedder's dimension and L2 norm 1."""
    good = [
        len(vector) == dimension and abs(float(np.linalg.norm(vector)) - 1) <= NORM_TOLERANCE
        for vector in embeddings["embedding"].to_numpy(zero_copy_only=False)
    ]
    return _verdict(embeddings, np.array(good, dtype=bool))


def _boxes(table: pa.Table) -> NDArray[np.float64]:
    columns = [table[name].to_numpy() for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h")]
    return np.stack(columns, axis=1).reshape(-1, 4)


def _verdict(table: pa.Table, good: NDArray[np.bool_]) -> Verdict:
    wrong = np.flatnonzero(~good)
    figures: dict[str, Any] = {"rows": table.num_rows, "wrong": len(wrong)}
    if len(wrong):
        figures["first_wrong"] = table["object_id"][int(wrong[0])].as_py()
    return Verdict(not len(wrong), figures)
