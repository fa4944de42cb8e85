"""Whether a split of a dataset leaks into another: looked at anew in the frozen rows, whatever the build did.

Each rule is a function from the images to sentences; another one is added to ``_RULES``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from al_dagster.core.verdict import Verdict
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.selection import attach
from al_dagster.datasets.splits import near_duplicate_leaks
from al_dagster.registry.database import Registry

_SOURCES = """
SELECT i.source_id, i.split, i.file_path, s.sha256, s.perceptual_hash, coalesce(g.group_key, s.group_key) AS group_key
FROM images AS i
JOIN registry.sources AS s ON s.source_id = i.source_id
LEFT JOIN registry.source_groups AS g ON g.source_id = i.source_id AND g.project_id = $project
ORDER BY i.source_id, i.split
"""


@dataclass(frozen=True)
class _Image:
    source_id: str
    split: str
    file_path: str
    sha256: str
    perceptual_hash: str | None
    group_key: str


def no_split_leakage(registry: Registry, dataset: FrozenDataset, duplicate_distance: int) -> Verdict:
    """No picture is in a split while the same or nearly the same one, or another of its group, is in another.

    Args:
        registry: where hashes and groups are.
        dataset: what to check.
        duplicate_distance: most differing bits of near-duplicates.
    """
    problems = find_leaks(registry, dataset, duplicate_distance)
    images = dataset.table.group_by(["source_id", "frame_idx"]).aggregate([]).num_rows
    first = {"first_wrong": problems[0]} if problems else {}
    return Verdict(not problems, {"images": images, "wrong": len(problems), **first})


def find_leaks(registry: Registry, dataset: FrozenDataset, duplicate_distance: int) -> list[str]:
    """A sentence for each way in which one split of a dataset leaks into another; none is what every build owes.

    Leaks are one source in two splits, images of one group of the project, and the same or nearly the same picture.
    Groups and hashes come from the registry and the pairs are compared anew.

    Args:
        registry: where hashes and groups are.
        dataset: what to check.
        duplicate_distance: most differing bits of near-duplicates.
    """
    images = _images(registry, dataset)
    return [problem for rule in _RULES for problem in rule(images, duplicate_distance)]


def _images(registry: Registry, dataset: FrozenDataset) -> list[_Image]:
    """The sources of a dataset, by id; one that is in two splits comes twice."""
    columns = dataset.table.group_by(["source_id", "split"]).aggregate([("file_path", "min")])
    images = columns.rename_columns({"file_path_min": "file_path"})
    with attach(registry.url) as connection:
        connection.register("images", images)
        rows: pa.Table = connection.execute(_SOURCES, {"project": dataset.definition.project}).to_arrow_table()
    return [_Image(**row) for row in rows.to_pylist()]


def _source_leaks(images: Sequence[_Image], duplicate_distance: int) -> list[str]:
    return [f"{image.file_path}: is in {splits}" for image, splits in _apart(images, lambda image: image.source_id)]


def _group_leaks(images: Sequence[_Image], duplicate_distance: int) -> list[str]:
    return [
        f"group {image.group_key}: is in {splits}" for image, splits in _apart(images, lambda image: image.group_key)
    ]


def _picture_leaks(images: Sequence[_Image], duplicate_distance: int) -> list[str]:
    leaks = near_duplicate_leaks(
        [image.split for image in images],
        [image.perceptual_hash for image in images],
        [image.sha256 for image in images],
        duplicate_distance,
    )
    return [
        f"{images[leak.second].file_path}: is in {images[leak.second].split} and differs in {leak.distance} bits from "
        f"{images[leak.first].file_path} in {images[leak.first].split}"
        for leak in leaks
    ]


def _apart(images: Sequence[_Image], key_of: Callable[[_Image], str]) -> list[tuple[_Image, str]]:
    """The first image of each key that is in several splits, with these."""
    members: dict[str, list[_Image]] = {}
    for image in images:
        members.setdefault(key_of(image), []).append(image)
    return [
        (found[0], " and ".join(splits))
        for found in members.values()
        if len(splits := sorted({image.split for image in found})) > 1
    ]


_RULES = (_source_leaks, _group_leaks, _picture_leaks)
