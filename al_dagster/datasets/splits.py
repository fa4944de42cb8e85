"""Splits by group: where an image goes never changes, and an independent check that no split leaks into another."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from al_dagster.datasets.definition import SplitRatios

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_HASH_BYTES = 32
_PAIRS_AT_ONCE = 1 << 22


def split_of(group_key: str, ratios: SplitRatios) -> Split:
    """The split of a group: a hash of its key, spread over 0–1 and cut at the cumulative ratios.

    It depends on nothing else, so it stays as the data grows.
    """
    position = int.from_bytes(hashlib.sha256(group_key.encode()).digest()[:8], "big") / 2**64
    reached = 0.0
    # The last split that has a share takes the rest, so that rounding gives nothing to one that has none.
    *others, last = [split for split in SPLITS if getattr(ratios, split) > 0]
    for split in others:
        reached += getattr(ratios, split)
        if position < reached:
            return split
    return last


@dataclass(frozen=True)
class Leak:
    """Two images in different splits that are the same picture, or nearly.

    Args:
        first: index of one image.
        second: index of the other, the larger.
        distance: bits in which their perceptual hashes differ; 0 for the same bytes.
    """

    first: int
    second: int
    distance: int


def near_duplicate_leaks(
    splits: Sequence[str], perceptual_hashes: Sequence[str | None], sha256s: Sequence[str], distance: int
) -> list[Leak]:
    """Every pair of images in different splits with the same bytes or with perceptual hashes within the distance.

    It looks at the pictures alone and knows nothing of groups.

    Args:
        splits: the split of each of n images.
        perceptual_hashes: 64 hex characters of each; None where there is none.
        sha256s: hash of each file's bytes.
        distance: most bits in which near-duplicates differ.

    Returns:
        Leaks in the order of their second image, then their first.
    """
    found: dict[tuple[int, int], int] = {}
    hashed = np.array([index for index, value in enumerate(perceptual_hashes) if value is not None], dtype=np.int64)
    words = _words([value for value in perceptual_hashes if value is not None])
    of_split = np.array(splits, dtype=object)[hashed] if len(hashed) else np.empty(0, dtype=object)
    for one, other in combinations(sorted(set(splits)), 2):
        rows, columns = np.flatnonzero(of_split == one), np.flatnonzero(of_split == other)
        for row, column, bits in _near_pairs(words[rows], words[columns], distance):
            pair = sorted((int(hashed[rows[row]]), int(hashed[columns[column]])))
            found[pair[0], pair[1]] = bits
    same_bytes: dict[str, list[int]] = {}
    for index, value in enumerate(sha256s):
        same_bytes.setdefault(value, []).append(index)
    for indices in same_bytes.values():
        found.update({pair: 0 for pair in combinations(indices, 2) if splits[pair[0]] != splits[pair[1]]})
    return [Leak(first, second, found[first, second]) for first, second in sorted(found, key=lambda pair: pair[::-1])]


def hold_out(leaks: Sequence[Leak]) -> dict[int, Leak]:
    """Which images to leave out so that no leak remains: of each pair the later one, unless the earlier is out already.

    Whether an image stays depends on earlier images only, so new images never push out old ones.

    Args:
        leaks: pairs of indices of images in the order of their registration.

    Returns:
        The leak for which each image is left out, by its index.
    """
    out: dict[int, Leak] = {}
    for leak in sorted(leaks, key=lambda leak: (leak.second, leak.first)):
        if leak.first not in out and leak.second not in out:
            out[leak.second] = leak
    return out


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    if any(len(value) != 2 * _HASH_BYTES for value in hashes):
        raise ValueError(f"a perceptual hash must be {2 * _HASH_BYTES} hex characters")
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, _HASH_BYTES // 8)


def _near_pairs(first: NDArray[np.uint64], second: NDArray[np.uint64], distance: int) -> list[tuple[int, int, int]]:
    """Rows (n, 4) and (m, 4) of 256 bits that differ in at most ``distance``: (row, row, bits)."""
    pairs: list[tuple[int, int, int]] = []
    step = max(1, _PAIRS_AT_ONCE // max(1, len(second)))
    for start in range(0, len(first), step):
        chunk = first[start : start + step]
        bits = np.zeros((len(chunk), len(second)), dtype=np.uint16)
        for word in range(first.shape[1]):
            bits += np.bitwise_count(chunk[:, word, None] ^ second[None, :, word])
        rows, columns = np.nonzero(bits <= distance)
        pairs.extend(zip((rows + start).tolist(), columns.tolist(), bits[rows, columns].tolist(), strict=True))
    return pairs
