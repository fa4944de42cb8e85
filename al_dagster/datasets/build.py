"""Building a dataset: select, split by group, hold out what would leak, freeze."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray

from al_dagster.core import ids
from al_dagster.core.errors import UserError
from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.lake import Lake
from al_dagster.core.project import ProjectConfig
from al_dagster.core.rle import encode
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.choice import NEAR_DUPLICATE, NEIGHBOUR, Choice, choose
from al_dagster.datasets.content import table_hash
from al_dagster.datasets.definition import DatasetDefinition, require_classes
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.report import EXAMPLES, BuildReport, HeldOut, LeftOut, report_of
from al_dagster.datasets.selection import Pool, open_pool, read_polygons, read_pool
from al_dagster.datasets.splits import SPLITS, Leak, hold_out, near_duplicate_leaks, split_codes
from al_dagster.datasets.versions import store_version
from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import freeze_dataset
from al_dagster.registry.masks import MaskStore
from al_dagster.registry.projects import get_project

if TYPE_CHECKING:
    import duckdb

log = structlog.get_logger(__name__)

_OF_FRAME = (
    "source_id",
    "frame_idx",
    "file_path",
    "sha256",
    "group_key",
    "width",
    "height",
    "image_format",
    "is_plain",
)
_OF_OBJECT = (
    "object_id",
    "bbox_x",
    "bbox_y",
    "bbox_w",
    "bbox_h",
    "rle",
    "area",
    "confidence",
    "calibrated_confidence",
    "is_validated",
    "mask_path",
)
# The id of a source says what its bytes are, and a mask file is written anew under the same name only if it was
# damaged. An outline is made of its mask.
_CONTENT = [
    "split",
    "source_id",
    "frame_idx",
    "width",
    "height",
    "object_id",
    "category",
    "bbox_x",
    "bbox_y",
    "bbox_w",
    "bbox_h",
    "mask",
    "area",
    "is_ignored",
]
_MASK_READERS = 4


@dataclass(frozen=True)
class Selected:
    """What a version will hold, and what is left out of it.

    Args:
        classes: class names, in the order of their YOLO ids.
        table: rows of ``core.schemas.DATASET`` without ``polygon``, with ``mask_path`` beside them.
        content_hash: of what the rows and the definition say.
        left_out: what is left out.
        held_out: of that, the images that are nearly the same as one in another split.
        raw_confidence: by detector, objects whose raw confidence was compared.
    """

    classes: tuple[str, ...]
    table: pa.Table
    content_hash: str
    left_out: tuple[LeftOut, ...]
    held_out: tuple[HeldOut, ...]
    raw_confidence: dict[str, int]


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset version and what its build came to.

    Args:
        dataset: the frozen dataset.
        report: counts, ratios and what was left out.
        created: whether this is a new version; False if the same content was frozen before.
        bytes_written: size of its rows in the lake.
    """

    dataset: FrozenDataset
    report: BuildReport
    created: bool
    bytes_written: int


def build_dataset(
    registry: Registry,
    definition: DatasetDefinition,
    *,
    lake: Lake,
    masks_dir: Path,
    duplicate_distance: int,
    run_id: str | None,
) -> BuiltDataset:
    """Select, split and freeze a dataset; the same content gives the version that stands.

    The rows are stored before the version is recorded, so that a version that is recorded has its rows.

    Args:
        registry: where the objects are and where the dataset is recorded.
        definition: what to select and how to split.
        lake: where the rows are kept.
        masks_dir: folder of the mask store.
        duplicate_distance: images whose perceptual hashes differ in at most so many bits must not be in two splits.
        run_id: the run that builds it.

    Raises:
        UserError: the project or a class is unknown, or nothing is selected.
    """
    with open_pool(registry, definition.project, with_polygons=True) as pool:
        selected = select_content(registry, pool, definition, duplicate_distance)
        table = frozen_rows(selected, pool, MaskStore(masks_dir))
    report = report_of(
        table,
        selected.classes,
        left_out=selected.left_out,
        held_out=selected.held_out,
        raw_confidence=selected.raw_confidence,
    )
    dataset_id = ids.dataset_id(definition.name, selected.content_hash)
    dataset = FrozenDataset(dataset_id, "", selected.content_hash, selected.classes, definition, table)
    written = store_version(lake, dataset, report)
    record = freeze_dataset(
        registry,
        name=definition.name,
        definition=definition.model_dump(mode="json"),
        content_hash=selected.content_hash,
        run_id=run_id,
        assignments=assignments(table),
        category_mapping={name: index for index, name in enumerate(selected.classes)},
    )
    log.info(
        "dataset built",
        dataset=definition.name,
        version=record.version,
        new=record.created,
        images=report.images,
        objects=report.objects,
        left_out=report.left_out_sentence,
    )
    return BuiltDataset(replace(dataset, version=record.version), report, record.created, written)


