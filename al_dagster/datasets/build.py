"""Building a dataset: select, split by group, hold out what would leak, freeze."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.fingerprints import content_hash, fingerprint
from al_dagster.core.geometry import clip_xyxy, xywh_to_xyxy
from al_dagster.core.project import ProjectConfig
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.report import BuildReport, HeldOut, report_of
from al_dagster.datasets.selection import attach, select_objects, used_categories
from al_dagster.datasets.splits import Leak, hold_out, near_duplicate_leaks, split_of
from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import freeze_dataset, get_dataset, list_datasets
from al_dagster.registry.projects import get_project

log = structlog.get_logger(__name__)

Row = dict[str, Any]

_CONTENT = [
    "split",
    "source_id",
    "frame_idx",
    "sha256",
    "width",
    "height",
    "object_id",
    "category",
    "bbox_x",
    "bbox_y",
    "bbox_w",
    "bbox_h",
    "polygon",
    "area",
]


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset version and what its build came to.

    Args:
        dataset: the frozen dataset.
        report: counts, ratios and what was left out.
        created: whether this is a new version; False if the same content was frozen before.
    """

    dataset: FrozenDataset
    report: BuildReport
    created: bool


def build_dataset(
    registry: Registry, definition: DatasetDefinition, *, duplicate_distance: int, run_id: str | None
) -> BuiltDataset:
    """Select, split and freeze a dataset; the same content gives the version that stands.

    Args:
        registry: where the objects are and where the dataset is recorded.
        definition: what to select and how to split.
        duplicate_distance: images whose perceptual hashes differ in at most so many bits must not be in two splits.
        run_id: the run that builds it.

    Raises:
        UserError: the project or a class is unknown, or nothing is selected.
    """
    selected = _select(registry, definition, duplicate_distance)
    rows = selected.table.select(["object_id", "split"]).to_pylist()
    record = freeze_dataset(
        registry,
        name=definition.name,
        definition=definition.model_dump(mode="json"),
        content_hash=selected.content_hash,
        run_id=run_id,
        assignments=[(row["object_id"], row["split"]) for row in rows if row["object_id"] is not None],
        category_mapping={name: index for index, name in enumerate(selected.classes)},
    )
    dataset = FrozenDataset(
        record.dataset_id, record.version, record.content_hash, selected.classes, definition, selected.table
    )
    report = report_of(dataset, held_out=selected.held_out, outside=selected.outside, replaced=selected.replaced)
    log.info(
        "dataset built",
        dataset=definition.name,
        version=record.version,
        new=record.created,
        images=report.images,
        objects=report.objects,
        held_out=len(report.held_out),
    )
    return BuiltDataset(dataset, report, record.created)


def unbuilt_content(registry: Registry, definition: DatasetDefinition, *, duplicate_distance: int) -> str | None:
    """The hash of what a build would hold now, or None if the version that was built last holds just that.

    Args:
        registry: where the objects and versions are.
        definition: what to select and how to split.
        duplicate_distance: as for ``build_dataset``.

    Raises:
        UserError: the project or a class is unknown, or nothing is selected.
    """
    content = _select(registry, definition, duplicate_distance).content_hash
    is_built = bool(list_datasets(registry, definition.name))
    return None if is_built and get_dataset(registry, definition.name).content_hash == content else content


@dataclass(frozen=True)
class _Selected:
    """What a version will hold, and what was left out of it."""

    classes: tuple[str, ...]
    table: pa.Table
    content_hash: str
    held_out: tuple[HeldOut, ...]
    outside: tuple[str, ...]
    replaced: tuple[str, ...]


