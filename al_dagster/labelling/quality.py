"""What must hold of the tables of a batch; each rule looks at the stored rows alone, not at how they were made."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.core.verdict import Verdict
from al_dagster.labelling.masks import RunMasks
from al_dagster.registry.database import Registry
from al_dagster.registry.frame_labels import unlabelled_frames

DUPLICATE_IOU = 0.95
NORM_TOLERANCE = 1e-3
MOST_QUARANTINED = 0.1


def quarantined_share(sources: pa.Table) -> Verdict:
    """At most a tenth of the files of a batch are quarantined."""
    status = sources["status"].to_pylist()
    share = status.count("quarantined") / len(status) if status else 0.0
    return Verdict(share <= MOST_QUARANTINED, {"files": len(status), "quarantined_share": round(share, 4)})


def frames_labelled(registry: Registry, project_id: str, frames: pa.Table) -> Verdict:
    """Every frame of a batch was labelled the last time; those that were not are in no dataset because of it."""
    missing = unlabelled_frames(registry, project_id, frames["frame_id"].to_pylist())
    figures: dict[str, Any] = {"frames": frames.num_rows, "wrong": len(missing)}
    if missing:
        frame_id, reason = next(iter(missing.items()))
        figures |= {"first_wrong": frame_id, "reason": reason}
    return Verdict(not missing, figures)


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


def masks_inside_boxes(masks: pa.Table, detections: pa.Table, frames: pa.Table, store: RunMasks) -> Verdict:
    """Every mask has pixels, lies in the pixels that its box touches, and its file is there and undamaged."""
    boxes = dict(zip(detections["object_id"].to_pylist(), xywh_to_xyxy(_boxes(detections)), strict=True))
    low, high = _extents(masks["polygon"])
    corners = np.array([boxes[object_id] for object_id in masks["object_id"].to_pylist()]).reshape(-1, 4)
    good = (low >= np.floor(corners[:, :2])).all(axis=1) & (high <= np.ceil(corners[:, 2:])).all(axis=1)
    good &= masks["area"].to_numpy() > 0
    frame = {row["frame_id"]: row for row in frames.select(["frame_id", "width", "height"]).to_pylist()}
    of_masks = zip(masks["frame_id"].to_pylist(), masks["mask_path"].to_pylist(), strict=True)
    good &= np.array([store.is_intact(frame[frame_id], path) for frame_id, path in of_masks], dtype=bool)
    return _verdict(masks, good)


def embeddings_well_formed(embeddings: pa.Table, dimensions: Mapping[str, int]) -> Verdict:
    """Every vector has the dimension of its embedding version and L2 norm 1.

    Args:
        embeddings: rows of ``core.schemas.EMBEDDINGS``.
        dimensions: of the embedding versions that are known, by id.
    """
    good = [
        len(vector) == dimensions.get(version) and abs(float(np.linalg.norm(vector)) - 1) <= NORM_TOLERANCE
        for version, vector in zip(
            embeddings["version_id"].to_pylist(),
            embeddings["embedding"].to_numpy(zero_copy_only=False),
            strict=True,
        )
    ]
    return _verdict(embeddings, np.array(good, dtype=bool))


def _extents(polygons: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The smallest and the largest x and y of each polygon's rings, (n, 2) each; NaN where it has no corner."""
    rings = pc.list_flatten(polygons)
    owners = np.repeat(pc.list_parent_indices(polygons).to_numpy(), pc.list_value_length(rings).to_numpy() // 2)
    corners = pc.list_flatten(rings).to_numpy().reshape(-1, 2)
    low, high = np.full((len(polygons), 2), np.nan), np.full((len(polygons), 2), np.nan)
    np.fmin.at(low, owners, corners)
    np.fmax.at(high, owners, corners)
    return low, high


def _boxes(table: pa.Table) -> NDArray[np.float64]:
    columns = [table[name].to_numpy() for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h")]
    return np.stack(columns, axis=1).reshape(-1, 4)


def _verdict(table: pa.Table, good: NDArray[np.bool_]) -> Verdict:
    wrong = np.flatnonzero(~good)
    figures: dict[str, Any] = {"rows": table.num_rows, "wrong": len(wrong)}
    if len(wrong):
        figures["first_wrong"] = table["object_id"][int(wrong[0])].as_py()
    return Verdict(not len(wrong), figures)