def select_content(
    registry: Registry, connection: "duckdb.DuckDBPyConnection", definition: DatasetDefinition, duplicate_distance: int
) -> Selected:
    """Select and split; writes nothing.

    Args:
        registry: knows the project.
        connection: what ``open_pool`` gave for the project.
        definition: what to select and how to split.
        duplicate_distance: as for ``build_dataset``.

    Raises:
        UserError: the project or a class is unknown, or nothing is selected.
    """
    project = get_project(registry, definition.project)
    pool = read_pool(connection, project.name)
    classes = _classes(project, pool.used_categories, definition)
    choice = choose(pool, definition, classes)
    frames = pool.frames.take(pa.array(choice.frames))
    splits = _splits_of(frames["group_key"], definition)
    held_out, stays, leaving = _without_leaks(frames, splits, pool, choice, duplicate_distance)
    table = _rows(pool, choice, classes, splits, stays)
    left_out = choice.left_out + leaving
    # What names a mask for good stands for its pixels.
    mask = pc.coalesce(table["rle"], table["mask_path"])
    content = fingerprint(
        rows=table_hash(table.append_column("mask", mask).select(_CONTENT)),
        classes=classes,
        definition=definition.model_dump(mode="json", include={"project", "filter", "split", "include_empty"}),
    )
    return Selected(tuple(classes), table, content, left_out, held_out, choice.raw_confidence)


def frozen_rows(selected: Selected, connection: "duckdb.DuckDBPyConnection", masks: MaskStore) -> pa.Table:
    """The rows of a version as they are kept: rows of ``core.schemas.DATASET``.

    A mask that is in the registry as a file only, as before masks were kept as run lengths, is read from there.

    Args:
        selected: what ``select_content`` gave.
        connection: what it was selected from, with polygons.
        masks: the mask store.
    """
    table = selected.table
    table = table.append_column("polygon", read_polygons(connection, table["object_id"]))
    unread = pc.and_(pc.is_null(table["rle"]), pc.is_valid(table["mask_path"]))
    at = np.flatnonzero(unread.to_numpy())
    if len(at):
        paths = table["mask_path"].take(pa.array(at)).to_pylist()
        with ThreadPoolExecutor(_MASK_READERS, thread_name_prefix="masks") as pool:
            read = pa.array(list(pool.map(partial(_run_lengths, masks), paths)), pa.string())
        where = table.schema.get_field_index("rle")
        filled = pc.replace_with_mask(table["rle"].combine_chunks(), unread.combine_chunks(), read)
        table = table.set_column(where, "rle", filled)
    return table.select(DATASET.names).cast(DATASET)


def _run_lengths(masks: MaskStore, path: str) -> str | None:
    """The run lengths of a stored mask; None of one that is gone, whose polygon then has to do."""
    try:
        pixels = masks.read(path)
    except UserError as error:
        log.warning("mask cannot be read", error=str(error))
        return None
    height, width = pixels.shape
    return encode(pixels, 0, 0, width, height)


def _classes(project: ProjectConfig, used: Sequence[str], definition: DatasetDefinition) -> list[str]:
    """The classes in the order of their YOLO ids: the project's order, then what people added, by name."""
    known = [*project.classes, *(name for name in used if name not in project.classes)]
    require_classes(definition, known)
    wanted = definition.filter.categories
    return known if wanted is None else [name for name in known if name in wanted]


def _splits_of(group_keys: pa.ChunkedArray, definition: DatasetDefinition) -> NDArray[np.int64]:
    """The place in ``SPLITS`` of each group key, hashed once a key."""
    groups = group_keys.combine_chunks().dictionary_encode()
    return split_codes(groups.dictionary.to_pylist(), definition.split)[groups.indices.to_numpy()]