def _select(registry: Registry, definition: DatasetDefinition, duplicate_distance: int) -> _Selected:
    project = get_project(registry, definition.project)
    with attach(registry.url) as connection:
        classes = _classes(project, used_categories(connection, project.name), definition)
        rows = _prepared(select_objects(connection, definition, classes).to_pylist(), definition)
    rows, replaced = _without_replaced(rows)
    rows, outside = _without_outside(rows)
    if all(row["object_id"] is None for row in rows):
        raise UserError(
            f"dataset {definition.name!r} selects no object that can be used: {len(replaced)} images were replaced by "
            f"others of the same path, and the boxes of {len(outside)} objects lie outside their images; label again"
        )
    rows, held_out = _without_leaks(rows, duplicate_distance)
    # When images were registered decides who is held out; what remains must not depend on it.
    rows.sort(key=lambda row: (row["source_id"], row["frame_idx"], row["object_id"] or ""))
    table = pa.Table.from_pylist(rows, schema=DATASET)
    content = _content_hash(table, definition, classes)
    return _Selected(tuple(classes), table, content, held_out, outside, replaced)


def _classes(project: ProjectConfig, used: Sequence[str], definition: DatasetDefinition) -> list[str]:
    """The classes in the order of their YOLO ids: the project's order, then what people added, by name."""
    known = [*project.classes, *(name for name in used if name not in project.classes)]
    wanted = definition.filter.categories
    if wanted is None:
        return known
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(
            f"dataset {definition.name!r}: project {definition.project!r} has no class "
            f"{', '.join(map(repr, unknown))}; its classes are {', '.join(known)}"
        )
    return [name for name in known if name in wanted]


def _prepared(rows: Sequence[Row], definition: DatasetDefinition) -> list[Row]:
    """Rows with their split, and with JSON read."""
    for row in rows:
        metadata = json.loads(row["metadata"] or "{}")
        row["image_format"] = metadata.get("format", "")
        row["is_plain"] = bool(metadata.get("plain"))
        row["polygon"] = json.loads(row["polygon"]) if row["polygon"] else None
        row["split"] = split_of(row["group_key"], definition.split)
    return list(rows)


def _without_replaced(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    replaced = {row["file_path"] for row in rows if row["is_replaced"]}
    return [row for row in rows if not row["is_replaced"]], tuple(sorted(replaced))


def _without_outside(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    outside = set()
    for row in rows:
        if row["object_id"] is not None:
            box = np.array([[row[f"bbox_{key}"] for key in "xywh"]])
            x1, y1, x2, y2 = clip_xyxy(xywh_to_xyxy(box), row["width"], row["height"])[0]
            if x2 <= x1 or y2 <= y1:
                outside.add(row["object_id"])
    return [row for row in rows if row["object_id"] not in outside], tuple(sorted(outside))


def _without_leaks(rows: list[Row], duplicate_distance: int) -> tuple[list[Row], tuple[HeldOut, ...]]:
    images = list({row["source_id"]: row for row in rows}.values())
    out = hold_out(_leaks(images, duplicate_distance))
    names = {images[index]["source_id"] for index in out}
    objects = Counter(row["source_id"] for row in rows if row["object_id"] is not None)
    held_out = tuple(
        HeldOut(
            images[leak.second]["file_path"],
            images[leak.first]["file_path"],
            leak.distance,
            objects[images[leak.second]["source_id"]],
        )
        for leak in out.values()
    )
    return [row for row in rows if row["source_id"] not in names], held_out


def _leaks(images: Sequence[Row], duplicate_distance: int) -> list[Leak]:
    return near_duplicate_leaks(
        [row["split"] for row in images],
        [row["perceptual_hash"] for row in images],
        [row["sha256"] for row in images],
        duplicate_distance,
    )


def _content_hash(table: pa.Table, definition: DatasetDefinition, classes: Sequence[str]) -> str:
    """Hash of what the dataset holds; formats and training do not change it."""
    return fingerprint(
        rows=content_hash(table.select(_CONTENT).to_pydict()),
        classes=list(classes),
        definition=definition.model_dump(mode="json", include={"project", "filter", "split", "include_empty"}),
    )
