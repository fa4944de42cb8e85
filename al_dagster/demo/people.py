"""Collects the photographs of the ``people`` project from installed packages, and files that are no photographs."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from al_dagster.demo.files import write_if_changed

_PHOTOS = (
    ("ultralytics", "assets/bus.jpg"),
    ("ultralytics", "assets/zidane.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)

TRUNCATED = "truncated.jpg"
EMPTY = "empty.jpg"
TEXT = "notes.jpg"


@dataclass(frozen=True)
class Collected:
    """What was put into the folder.

    Args:
        photos: photographs, as files in the folder.
        odd: files that hold no whole photograph, to be quarantined.
        missing: photographs that are not installed, one sentence each.
    """

    photos: list[Path]
    odd: list[Path]
    missing: list[str]


def collect_people(folder: Path) -> Collected:
    """Copy photographs with people, and two without any, out of installed packages, and add odd files beside them.

    The photographs come from ultralytics, matplotlib and scikit-learn; the packages are found, not imported. The odd
    files are an empty one, a text with the name of a photograph and, if there is a photograph, the first half of one.
    Files that hold the same content already are left untouched, with their modification times.

    Args:
        folder: where the files go.
    """
    photos: list[Path] = []
    missing: list[str] = []
    for package, inside in _PHOTOS:
        root = _package_folder(package)
        source = root / inside if root else None
        if source is None or not source.is_file():
            why = "holds no such file" if root else "is not installed"
            missing.append(f"{Path(inside).name} is left out: {package} {why}")
            continue
        target = folder / source.name
        write_if_changed(target, source.read_bytes())
        photos.append(target)
    odd = {EMPTY: b"", TEXT: b"A text file whose name says that it is a photograph.\n"}
    if photos:
        whole = photos[0].read_bytes()
        odd[TRUNCATED] = whole[: len(whole) // 2]
    for name, content in odd.items():
        write_if_changed(folder / name, content)
    return Collected(photos, [folder / name for name in sorted(odd)], missing)


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None
