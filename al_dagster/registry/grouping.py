"""Which sources belong together: nearest perceptual hash among those registered before."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 256
WORDS = HASH_BITS // 64
SPARE_ROWS = 256


class GroupIndex:
    """Perceptual hashes of registered sources with their group keys, searched by Hamming distance.

    Args:
        hashes: 64 hex characters each, oldest source first.
        group_keys: one for each hash.
    """

    def __init__(self, hashes: Sequence[str], group_keys: Sequence[str]) -> None:
        self._words = _words(hashes)
        self._keys = list(group_keys)

    def nearest(self, perceptual_hash: str, max_distance: int) -> str | None:
        """The group key of the nearest source within this many bits, the oldest of equally near ones, or None."""
        if not self._keys:
            return None
        differing = self._words[: len(self._keys)] ^ _words([perceptual_hash])
        distances = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
        best = int(distances.argmin())
        return self._keys[best] if distances[best] <= max_distance else None

    def add(self, perceptual_hash: str, group_key: str) -> None:
        """Make a newly registered source known to later searches."""
        count = len(self._keys)
        if count == len(self._words):
            room = np.zeros((max(count, SPARE_ROWS), WORDS), dtype=np.uint64)
            self._words = np.concatenate([self._words, room])
        self._words[count] = _words([perceptual_hash])
        self._keys.append(group_key)


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    wrong = [value for value in hashes if len(value) * 4 != HASH_BITS]
    if wrong:
        raise ValueError(f"a perceptual hash has {HASH_BITS // 4} hex characters, got {wrong[0]!r}")
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, WORDS)
