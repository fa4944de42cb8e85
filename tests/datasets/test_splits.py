from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.core.ids import digest
from al_dagster.datasets.definition import SplitRatios
from al_dagster.datasets.splits import SPLITS, hold_out, near_duplicate_leaks, split_of

shares = st.integers(0, 20)
ratios = st.builds(
    lambda train, val, test: SplitRatios(
        train=train / (train + val + test), val=val / (train + val + test), test=test / (train + val + test)
    ),
    st.integers(1, 20),
    shares,
    shares,
)


@given(st.text(), ratios)
def test_a_group_is_always_in_the_same_split_and_never_in_one_without_a_share(key: str, ratios: SplitRatios):
    split = split_of(key, ratios)

    assert split == split_of(key, ratios)
    assert getattr(ratios, split) > 0


@given(ratios)
@settings(max_examples=20)
def test_ratios_hold_in_expectation(ratios: SplitRatios):
    drawn = [split_of(f"src_{digest(index)}", ratios) for index in range(3000)]

    for split in SPLITS:
        share = getattr(ratios, split)
        allowed = 5 * np.sqrt(share * (1 - share) / len(drawn)) + 1e-9
        assert abs(drawn.count(split) / len(drawn) - share) <= allowed


def test_known_groups_are_where_they_have_always_been():
    # Datasets of earlier versions rely on it: a change of the hash would turn test images into training images.
    held = {10: "val", 16: "test", 17: "test", 18: "test", 28: "test"}

    for index in range(30):
        assert split_of(f"src_{index}", SplitRatios()) == held.get(index, "train")


def test_enlarging_the_training_share_takes_no_image_out_of_it():
    keys = [f"src_{digest(index)}" for index in range(500)]
    smaller, larger = SplitRatios(train=0.6, val=0.2, test=0.2), SplitRatios(train=0.8, val=0.1, test=0.1)

    assert all(split_of(key, larger) == "train" for key in keys if split_of(key, smaller) == "train")


hashes = st.lists(
    st.tuples(st.sampled_from(SPLITS), st.one_of(st.none(), st.integers(0, 2**12 - 1)), st.integers(0, 30)), max_size=25
)


@given(hashes, st.integers(0, 20))
def test_leaks_are_exactly_the_near_pairs_across_splits(images: list[tuple[str, int | None, int]], distance: int):
    splits = [split for split, _, _ in images]
    # The bits are spread over all four words of the hash.
    values = [None if bits is None else sum(((bits >> i) & 1) << (i * 21) for i in range(12)) for _, bits, _ in images]
    texts = [None if value is None else f"{value:064x}" for value in values]
    sha256s = [str(content) for _, _, content in images]

    expected = set()
    for first, second in combinations(range(len(images)), 2):
        a, b = values[first], values[second]
        near = a is not None and b is not None and (a ^ b).bit_count() <= distance
        if splits[first] != splits[second] and (near or sha256s[first] == sha256s[second]):
            expected.add((first, second))

    leaks = near_duplicate_leaks(splits, texts, sha256s, distance)
    assert {(leak.first, leak.second) for leak in leaks} == expected
    assert len(leaks) == len(expected)

    out = hold_out(leaks)
    assert all(leak.first in out or leak.second in out for leak in leaks)
    assert all(leak.first not in out and leak.second == index for index, leak in out.items())


@given(hashes, st.integers(0, 12))
def test_new_images_never_push_out_old_ones(images: list[tuple[str, int | None, int]], distance: int):
    def kept(count: int) -> list[int]:
        splits = [split for split, _, _ in images[:count]]
        texts = [None if bits is None else f"{bits:064x}" for _, bits, _ in images[:count]]
        out = hold_out(near_duplicate_leaks(splits, texts, [str(index) for index in range(count)], distance))
        return [index for index in range(count) if index not in out]

    before = kept(len(images) // 2)
    assert [index for index in kept(len(images)) if index < len(images) // 2] == before


def test_many_images_are_compared_in_pieces():
    generator = np.random.default_rng(0)
    texts = [generator.bytes(32).hex() for _ in range(6000)]
    splits = ["train"] * 3000 + ["test"] * 3000
    texts[5999] = texts[17]
    texts[4000] = f"{int(texts[2999], 16) ^ 0b10100001:064x}"

    leaks = near_duplicate_leaks(splits, texts, [str(index) for index in range(6000)], 6)

    assert [(leak.first, leak.second, leak.distance) for leak in leaks] == [(2999, 4000, 3), (17, 5999, 0)]


@pytest.mark.parametrize("distance", [0, 2, 6, 15, 16])
def test_images_that_share_most_of_their_bits_are_compared_as_one_by_one(distance: int):
    generator = np.random.default_rng(1)
    # Of dark pictures most blocks of bits are the same, so that many have one in common.
    bits = [sum(1 << int(place) for place in generator.choice(256, generator.integers(0, 12))) for _ in range(400)]
    splits = [SPLITS[code] for code in generator.integers(0, 3, 400)]
    expected = {
        (first, second): (bits[first] ^ bits[second]).bit_count()
        for first, second in combinations(range(400), 2)
        if splits[first] != splits[second] and (bits[first] ^ bits[second]).bit_count() <= distance
    }

    leaks = near_duplicate_leaks(splits, [f"{value:064x}" for value in bits], [str(i) for i in range(400)], distance)

    assert {(leak.first, leak.second): leak.distance for leak in leaks} == expected
    assert expected


def test_a_hash_of_another_length_is_refused():
    with pytest.raises(ValueError, match="64 hex characters"):
        near_duplicate_leaks(["train"], ["abcd"], ["x"], 6)
