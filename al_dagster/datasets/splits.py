"""Splits by group: where an image goes never changes, and which images would leak from one split into another."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from al_dagster.datasets.definition import SplitRatios

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_HASH_BYTES = 32
_HASH_BITS = 8 * _HASH_BYTES
_WORD_BITS = 64
_PAIRS_AT_ONCE = 1 << 20
# Of fewer blocks one would not fit a word; of more, one is so short that most images share one with many others.
_MIN_BLOCKS, _MAX_BLOCKS = _HASH_BITS // _WORD_BITS, 16
# Of a key that more images have, all are compared with all, which takes less for each pair.
_LARGE_RUN = 128

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""First and second index, and bits in which they differ."""

_NO_PAIRS: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


def split_of(group_key: str, ratios: SplitRatios) -> Split:
    """The split of a group: a hash of its key, spread over 0–1 and cut at the cumulative ratios.

    It depends on nothing else, so it stays as the data grows.
    """
    return SPLITS[split_codes([group_key], ratios)[0]]


def split_codes(group_keys: Sequence[str], ratios: SplitRatios) -> NDArray[np.int64]:
    """The split of each group as a place in ``SPLITS``, as ``split_of`` gives it."""
    digests = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in group_keys)
    positions = np.frombuffer(digests, dtype=">u8").astype(np.float64) / 2**64
    shares = np.array([getattr(ratios, split) for split in SPLITS])
    # The last split that has a share takes the rest, so that rounding gives nothing to one that has none.
    with_share = np.flatnonzero(shares > 0)
    return with_share[np.searchsorted(np.cumsum(shares[with_share])[:-1], positions, side="right")]


@dataclass(frozen=True)
class Leak:
    """Two images in different splits that are the same picture, or nearly, or neighbours in a recording.

    Args:
        first: index of one image.
        second: index of the other, the larger.
        distance: bits in which their perceptual hashes differ; 0 for the same bytes, None for neighbours.
    """

    first: int
    second: int
    distance: int | None


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
    codes = _codes(splits)
    hashed = np.array([index for index, value in enumerate(perceptual_hashes) if value is not None], dtype=np.int64)
    words = _words([value for value in perceptual_hashes if value is not None])
    found: dict[tuple[int, int], int] = {}
    first, second, bits = _near_pairs(words, codes[hashed], distance)
    found.update(zip(zip(hashed[first].tolist(), hashed[second].tolist(), strict=True), bits.tolist(), strict=True))
    for one, other in _Runs.of(_codes(sha256s)).pairs(codes):
        found.update(dict.fromkeys(zip(one.tolist(), other.tolist(), strict=True), 0))
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


def _codes(values: Sequence[str]) -> NDArray[np.int64]:
    """A number for each different value."""
    return pa.array(values, pa.string()).dictionary_encode().indices.to_numpy().astype(np.int64)


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    if any(len(value) != 2 * _HASH_BYTES for value in hashes):
        raise ValueError(f"a perceptual hash must be {2 * _HASH_BYTES} hex characters")
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, _HASH_BYTES // 8)


def _near_pairs(words: NDArray[np.uint64], splits: NDArray[np.int64], distance: int) -> Pairs:
    """Pairs of rows (n, 4) of 256 bits, of different splits, that differ in at most ``distance`` bits.

    Cut into more blocks than the distance, two rows within it have at least one block in common, so that only rows with
    a common block are compared. For a large distance all are.
    """
    blocks = max(distance + 1, _MIN_BLOCKS)
    keys = _blocks(words, blocks) if blocks <= _MAX_BLOCKS else [np.zeros(len(words), dtype=np.uint64)]
    found = [_NO_PAIRS]
    for key in keys:
        runs = _Runs.of(key)
        found += [_of_pairs(words, *pairs, distance) for pairs in runs.pairs(splits, _LARGE_RUN)]
        for places in runs.larger_than(_LARGE_RUN):
            found += _of_rows(words, places, splits, distance)
    first, second, bits = (np.concatenate(part) for part in zip(*found, strict=True))
    once = np.unique(np.column_stack([first, second]), axis=0, return_index=True)[1]
    return first[once], second[once], bits[once]


def _blocks(words: NDArray[np.uint64], count: int) -> Iterator[NDArray[np.uint64]]:
    """The bits of each row, (n, 4), as blocks of at most 64 bits, (n,) each."""
    edges = np.linspace(0, _HASH_BITS, count + 1).astype(int).tolist()
    for start, end in pairwise(edges):
        word, shift = divmod(start, _WORD_BITS)
        block = words[:, word] >> np.uint64(shift)
        if end > (word + 1) * _WORD_BITS:
            block |= words[:, word + 1] << np.uint64(_WORD_BITS - shift)
        yield block & np.uint64((1 << (end - start)) - 1)


@dataclass(frozen=True)
class _Runs:
    """Places of equal keys.

    Args:
        order: (n,) places by key, those of one key ascending.
        starts: (k,) where in the order each key begins.
        sizes: (k,) how many places it has.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, keys: NDArray[Any]) -> "_Runs":
        order = np.argsort(keys, kind="stable")
        in_order = keys[order]
        starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1])) if len(keys) else order
        return cls(order, starts, np.diff(np.append(starts, len(keys))))

    def larger_than(self, size: int) -> list[NDArray[np.int64]]:
        """The places of each key that has more than so many."""
        large = np.flatnonzero(self.sizes > size)
        return [self.order[self.starts[run] : self.starts[run] + self.sizes[run]] for run in large]

    def pairs(
        self, splits: NDArray[np.int64], max_size: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Every pair of places, the smaller first, of one key and of different splits, in pieces.

        Args:
            splits: of every place.
            max_size: leaves out keys that have more places than this.
        """
        # Each place in the order is paired with the ones behind it in its run.
        behind = np.repeat(self.starts + self.sizes, self.sizes) - np.arange(len(self.order)) - 1
        if max_size is not None:
            behind[np.repeat(self.sizes > max_size, self.sizes)] = 0
        paired = np.flatnonzero(behind)
        pieces = np.cumsum(behind[paired]) // _PAIRS_AT_ONCE
        for piece in np.split(paired, np.flatnonzero(np.diff(pieces)) + 1):
            counts = behind[piece]
            first = np.repeat(piece, counts)
            steps = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
            one, other = self.order[first], self.order[first + steps]
            apart = splits[one] != splits[other]
            yield one[apart], other[apart]


def _of_pairs(words: NDArray[np.uint64], first: NDArray[np.int64], second: NDArray[np.int64], distance: int) -> Pairs:
    """Those of the pairs that are within the distance."""
    bits = np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64)
    near = bits <= distance
    return first[near], second[near], bits[near]


def _of_rows(
    words: NDArray[np.uint64], places: NDArray[np.int64], splits: NDArray[np.int64], distance: int
) -> list[Pairs]:
    """All pairs of some rows, of different splits, that are within the distance."""
    found = []
    for one, other in combinations(np.unique(splits[places]), 2):
        rows, columns = places[splits[places] == one], places[splits[places] == other]
        step = max(1, _PAIRS_AT_ONCE // len(columns))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            bits = np.zeros((len(chunk), len(columns)), dtype=np.uint16)
            for word in range(words.shape[1]):
                bits += np.bitwise_count(words[chunk, word, None] ^ words[None, columns, word])
            at, to = np.nonzero(bits <= distance)
            pair = np.sort(np.stack([chunk[at], columns[to]]), axis=0)
            found.append((pair[0], pair[1], bits[at, to].astype(np.int64)))
    return found
