"""Machine labels: what a batch registers, and the columns of an object that they own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.calibrator import Calibrator
from al_dagster.registry.matching import Box, Outcome

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
TEXTS = (
    "mask_path",
    "mask_rle",
    "detection_model",
    "segmentation_model",
    "classification_model",
    "embedding_version",
)
NUMBERS = ("confidence", "p_label", "p_box", "area", "mask_score", "classification_confidence")
LABEL_COLUMNS = ("category_id", *BOX, "machine_label", "edited_at", "state")
MACHINE_COLUMNS = ("category_id", *BOX, *TEXTS, *NUMBERS, "calibrated_confidence", "polygon", "detection_id")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledObject:
    """One machine label.

    Attributes:
        object_id: id of the detection, and of the object if it is new.
        frame_id: the frame it is in.
        source_id: the source of that frame.
        category: final label.
        bbox: x, y, w, h in pixels.
        confidence: 0–1.
        detection_model: id and revision of the detector, as are the other models.
        p_label: probability of the label, 0–1, where the detector tells it apart from that of the box.
        p_box: probability of the box.
        classification_model: what named a proposal, if anything did.
        classification_confidence: its score.
        segmentation_model: what made the mask.
        mask_path: relative to the mask store.
        polygon: rings of x, y, x, y, … in pixels.
        mask_rle: the mask over the whole frame, in COCO's compressed run lengths.
        area: of the mask, px².
        mask_score: 0–1.
        embedding: (d,) float32, L2 norm 1.
        embedding_version: the version that the embedding belongs to, registered before.
    """

    object_id: str
    frame_id: str
    source_id: str
    category: str
    bbox: Box
    confidence: float
    detection_model: str
    p_label: float | None = None
    p_box: float | None = None
    classification_model: str | None = None
    classification_confidence: float | None = None
    segmentation_model: str | None = None
    mask_path: str | None = None
    polygon: Sequence[Sequence[float]] | None = None
    mask_rle: str | None = None
    area: float | None = None
    mask_score: float | None = None
    embedding: NDArray[np.float32] | None = None
    embedding_version: str | None = None


@dataclass(frozen=True)
class Registration:
    """What became of each label.

    Attributes:
        outcomes: (detection id, object id, outcome), in the order of the labels. The object id is that of the object
            that now stands for the label; for a conflict, of the object that it contradicts. A label in a frame that a
            person marked as background has none.
        counts: by outcome, ``superseded`` and ``queued`` (outbox rows) included.
    """

    outcomes: list[tuple[str, str, Outcome]]
    counts: dict[str, int]


def is_corrected(row: Mapping[Any, Any]) -> bool:
    """Whether the label of an object is not the machine's, since a person changed its category or its box.

    Also true of an object that was edited before the registry kept what the machine had said: what it was is not known.
    To delete an object is not to correct it.

    Args:
        row: an object's ``LABEL_COLUMNS``.
    """
    said = row["machine_label"]
    if said is None:
        return row["edited_at"] is not None and row["state"] != "deleted"
    return bool(said["category_id"] != row["category_id"] or said["bbox"] != [row[side] for side in BOX])


def machine_values(
    label: LabelledObject, categories: Mapping[str, int], calibrators: Mapping[str, Calibrator]
) -> dict[str, Any]:
    """The machine's columns of an object with this label, as the database stores them.

    Args:
        label: the label.
        categories: category ids by name.
        calibrators: of the project, by detector; the confidence of any other detector is uncalibrated.
    """
    values: dict[str, Any] = {name: getattr(label, name) for name in TEXTS}
    for name in NUMBERS:
        number = getattr(label, name)
        values[name] = None if number is None else float(number)
    calibrator = calibrators.get(label.detection_model)
    values["calibrated_confidence"] = None if calibrator is None else float(calibrator.apply(values["confidence"]))
    x, y, w, h = label.bbox
    values["bbox_x"], values["bbox_y"], values["bbox_w"], values["bbox_h"] = float(x), float(y), float(w), float(h)
    rings = label.polygon
    values["polygon"] = None if rings is None else [list(map(float, ring)) for ring in rings]
    values["category_id"] = categories[label.category]
    values["detection_id"] = label.object_id
    return values
