"""Ingestion: the files of a batch become sources, and sources become frames; what cannot be read is quarantined."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from al_dagster.core.failpoints import reach
from al_dagster.core.ids import frame_id
from al_dagster.core.progress import report
from al_dagster.core.schemas import FRAMES, SOURCES
from al_dagster.core.text import printable
from al_dagster.labelling.stage import Rows, StageResult
from al_dagster.media.inspection import inspect_files
from al_dagster.media.loader import ImageLoader
from al_dagster.registry.batches import FileEntry
from al_dagster.registry.database import Registry
from al_dagster.registry.sources import register_frames, register_sources

SHOWN_FILES = 100
"""Rows of the table of quarantined files; the registry has all of them."""


def ingest(
    registry: Registry,
    batch_key: str,
    manifest: Sequence[FileEntry],
    previous: pa.Table,
    *,
    images: ImageLoader,
    root: Path | None,
    max_pixels: int,
    duplicate_distance: int,
) -> StageResult:
    """Inspect the files of a batch and register the readable ones as sources.

    A readable file whose size and time of change are those of the manifest is not read again. The figure
    ``animations`` counts the sources of which only the first picture is labelled, ``pages_left_out`` the pages of
    sources that cannot be read; the ``reason`` of their rows says so. The table ``quarantined_files`` has the first
    ``SHOWN_FILES`` of these files with their reasons.

    Args:
        registry: where sources are registered and files get their status.
        batch_key: the batch.
        manifest: its files.
        previous: the last sources of this batch.
        images: keeps the decoded images for the next stages.
        root: folder that a file must not lead out of by a link, or None.
        max_pixels: images that decode to more are quarantined.
        duplicate_distance: bits in which the perceptual hashes of near-duplicates may differ.
    """
    # A row without a thumbnail is of an older version, which saw only the first page of a file.
    known = {row["file_path"]: row for row in previous.to_pylist() if row["thumbnail"] is not None}
    reused = {file.file_path for file in manifest if file.file_path in known and _unchanged(file)}
    inspected = inspect_files(
        [file.file_path for file in manifest if file.file_path not in reused],
        root=root,
        max_pixels=max_pixels,
        keep=images.put,
        progress=partial(report, "sources"),
    )
    by_path = {row["file_path"]: row for row in inspected}
    rows = [
        {**known[file.file_path], "status": "ready", "reason": _metadata(known[file.file_path]).get("left_out")}
        if file.file_path in reused
        else _as_claimed(by_path[file.file_path], file)
        for file in manifest
    ]
    registered = register_sources(registry, batch_key, rows, duplicate_distance)
    reach("sources committed")
    status = Counter(row["status"] for row in registered)
    ready = [_metadata(row) for row in registered if row["status"] == "ready"]
    return StageResult(
        pa.Table.from_pylist(registered, schema=SOURCES),
        computed=len(inspected),
        reused=len(reused),
        figures={
            "files": len(registered),
            "ready": status["ready"],
            "quarantined": status["quarantined"],
            "duplicates": status["duplicate"],
            "animations": sum(metadata.get("pictures", 1) > 1 for metadata in ready),
            "pages_left_out": sum(metadata.get("pages", []).count(None) for metadata in ready),
        },
        tables={"quarantined_files": _quarantined(registered)},
    )


def frame(registry: Registry, sources: pa.Table) -> StageResult:
    """The frames to label: one for each page of an image that can be read; most images have a single one."""
    rows = [
        {
            "frame_id": frame_id(source["source_id"], page),
            "source_id": source["source_id"],
            "frame_idx": page,
            "timestamp_ms": 0,
            "width": width,
            "height": height,
            **{column: source[column] for column in ("file_path", "sha256", "size_bytes", "mtime_ns")},
        }
        for source in sources.to_pylist()
        if source["status"] == "ready"
        for page, (width, height) in _pages(source)
    ]
    register_frames(registry, rows)
    table = pa.Table.from_pylist(rows, schema=FRAMES)
    return StageResult(table, computed=table.num_rows, reused=0, figures={"frames": table.num_rows})


def _quarantined(rows: Sequence[dict[str, Any]]) -> Rows:
    """The first quarantined files with their reasons."""
    bad = (row for row in rows if row["status"] == "quarantined")
    return [{"file": printable(row["file_path"]), "reason": row["reason"]} for row in islice(bad, SHOWN_FILES)]


def _metadata(source: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(source["metadata"])) if source["metadata"] else {}


def _pages(source: dict[str, Any]) -> list[tuple[int, tuple[int, int]]]:
    """The index and the upright size of each page that can be read."""
    sizes = _metadata(source).get("pages", [(source["width"], source["height"])])
    return [(page, tuple(size)) for page, size in enumerate(sizes) if size is not None]


def _as_claimed(row: dict[str, Any], file: FileEntry) -> dict[str, Any]:
    if row["status"] == "ready" and (row["size_bytes"], row["mtime_ns"]) != (file.size_bytes, file.mtime_ns):
        return {**row, "status": "quarantined", "reason": "changed after it was taken into this batch"}
    return row


def _unchanged(file: FileEntry) -> bool:
    try:
        found = Path(file.file_path).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size_bytes, file.mtime_ns)
