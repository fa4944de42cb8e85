"""Which files are neighbours in one recording: frames of a video, or photos of a burst, kept as numbered files.

Candidates are files of one folder whose names differ in one number that counts up. Two that follow each other belong
together if they were taken within two seconds of each other, or if the picture hardly changes between them. What
"hardly" means is measured on the files themselves, for what differs little in general proves nothing: photos that a
fixed camera takes of a different part each time are alike, but the neighbours among them no more than any others.

Measured without capture times, as the share of steps from one file to the next that are linked:

=============================================================  =========
no recordings
=============================================================  =========
64 photos of COCO, 80 scenes of the demonstration              0 %
106 photos of blood smears (BCCD)                              1 %
60 photos by a fixed camera, parts of 40 px and more anywhere  0–1 %
the same, parts in a fixture (± 12 px)                         7 %
the same, one kind of part on a blank table (± 8 px)           9 %
the same, parts of 10–20 px before a busy background           2–16 %
the same, parts of 5–10 px, which hardly change a thumbnail    24–38 %
=============================================================  =========

=============================================================  =========
recordings
=============================================================  =========
still camera, one part moving 2 px a frame                     100 %
pan by 8 px a frame, zoom, tripod                              100 %
pan by 30 px and by 80 px a frame                              81 %, 77 %
walk, jitter of 10 px, jitter of 25 px                         96, 80, 59 %
burst of three from the hand                                   72 %
three films of 25–30 frames a second                           98–100 %
the same, every fifth frame; every tenth                       80–91; 27–63 %
the same, a frame a second                                     20–67 %
=============================================================  =========
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from al_dagster.registry.camera_motion import SIDE, is_textured, only_the_camera_moved, shifted_difference

REACH = 128
"""How many files before and after a file say how much pictures of its run differ in general."""

_MAX_STEPS = 5  # a number may jump by so many of the run's usual steps
_MAX_SECONDS = 2.0
_MAX_SAME_TIME = 30  # more files of one moment were not taken then: it is when they were exported
_REFERENCES, _SHIFTED_REFERENCES = 12, 4  # others, to each side, that the usual difference is taken from
_SMALL, _MODERATE = 0.6, 0.85  # shares of the usual difference
_BLANK = 0.5  # contrast in grey levels (root mean square) below which a picture is blank
_CHUNK = 2048

_NUMBER = re.compile(r"\d+")
_UPLOAD_HASH = re.compile(r"\.rf\.[0-9a-zA-Z]{8,}$")  # Roboflow's, different for each file

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """What is known of a file.

    Args:
        path: its path.
        captured_at: when the camera took it, by the camera's clock.
        thumbnail: its picture, 32×32 grey levels of one byte each, row by row.
    """

    path: str
    captured_at: datetime | None
    thumbnail: bytes | None


def recording_pairs(files: Sequence[RecordedFile]) -> list[tuple[int, int]]:
    """Pairs of files that follow each other in one recording.

    Args:
        files: files of any folders, in any order.

    Returns:
        Indices of the earlier and the later file, sorted; a file is in several pairs where the recording goes on.

    Raises:
        ValueError: a thumbnail has another size.
    """
    grey = _thumbnails(files)
    pairs: set[tuple[int, int]] = set()
    for run in numbered_runs([file.path for file in files]):
        order = np.array(run)
        linked = _close_in_time([files[index].captured_at for index in run])
        seen = np.array([files[index].thumbnail is not None for index in run])
        linked |= seen[:-1] & seen[1:] & _alike(grey, order, seen)
        pairs.update((run[step], run[step + 1]) for step in np.flatnonzero(linked))
    return sorted(pairs)


def numbered_runs(paths: Sequence[str]) -> list[list[int]]:
    """Runs of two or more files of one folder whose names differ in one number, which counts up.

    Any number of the name may be the one that counts. A run ends where the number jumps by more than five of the run's
    usual steps, so that every thirtieth frame of a video is a run as every frame is.

    Args:
        paths: paths, in any order.

    Returns:
        The indices of the files of each run, in the order of their numbers.
    """
    series: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for index, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        suffix = PurePath(name).suffix
        stem = _UPLOAD_HASH.sub("", name.removesuffix(suffix))
        for number in _NUMBER.finditer(stem):
            key = (folder, stem[: number.start()], stem[number.end() :] + suffix.lower())
            series.setdefault(key, []).append((int(number[0]), index))
    runs: list[list[int]] = []
    for members in series.values():
        if len(members) > 1:
            runs.extend(_unbroken(sorted(members)))
    return runs


def _unbroken(members: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    steps = [after - before for (before, _), (after, _) in pairwise(members)]
    usual = sorted(step for step in steps if step) or [1]
    longest = _MAX_STEPS * usual[(len(usual) - 1) // 2]
    start = 0
    for place, step in enumerate([*steps, longest + 1], start=1):
        if step > longest:
            if place - start > 1:
                yield [index for _, index in members[start:place]]
            start = place


def _thumbnails(files: Sequence[RecordedFile]) -> NDArray[np.uint8]:
    """(n, 1024) uint8; black where a file has none."""
    size = SIDE * SIDE
    wrong = [file.path for file in files if file.thumbnail is not None and len(file.thumbnail) != size]
    if wrong:
        raise ValueError(f"{wrong[0]}: a thumbnail has {size} bytes")
    return np.frombuffer(b"".join(file.thumbnail or bytes(size) for file in files), np.uint8).reshape(-1, size)


def _close_in_time(times: Sequence[datetime | None]) -> NDArray[np.bool_]:
    """For each step of a run, whether the later file was taken at most two seconds after the earlier."""
    count: dict[datetime, int] = {}
    for time in times:
        if time is not None:
            count[time] = count.get(time, 0) + 1
    trusted = [None if time is None or count[time] > _MAX_SAME_TIME else time for time in times]
    return np.array(
        [
            before is not None and after is not None and 0 <= (after - before).total_seconds() <= _MAX_SECONDS
            for before, after in pairwise(trusted)
        ],
        dtype=bool,
    )


def _alike(grey: NDArray[np.uint8], run: NDArray[np.int64], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each step of a run, whether the picture hardly changes; steps between small ones may be somewhat larger."""
    known = seen[:-1] & seen[1:]
    pictures = _evened(grey[run])
    share = _share_of_usual(pictures, seen, _difference, _REFERENCES)
    small = known & (share <= _SMALL)
    rest = np.flatnonzero(known & ~small)
    if len(rest):
        textured = _textured(grey[run])
        shifted = _share_of_usual(pictures, seen, shifted_difference, _SHIFTED_REFERENCES)
        share = np.minimum(share, np.where(textured[:-1] & textured[1:], shifted, np.inf))
        small = known & (share <= _SMALL)
    for start in range(0, len(rest), _CHUNK):
        chunk = rest[start : start + _CHUNK]
        small[chunk] |= only_the_camera_moved(grey[run[chunk]], grey[run[chunk + 1]])
    fitting = small | (known & (share <= _MODERATE))
    stretch = np.cumsum(~fitting)
    mostly_small = 2 * np.bincount(stretch, small) >= np.bincount(stretch, fitting)
    return fitting & mostly_small[stretch]


