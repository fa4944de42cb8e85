"""Claiming files for batches."""

import multiprocessing

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.ids import batch_project
from al_dagster.registry.batches import FileEntry, batch_manifest, claim_files, list_batches
from al_dagster.registry.database import open_registry


def entries(count: int) -> list[FileEntry]:
    return [FileEntry(f"/inbox/parts/사진 '{i}'\n.jpg", 100 + i, 1_700_000_000_000_000_000 + i) for i in range(count)]


def claim_in_process(url: str) -> list[str]:
    registry = open_registry(url)
    keys = [key for files in (entries(30), entries(60)) for key in claim_files(registry, "parts", files, 7)]
    registry.dispose()
    return keys


def test_files_are_cut_into_batches_in_their_order(registry):
    keys = claim_files(registry, "parts", entries(5), 2)
    assert [batch_manifest(registry, key) for key in keys] == [entries(5)[:2], entries(5)[2:4], entries(5)[4:]]
    assert {batch_project(key) for key in keys} == {"parts"}


def test_a_claimed_file_is_not_claimed_again(registry):
    claim_files(registry, "parts", entries(3), 10)
    assert claim_files(registry, "parts", entries(3), 10) == []
    (second,) = claim_files(registry, "parts", entries(4), 10)
    assert batch_manifest(registry, second) == entries(4)[3:]


def test_a_file_that_changed_is_claimed_again(registry):
    old = FileEntry("/inbox/a.jpg", 10, 1)
    for changed in (FileEntry("/inbox/a.jpg", 11, 1), FileEntry("/inbox/a.jpg", 10, 2)):
        claim_files(registry, "parts", [old], 10)
        (key,) = claim_files(registry, "parts", [old, changed], 10)
        assert batch_manifest(registry, key) == [changed]


def test_the_same_entry_given_twice_is_claimed_once(registry):
    (key,) = claim_files(registry, "parts", entries(1) * 3, 10)
    assert batch_manifest(registry, key) == entries(1)


def test_another_project_claims_for_itself(registry):
    assert len(claim_files(registry, "parts", entries(1), 10)) == 1
    assert len(claim_files(registry, "people", entries(1), 10)) == 1


def test_concurrent_claims_by_several_processes_claim_each_file_once(registry, registry_url):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        keys = [key for claimed in pool.map(claim_in_process, [registry_url] * 3) for key in claimed]
    assert sorted(keys) == sorted(list_batches(registry))
    claimed = [entry for key in keys for entry in batch_manifest(registry, key)]
    assert sorted(claimed, key=lambda entry: entry.size_bytes) == entries(60)


def test_batches_are_listed_oldest_first(registry):
    first = claim_files(registry, "parts", entries(40), 1)
    second = claim_files(registry, "people", entries(2), 1)
    assert list_batches(registry) == first + second
    assert list_batches(registry, "people") == second
    assert list_batches(registry, "cars") == []


def test_more_batches_than_keys_in_a_second_can_be_claimed(registry):
    files = [FileEntry(f"/inbox/{i}.jpg", 1, 1) for i in range(2500)]
    keys = claim_files(registry, "parts", files, 1)
    assert len(set(keys)) == 2500
    assert list_batches(registry) == keys


def test_an_unknown_batch_is_an_error(registry):
    with pytest.raises(UserError, match="there is no batch 'parts--x'"):
        batch_manifest(registry, "parts--x")


def test_a_batch_size_below_one_is_refused(registry):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        claim_files(registry, "parts", entries(1), 0)
