"""What a build came to, in figures."""

from collections import Counter
from dataclasses import dataclass

from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.splits import SPLITS


@dataclass(frozen=True)
class HeldOut:
    """An image that is left out, since it is nearly the same as one in another split.

    Args:
        file_path: the image.
        near: the image that it is nearly the same as, and that stays.
        distance: bits in which their perceptual hashes differ.
        objects: objects that are left out with it.
    """

    file_path: str
    near: str
    distance: int
    objects: int


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    Args:
        images: images in each split, background ones included.
        background: images without objects in each split.
        objects: objects in each split.
        categories: objects of each class in each split.
        held_out: images left out so that no split leaks into another.
        outside: ids of objects left out, since no part of their box is inside the image.
        replaced: paths of images left out, since another image has since taken the place of the file.
    """

    images: dict[str, int]
    background: dict[str, int]
    objects: dict[str, int]
    categories: dict[str, dict[str, int]]
    held_out: tuple[HeldOut, ...]
    outside: tuple[str, ...]
    replaced: tuple[str, ...]

    @property
    def ratios(self) -> dict[str, float]:
        """The share of the images that each split has reached."""
        total = sum(self.images.values())
        return {split: count / total for split, count in self.images.items()}

    @property
    def one_sided(self) -> tuple[str, ...]:
        """The categories whose objects all landed in one split."""
        return tuple(name for name, counts in self.categories.items() if sum(map(bool, counts.values())) == 1)


def report_of(
    dataset: FrozenDataset, *, held_out: tuple[HeldOut, ...], outside: tuple[str, ...], replaced: tuple[str, ...]
) -> BuildReport:
    """Count a dataset; what was left out is passed through to the report."""
    images = Counter(image.split for image in dataset.images)
    background = Counter(image.split for image in dataset.images if not image.objects)
    objects = Counter((item.category, image.split) for image in dataset.images for item in image.objects)
    categories: dict[str, dict[str, int]] = {
        name: {split: objects[name, split] for split in SPLITS} for name in dataset.classes
    }
    return BuildReport(
        images={split: images[split] for split in SPLITS},
        background={split: background[split] for split in SPLITS},
        objects={split: sum(counts[split] for counts in categories.values()) for split in SPLITS},
        categories=categories,
        held_out=held_out,
        outside=outside,
        replaced=replaced,
    )
