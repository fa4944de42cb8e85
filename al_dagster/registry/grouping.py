"""Which sources belong together: nearest perceptual hash among those registered before.

A hash is cut into eight bands. Two hashes that differ in fewer bits than there are bands have one in common, so that
only hashes with a common band are compared, which an index finds; for a larger distance all are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from al_dagster.registry.base import bulk_insert, chunked
from al_dagster.registry.tables import HashBand, PerceptualHash

HASH_BITS = 256
WORDS = HASH_BITS // 64
BANDS = 8
SPARE_ROWS = 256
_LOOKED_UP_AT_ONCE = 500 // BANDS
_READ_AT_ONCE = 20_000


@dataclass(frozen=True, order=True)
class Near:
    """A hash that is near: the bits in which it differs, its place in the order of registration and its group."""

    distance: int
    hash_id: int
    group_key: str


@dataclass(frozen=True)
class Standing:
    """What was found among the hashes that stood when it was looked for.

    Args:
        last_id: the newest of them.
        nearest: by hash, the nearest of them, the oldest of equally near ones.
    """

    last_id: int
    nearest: dict[str, Near]


class GroupIndex:
    """Perceptual hashes of registered sources with their group keys, searched by Hamming distance.

    Args:
        hashes: 64 hex characters each, oldest source first.
        group_keys: one for each hash.
    """

    def __init__(self, hashes: Sequence[str], group_keys: Sequence[str]) -> None:
        self._words = _words(hashes)
        self._keys = list(group_keys)

    def nearest(self, perceptual_hash: str, max_distance: int) -> Near | None:
        """The nearest hash within this many bits, the oldest of equally near ones, or None."""
        if not self._keys:
            return None
        differing = self._words[: len(self._keys)] ^ _words([perceptual_hash])
        distances = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
        best = int(distances.argmin())
        near = Near(int(distances[best]), best, self._keys[best])
        return near if near.distance <= max_distance else None

    def add(self, perceptual_hash: str, group_key: str) -> None:
        """Make a newly registered source known to later searches."""
        count = len(self._keys)
        if count == len(self._words):
            room = np.zeros((max(count, SPARE_ROWS), WORDS), dtype=np.uint64)
            self._words = np.concatenate([self._words, room])
        self._words[count] = _words([perceptual_hash])
        self._keys.append(group_key)


def find_standing(session: Session, hashes: Sequence[str], max_distance: int) -> Standing:
    """Look for near-duplicates of new files among all that are registered; needs no write transaction.

    Args:
        session: for reading.
        hashes: 64 hex characters each.
        max_distance: most differing bits.
    """
    last_id = session.scalar(select(func.max(PerceptualHash.hash_id))) or 0
    wanted = list(dict.fromkeys(hashes))
    search = _share_a_band if max_distance < BANDS else _all
    nearest: dict[str, Near] = {}
    for value, near in search(session, wanted) if wanted else ():
        if near.distance <= max_distance and (value not in nearest or near < nearest[value]):
            nearest[value] = near
    return Standing(last_id, nearest)


def join_groups(
    session: Session, sources: Sequence[tuple[str, str | None]], standing: Standing, max_distance: int
) -> list[str]:
    """The groups of new sources, whose hashes are known to later searches from then on.

    Args:
        session: a write transaction.
        sources: id and perceptual hash of each, in the order of their registration.
        standing: what ``find_standing`` gave for their hashes with this distance; what came since is looked at here.
        max_distance: most differing bits.
    """
    later = session.execute(
        select(PerceptualHash.perceptual_hash, PerceptualHash.group_key)
        .where(PerceptualHash.hash_id > standing.last_id)
        .order_by(PerceptualHash.hash_id)
    ).all()
    index = GroupIndex([row[0] for row in later], [row[1] for row in later])
    last_id = session.scalar(select(func.max(PerceptualHash.hash_id))) or 0
    groups, new = [], []
    for source_id, value in sources:
        if value is None:
            groups.append(source_id)
            continue
        found = [near for near in (standing.nearest.get(value), index.nearest(value, max_distance)) if near]
        near = min(found, key=lambda one: one.distance, default=None)
        groups.append(near.group_key if near else source_id)
        if near is None or near.distance > 0:
            index.add(value, groups[-1])
            new.append((value, groups[-1]))
    hash_ids = range(last_id + 1, last_id + 1 + len(new))
    rows = [
        {"hash_id": hash_id, "perceptual_hash": value, "group_key": key}
        for hash_id, (value, key) in zip(hash_ids, new, strict=True)
    ]
    bulk_insert(session, PerceptualHash, rows)
    bands = _bands([value for value, _ in new])
    bulk_insert(
        session,
        HashBand,
        [{"band": band, "hash_id": hash_id} for hash_id, row in zip(hash_ids, bands, strict=True) for band in row],
    )
    return groups


def _share_a_band(session: Session, hashes: Sequence[str]) -> Iterator[tuple[str, Near]]:
    """Each of the hashes with every registered one that shares a band with it, by distance."""
    columns = (HashBand.band, PerceptualHash.hash_id, PerceptualHash.perceptual_hash, PerceptualHash.group_key)
    for chunk in chunked(hashes, _LOOKED_UP_AT_ONCE):
        of_band: dict[int, list[str]] = {}
        for value, bands in zip(chunk, _bands(chunk), strict=True):
            for band in bands:
                of_band.setdefault(band, []).append(value)
        found = session.execute(
            select(*columns)
            .join(PerceptualHash, PerceptualHash.hash_id == HashBand.hash_id)
            .where(HashBand.band.in_(list(of_band)))
        )
        for band, hash_id, other, key in found:
            for value in of_band[band]:
                yield value, Near((int(value, 16) ^ int(other, 16)).bit_count(), hash_id, key)


def _all(session: Session, hashes: Sequence[str]) -> Iterator[tuple[str, Near]]:
    """Each of the hashes with the nearest of every piece of the registered ones."""
    columns = (PerceptualHash.hash_id, PerceptualHash.perceptual_hash, PerceptualHash.group_key)
    for rows in session.execute(select(*columns).order_by(PerceptualHash.hash_id)).partitions(_READ_AT_ONCE):
        index = GroupIndex([row[1] for row in rows], [row[2] for row in rows])
        for value in hashes:
            near = index.nearest(value, HASH_BITS)
            if near:
                yield value, Near(near.distance, rows[near.hash_id][0], near.group_key)


def _bands(hashes: Sequence[str]) -> list[list[int]]:
    """The bands of each hash as numbers, with the place of the band in the bits above 32.

    Every eighth bit is in a band: bits beside each other tell of the same part of a picture, so that bands of them
    would be alike in many.
    """
    bits = np.unpackbits(_words(hashes).view(np.uint8), axis=1).reshape(-1, HASH_BITS // BANDS, BANDS)
    values = np.ascontiguousarray(np.packbits(bits.transpose(0, 2, 1), axis=2)).view(">u4")[:, :, 0].astype(np.int64)
    bands: list[list[int]] = (values | (np.arange(BANDS, dtype=np.int64) << 32)).tolist()
    return bands


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    wrong = [value for value in hashes if len(value) * 4 != HASH_BITS]
    if wrong:
        raise ValueError(f"a perceptual hash has {HASH_BITS // 4} hex characters, got {wrong[0]!r}")
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, WORDS)