def _without_leaks(
    frames: pa.Table, splits: NDArray[np.int64], pool: Pool, choice: Choice, duplicate_distance: int
) -> tuple[tuple[HeldOut, ...], NDArray[np.bool_], tuple[LeftOut, ...]]:
    """The sources that are held out, whether each frame stays, and how many do not for which reason."""
    sources = frames["source_id"].combine_chunks().dictionary_encode()
    of_frame = sources.indices.to_numpy()
    # Codes are given in the order of the frames, that of registration, so this is each source's first frame.
    first = np.unique(of_frame, return_index=True)[1]
    images = frames.select(["file_path", "perceptual_hash", "sha256"]).take(pa.array(first))
    leaks = near_duplicate_leaks(
        np.array(SPLITS)[splits[first]].tolist(),
        images["perceptual_hash"].to_pylist(),
        images["sha256"].to_pylist(),
        duplicate_distance,
    )
    out = hold_out([*leaks, *_tied(pool.ties, sources.dictionary, splits[first])])
    stays = ~np.isin(of_frame, np.array(list(out), dtype=np.int64))
    frame_rows = np.full(pool.frames.num_rows, -1, dtype=np.int64)
    frame_rows[choice.frames] = of_frame
    objects = np.bincount(frame_rows[choice.frame_of[choice.objects]], minlength=len(first))
    paths = images["file_path"]
    held_out = tuple(
        HeldOut(paths[leak.second].as_py(), paths[leak.first].as_py(), leak.distance, int(objects[leak.second]))
        for leak in out.values()
    )
    leaving = (
        *_leaving(NEAR_DUPLICATE, out, of_frame, held_out, neighbours=False),
        *_leaving(NEIGHBOUR, out, of_frame, held_out, neighbours=True),
    )
    return held_out, stays, leaving


def _tied(ties: Sequence[tuple[str, str]], sources: pa.Array, splits: NDArray[np.int64]) -> list[Leak]:
    """The neighbours in a recording that are in different splits, by the places of their sources."""
    places = np.asarray(pc.index_in(pa.array([one for pair in ties for one in pair], pa.string()), value_set=sources))
    pairs = np.sort(places.astype(np.float64).reshape(-1, 2))
    pairs = pairs[~np.isnan(pairs).any(axis=1)].astype(np.int64)
    return [Leak(first, second, None) for first, second in pairs.tolist() if splits[first] != splits[second]]


def _leaving(
    reason: str, out: Mapping[int, Leak], of_frame: NDArray[np.int64], held_out: Sequence[HeldOut], *, neighbours: bool
) -> Iterator[LeftOut]:
    places = [place for place, leak in out.items() if (leak.distance is None) == neighbours]
    if places:
        examples = [item.file_path for item in held_out if (item.distance is None) == neighbours]
        yield LeftOut(reason, "frames", int(np.isin(of_frame, places).sum()), {}, tuple(examples[:EXAMPLES]))


def _rows(
    pool: Pool, choice: Choice, classes: Sequence[str], splits: NDArray[np.int64], stays: NDArray[np.bool_]
) -> pa.Table:
    """The rows by source, frame and object id, with ``mask_path``: when images were registered must not matter."""
    kept = choice.frames[stays]
    order = pc.sort_indices(
        pool.frames.select(["source_id", "frame_idx"]).take(pa.array(kept)),
        sort_keys=[("source_id", "ascending"), ("frame_idx", "ascending")],
    ).to_numpy()
    frames = pool.frames.take(pa.array(kept[order]))
    split = pa.array(SPLITS).take(pa.array(splits[stays][order]))
    rank = np.full(pool.frames.num_rows, -1, dtype=np.int64)
    rank[kept[order]] = np.arange(len(kept))

    objects = np.concatenate([choice.objects, choice.ignored])
    objects = objects[rank[choice.frame_of[objects]] >= 0]
    by_id = pc.sort_indices(pool.objects["object_id"].take(pa.array(objects))).to_numpy()
    objects = objects[by_id]
    objects = objects[np.argsort(rank[choice.frame_of[objects]], kind="stable")]
    frame = rank[choice.frame_of[objects]]
    # A frame without objects has one row, whose object is empty.
    background = np.flatnonzero(np.bincount(frame, minlength=len(kept)) == 0)
    at = np.searchsorted(frame, background)
    frame = np.insert(frame, at, background)
    is_object = np.insert(np.ones(len(objects), dtype=np.bool_), at, False)
    source = pa.array(np.insert(objects, at, 0), mask=~is_object)

    is_ignored = np.zeros(pool.objects.num_rows, dtype=np.bool_)
    is_ignored[choice.ignored] = True
    category = pa.array(choice.class_of[np.insert(objects, at, 0)], mask=~is_object)
    return pa.table(
        {
            "split": split.take(pa.array(frame)),
            **{name: frames[name].take(pa.array(frame)) for name in _OF_FRAME},
            **{name: pool.objects[name].take(source) for name in _OF_OBJECT},
            "category": pa.array(classes, pa.string()).take(category),
            "is_ignored": pa.array(is_ignored[np.insert(objects, at, 0)], mask=~is_object),
        }
    )


def assignments(table: pa.Table) -> list[tuple[str, str]]:
    """Object id and split of every object; an ignored one is no object of the dataset."""
    objects = table.filter(pc.equal(table["is_ignored"], False))
    return list(zip(objects["object_id"].to_pylist(), objects["split"].to_pylist(), strict=True))
