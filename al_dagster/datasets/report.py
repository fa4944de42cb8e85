"""What a build came to, in figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from al_dagster.datasets.definition import SplitRatios
from al_dagster.datasets.splits import SPLITS

EXAMPLES = 5
_DETAILS_SHOWN = 5


@dataclass(frozen=True)
class LeftOut:
    """What a dataset leaves out for one reason.

    Args:
        reason: such as "not labelled".
        unit: ``frames`` or ``objects``.
        count: how many.
        details: how many for which finer reason, most first; what is not labelled has the errors here.
        examples: paths of the first frames, or ids of the first objects.
    """

    reason: str
    unit: str
    count: int
    details: dict[str, int]
    examples: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """As in "12 frames not labelled: has vanished (9), waits to be labelled (3)"."""
        shown = [f"{text} ({count})" for text, count in list(self.details.items())[:_DETAILS_SHOWN]]
        more = ["…"] if len(self.details) > _DETAILS_SHOWN else []
        return f"{_counted(self.count, self.unit)} {self.reason}" + (f": {', '.join(shown + more)}" if shown else "")


@dataclass(frozen=True)
class HeldOut:
    """An image that is left out, since it is nearly the same as one in another split, or its neighbour in a recording.

    Args:
        file_path: the image.
        near: the other image, which stays.
        distance: bits in which their perceptual hashes differ; None for neighbours.
        objects: objects that are left out with it.
    """

    file_path: str
    near: str
    distance: int | None
    objects: int


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    Args:
        images: images in each split, background ones included.
        background: images without objects in each split.
        objects: objects in each split; ignored ones do not count.
        categories: objects of each class in each split.
        groups: groups of images that belong together, each of which is in one split.
        ignored: objects that the filter drops and whose region teaches nothing.
        left_out: what is not in the dataset, and why; near-duplicates are in ``held_out`` too.
        held_out: images left out so that no split leaks into another.
        raw_confidence: by detector, objects whose raw confidence ``min_confidence`` was compared with.
    """

    images: dict[str, int]
    background: dict[str, int]
    objects: dict[str, int]
    categories: dict[str, dict[str, int]]
    groups: int
    ignored: int
    left_out: tuple[LeftOut, ...]
    held_out: tuple[HeldOut, ...]
    raw_confidence: dict[str, int]

    @property
    def ratios(self) -> dict[str, float]:
        """The share of the images that each split has reached."""
        total = sum(self.images.values())
        return {split: count / total for split, count in self.images.items()}

    @property
    def one_sided(self) -> tuple[str, ...]:
        """The categories whose objects all landed in one split."""
        return tuple(name for name, counts in self.categories.items() if sum(map(bool, counts.values())) == 1)

    def empty_splits_sentence(self, ratios: SplitRatios) -> str:
        """Which splits got nothing though they have a share, and of how many groups; empty if none."""
        empty = [split for split in SPLITS if getattr(ratios, split) > 0 and not self.images[split]]
        if not empty:
            return ""
        images, groups = sum(self.images.values()), _counted(self.groups, "groups")
        return (
            f"{' and '.join(empty)}: the {_counted(images, 'images')} are {groups}, and a group is never divided; add "
            "images of something else, or say by 'grouping' in project.yaml what belongs together"
        )

    @property
    def left_out_sentence(self) -> str:
        """Everything that was left out in one line; empty if nothing was."""
        return "; ".join(item.sentence for item in self.left_out)

    @property
    def confidence_sentence(self) -> str:
        """For which detectors ``min_confidence`` compared what is not calibrated; empty if for none."""
        models = [f"{model} ({_counted(count, 'objects')})" for model, count in self.raw_confidence.items()]
        return f"min_confidence compares raw confidence of {', '.join(models)}: not calibrated" if models else ""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BuildReport":
        """The report that ``to_json`` gave."""
        left_out = (LeftOut(**{**item, "examples": tuple(item["examples"])}) for item in values["left_out"])
        held_out = (HeldOut(**item) for item in values["held_out"])
        return cls(**{**values, "left_out": tuple(left_out), "held_out": tuple(held_out)})


def report_of(
    table: pa.Table,
    classes: tuple[str, ...],
    *,
    left_out: tuple[LeftOut, ...] = (),
    held_out: tuple[HeldOut, ...] = (),
    raw_confidence: Mapping[str, int] | None = None,
) -> BuildReport:
    """Count the rows of a dataset; what was left out is passed through to the report.

    Args:
        table: rows of ``core.schemas.DATASET``.
        classes: its classes.
        left_out: as in the report.
        held_out: as in the report.
        raw_confidence: as in the report.
    """
    # A row of a background image has no object, and an ignored object is none.
    is_object = table["object_id"].is_valid().to_numpy() & ~table["is_ignored"].fill_null(False).to_numpy()
    rows = table.select(["split", "source_id", "frame_idx", "category"]).append_column("is_object", [is_object])
    frames = rows.group_by(["split", "source_id", "frame_idx"]).aggregate([("is_object", "max")])
    images = _by_split(frames["split"])
    background = _by_split(frames.filter(pa.compute.invert(frames["is_object_max"]))["split"])
    objects = rows.filter(pa.array(is_object)).group_by(["category", "split"]).aggregate([([], "count_all")])
    counts = {(row["category"], row["split"]): row["count_all"] for row in objects.to_pylist()}
    categories: dict[str, dict[str, int]] = {
        name: {split: counts.get((name, split), 0) for split in SPLITS} for name in classes
    }
    return BuildReport(
        images=images,
        background=background,
        objects={split: sum(by_split[split] for by_split in categories.values()) for split in SPLITS},
        categories=categories,
        groups=len(table["group_key"].unique()),
        ignored=int(table["is_ignored"].fill_null(False).to_numpy().sum()),
        left_out=left_out,
        held_out=held_out,
        raw_confidence=dict(raw_confidence or {}),
    )


def _counted(count: int, units: str) -> str:
    return f"{count} {units if count != 1 else units.removesuffix('s')}"


def _by_split(splits: pa.ChunkedArray) -> dict[str, int]:
    counts = {row["values"]: row["counts"] for row in splits.value_counts().to_pylist()}
    return {split: counts.get(split, 0) for split in SPLITS}
