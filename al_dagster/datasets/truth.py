"""Whether one split of a dataset leaks into another, by what the registry says of its images."""

from collections.abc import Sequence
from typing import Any

from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.selection import attach
from al_dagster.datasets.splits import near_duplicate_leaks
from al_dagster.registry.database import Registry

_HASHES = """
SELECT source_id, sha256, perceptual_hash, group_key, file_path
FROM registry.sources
WHERE list_contains($source_ids, source_id)
"""


def find_leaks(registry: Registry, dataset: FrozenDataset, duplicate_distance: int) -> list[str]:
    """A sentence for each way in which one split of a dataset leaks into another; none is what every build owes.

    Leaks are images of one group in two splits, the same bytes in two splits, and near-duplicates in two splits. The
    hashes come from the registry and the pairs are compared anew.

    Args:
        registry: where the hashes are.
        dataset: what to check.
        duplicate_distance: most differing bits of near-duplicates.
    """
    splits = {image.source_id: image.split for image in dataset.images}
    problems = [
        f"{image.file_path}: is in {image.split} and in {splits[image.source_id]}"
        for image in dataset.images
        if image.split != splits[image.source_id]
    ]
    with attach(registry.url) as connection:
        table = connection.execute(_HASHES, {"source_ids": list(splits)}).to_arrow_table()
    sources = {row["source_id"]: row for row in table.to_pylist()}
    ordered = [sources[source_id] for source_id in splits]
    return problems + _group_leaks(ordered, splits) + _picture_leaks(ordered, splits, duplicate_distance)


def _group_leaks(sources: Sequence[dict[str, Any]], splits: dict[str, str]) -> list[str]:
    members: dict[str, set[str]] = {}
    for source in sources:
        members.setdefault(source["group_key"], set()).add(splits[source["source_id"]])
    return [f"group {key}: is in {' and '.join(sorted(found))}" for key, found in members.items() if len(found) > 1]


def _picture_leaks(sources: Sequence[dict[str, Any]], splits: dict[str, str], duplicate_distance: int) -> list[str]:
    of_split = [splits[source["source_id"]] for source in sources]
    leaks = near_duplicate_leaks(
        of_split,
        [source["perceptual_hash"] for source in sources],
        [source["sha256"] for source in sources],
        duplicate_distance,
    )
    return [
        f"{sources[leak.second]['file_path']}: is in {of_split[leak.second]} and differs in {leak.distance} bits from "
        f"{sources[leak.first]['file_path']} in {of_split[leak.first]}"
        for leak in leaks
    ]