def _textured(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    chunks = [is_textured(grey[start : start + _CHUNK]) for start in range(0, len(grey), _CHUNK)]
    return np.concatenate(chunks)


def _share_of_usual(
    pictures: _Floats, seen: NDArray[np.bool_], differ: Callable[[_Floats, _Floats], _Floats], references: int
) -> _Floats:
    """For each step of a run, its difference as a share of what its files usually differ by; infinite if unknown.

    Usual is the lower quartile of the differences from others within reach, so that pictures of a few kinds that take
    turns do not look like a recording of each kind. Three files have nothing to compare with.

    Args:
        pictures: (n, 1024), in the order of the run.
        seen: (n,), which of them are known.
        differ: how much pictures differ, pair by pair.
        references: how many others, to each side, are compared with.
    """
    count = len(pictures)
    reach = min(count, 2 * REACH) // 2
    spread = np.linspace(max(2, reach // 4), reach, references if reach > 1 else 0)
    offsets = np.unique(spread.astype(int)).tolist()
    others = np.full((count, 2 * len(offsets) + 1), np.inf, dtype=np.float32)
    for column, offset in enumerate(offsets):
        apart = _apart(pictures, offset, differ)
        apart[~(seen[:-offset] & seen[offset:])] = np.inf
        others[:-offset, 2 * column] = apart
        others[offset:, 2 * column + 1] = apart
    others.sort(axis=1)
    finite = np.isfinite(others).sum(axis=1)
    usual = np.where(finite > 0, others[np.arange(count), np.maximum(finite - 1, 0) // 4], 0)
    usual = np.minimum(usual[:-1], usual[1:])
    unknown = np.full(count - 1, np.inf, dtype=np.float32)
    return np.divide(_apart(pictures, 1, differ), usual, where=usual > 0, out=unknown)


def _apart(pictures: _Floats, offset: int, differ: Callable[[_Floats, _Floats], _Floats]) -> _Floats:
    """(n - offset,): how much each picture and the one so many places after it differ."""
    found = np.empty(len(pictures) - offset, dtype=np.float32)
    for start in range(0, len(found), _CHUNK):
        stop = min(start + _CHUNK, len(found))
        found[start:stop] = differ(pictures[start:stop], pictures[start + offset : stop + offset])
    return found


def _difference(first: _Floats, second: _Floats) -> _Floats:
    distance: _Floats = np.linalg.norm(first - second, axis=1)
    return distance


def _evened(grey: NDArray[np.uint8]) -> _Floats:
    """Pictures (n, 1024) without brightness, contrast and an even slope of light, with L2 norm 1 where not blank."""
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1).astype(np.float32)
    light, _ = np.linalg.qr(np.stack([np.ones_like(x), x, y], axis=1))
    evened = np.empty(grey.shape, dtype=np.float32)
    for start in range(0, len(grey), _CHUNK):
        pictures = grey[start : start + _CHUNK].astype(np.float32)
        pictures -= (pictures @ light) @ light.T
        norm = np.linalg.norm(pictures, axis=1, keepdims=True)
        evened[start : start + _CHUNK] = pictures / np.maximum(norm, _BLANK * SIDE)
    return evened
