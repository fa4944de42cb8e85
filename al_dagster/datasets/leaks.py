"""Whether a split of a dataset leaks into another: looked at anew in the frozen rows, whatever the build did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from al_dagster.core.verdict import Verdict
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.snapshot import snapshot
from al_dagster.datasets.splits import near_duplicate_leaks
from al_dagster.registry.database import Registry
from al_dagster.registry.recordings import RecordedFile, recording_pairs
from al_dagster.registry.source_groups import CONTENT, RECORDING, grouping_of

_PARTS = {
    "sources": (
        "source_id TEXT, sha256 TEXT, perceptual_hash TEXT, group_key TEXT, rule TEXT, captured_at TEXT,"
        " thumbnail BLOB",
        "SELECT s.source_id, s.sha256, s.perceptual_hash, coalesce(g.group_key, s.group_key),"
        " coalesce(g.rule, 'content'), s.captured_at, s.thumbnail"
        " FROM main.sources AS s LEFT JOIN main.source_groups AS g"
        " ON g.source_id = s.source_id AND g.project_id = :project"
        " WHERE s.source_id IN (SELECT source_id FROM main.batch_files WHERE project_id = :project)",
    )
}
_SOURCES = """
SELECT i.source_id, i.split, i.file_path, s.sha256, s.perceptual_hash, s.group_key, s.rule,
       CAST(s.captured_at AS TIMESTAMP) AS captured_at, s.thumbnail
FROM images AS i
JOIN registry.sources AS s ON s.source_id = i.source_id
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
    rule: str
    captured_at: datetime | None
    thumbnail: bytes | None


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

    Leaks are one source in two splits, images of one group of the project, the same or nearly the same picture, and
    neighbours in one recording, unless the project has recordings switched off or says itself what belongs together.
    Groups and hashes come from the registry and the pairs are compared anew.

    Args:
        registry: where hashes and groups are.
        dataset: what to check.
        duplicate_distance: most differing bits of near-duplicates.
    """
    images = _images(registry, dataset)
    problems = _source_leaks(images) + _group_leaks(images) + _picture_leaks(images, duplicate_distance)
    return problems + (_recording_leaks(images) if _looks_for_recordings(registry, dataset) else [])


def _looks_for_recordings(registry: Registry, dataset: FrozenDataset) -> bool:
    with registry.reader() as session:
        return grouping_of(session, dataset.definition.project).recordings


def _images(registry: Registry, dataset: FrozenDataset) -> list[_Image]:
    """The sources of a dataset, by id; one that is in two splits comes twice."""
    columns = dataset.table.group_by(["source_id", "split"]).aggregate([("file_path", "min")])
    images = columns.rename_columns({"file_path_min": "file_path"})
    with snapshot(registry.url, dataset.definition.project, _PARTS) as connection:
        connection.register("images", images)
        rows: pa.Table = connection.execute(_SOURCES).to_arrow_table()
    return [_Image(**row) for row in rows.to_pylist()]


def _source_leaks(images: Sequence[_Image]) -> list[str]:
    return [f"{image.file_path}: is in {splits}" for image, splits in _apart(images, lambda image: image.source_id)]


def _group_leaks(images: Sequence[_Image]) -> list[str]:
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


def _recording_leaks(images: Sequence[_Image]) -> list[str]:
    """Neighbours in what looks like one recording, of the images that the project has no rule of its own for."""
    open_to_it = [image for image in images if image.rule in (CONTENT, RECORDING)]
    files = [RecordedFile(image.file_path, image.captured_at, image.thumbnail) for image in open_to_it]
    pairs = [(open_to_it[earlier], open_to_it[later]) for earlier, later in recording_pairs(files)]
    return [
        f"{later.file_path}: is in {later.split} and looks like the next picture of one recording after "
        f"{earlier.file_path} in {earlier.split}; say by 'grouping' in project.yaml what belongs together"
        for earlier, later in pairs
        if earlier.split != later.split
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
