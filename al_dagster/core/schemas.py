"""The columns of the lake, declared once: one Arrow schema for each asset that the lake keeps.

Boxes are ``bbox_x, bbox_y, bbox_w, bbox_h``: top-left corner and size in pixels of the upright image.
"""

import pyarrow as pa

_BOX = [pa.field(name, pa.float64(), nullable=False) for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h")]


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SOURCES = pa.schema(
    [
        _required("file_path", pa.string()),
        _required("status", pa.string()),  # ready, quarantined or duplicate
        pa.field("reason", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("source_type", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("perceptual_hash", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("frame_count", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("captured_at", pa.timestamp("ms")),  # by the camera's clock
        pa.field("thumbnail", pa.binary()),  # grey levels of a small square, for the comparison of neighbours
        pa.field("metadata", pa.string()),  # JSON: format, mode, exif_orientation, plain and, of several pages, pages
    ]
)

FRAMES = pa.schema(
    [
        _required("frame_id", pa.string()),
        _required("source_id", pa.string()),
        _required("frame_idx", pa.int32()),
        _required("timestamp_ms", pa.int64()),
        _required("file_path", pa.string()),
        _required("sha256", pa.string()),
        pa.field("size_bytes", pa.int64()),  # of the file, as ``sources`` saw it
        pa.field("mtime_ns", pa.int64()),
        _required("width", pa.int32()),
        _required("height", pa.int32()),
    ]
)

DETECTIONS = pa.schema(
    [
        _required("object_id", pa.string()),
        _required("frame_id", pa.string()),
        _required("source_id", pa.string()),
        _required("label", pa.string()),
        *_BOX,
        _required("confidence", pa.float64()),
        pa.field("p_label", pa.float64()),  # the parts of the confidence, of detectors that have them
        pa.field("p_box", pa.float64()),
        _required("detection_model", pa.string()),
        _required("fingerprint", pa.string()),
    ]
)

MASKS = pa.schema(
    [
        _required("object_id", pa.string()),
        _required("frame_id", pa.string()),
        _required("mask_path", pa.string()),  # relative to the mask store
        # Rings of x, y, x, y, … along the pixels' edges, simplified: for each part, largest first, its outer ring
        # (counter-clockwise as the image is seen), then those of its holes (clockwise).
        _required("polygon", pa.list_(pa.list_(pa.float64()))),
        pa.field("rle", pa.string()),  # the mask over the whole frame, in COCO's compressed run lengths
        _required("area", pa.float64()),  # px²
        _required("score", pa.float64()),
        _required("fingerprint", pa.string()),
    ]
)

EMBEDDINGS = pa.schema(
    [
        _required("object_id", pa.string()),
        _required("frame_id", pa.string()),
        _required("version_id", pa.string()),
        _required("embedding", pa.list_(pa.float32())),  # L2 norm 1
        _required("fingerprint", pa.string()),
    ]
)

CLASSIFICATIONS = pa.schema(
    [
        _required("object_id", pa.string()),
        _required("frame_id", pa.string()),
        _required("label", pa.string()),  # a class of the support set, or "Unknown"
        _required("score", pa.float64()),  # cosine similarity to the nearest class
        _required("margin", pa.float64()),
        _required("classification_model", pa.string()),
        _required("fingerprint", pa.string()),
    ]
)

OBJECTS = pa.schema(
    [
        _required("object_id", pa.string()),
        _required("detection_id", pa.string()),
        _required("outcome", pa.string()),  # inserted, matched, kept, conflict or suppressed
        _required("category", pa.string()),
    ]
)

VECTOR_INDEX = pa.schema([_required("object_id", pa.string()), _required("version_id", pa.string())])

DATASET = pa.schema(  # a row an object and a row a background image, by source and object id
    [
        _required("split", pa.string()),  # train, val or test
        _required("source_id", pa.string()),
        _required("frame_idx", pa.int32()),
        _required("file_path", pa.string()),
        _required("sha256", pa.string()),
        _required("group_key", pa.string()),
        _required("width", pa.int32()),
        _required("height", pa.int32()),
        _required("image_format", pa.string()),  # JPEG, PNG, …
        _required("is_plain", pa.bool_()),  # the file may be linked as it is
        pa.field("object_id", pa.string()),
        pa.field("category", pa.string()),
        *(pa.field(field.name, field.type) for field in _BOX),
        pa.field("polygon", pa.list_(pa.list_(pa.float64()))),  # as in MASKS
        pa.field("rle", pa.string()),  # as in MASKS
        pa.field("area", pa.float64()),  # px²
        pa.field("confidence", pa.float64()),
        pa.field("calibrated_confidence", pa.float64()),
        pa.field("is_validated", pa.bool_()),
        pa.field("is_ignored", pa.bool_()),  # dropped by the filter: its region teaches nothing
    ]
)

LAKE_SCHEMAS: dict[str, pa.Schema] = {
    "sources": SOURCES,
    "frames": FRAMES,
    "detections": DETECTIONS,
    "masks": MASKS,
    "embeddings": EMBEDDINGS,
    "classifications": CLASSIFICATIONS,
    "objects": OBJECTS,
    "vector_index": VECTOR_INDEX,
    "dataset": DATASET,
}
