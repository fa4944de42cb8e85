"""Registering sources and frames."""

import hashlib
import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.core import ids
from al_dagster.core.errors import UserError
from al_dagster.core.schemas import SOURCES
from al_dagster.registry.batches import FileEntry, claim_files
from al_dagster.registry.grouping import GroupIndex, Near, find_standing, join_groups
from al_dagster.registry.paths import newest_path, seen_files
from al_dagster.registry.sources import get_source, quarantined_files, register_frames, register_sources
from al_dagster.registry.tables import BatchFile, Frame


def row(path, content="a", perceptual_hash=0, **fields):
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    values = dict.fromkeys(SOURCES.names) | {
        "file_path": path,
        "status": "ready",
        "source_id": ids.source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "perceptual_hash": f"{perceptual_hash:064x}",
        "width": 640,
        "height": 480,
        "frame_count": 1,
        "size_bytes": 10,
        "mtime_ns": 1,
        "metadata": json.dumps({"format": "JPEG"}),
    }
    return values | fields


def broken(path, reason="empty file"):
    nothing = dict.fromkeys(SOURCES.names)
    return nothing | {"file_path": path, "status": "quarantined", "reason": reason, "size_bytes": 10, "mtime_ns": 1}


@pytest.fixture
def batch(registry):
    def claim(*paths, project="parts", mtime_ns=1):
        (key,) = claim_files(registry, project, [FileEntry(path, 10, mtime_ns) for path in paths], 100)
        return key

    return claim


def group(registry, content):
    return get_source(registry, ids.source_id(hashlib.sha256(content.encode()).hexdigest()))["group_key"]


def test_a_source_is_registered_with_its_columns(registry, batch):
    key = batch("/in/a b.jpg")
    (final,) = register_sources(registry, key, [row("/in/a b.jpg")], 6)
    assert (final["status"], final["reason"]) == ("ready", None)
    source = get_source(registry, final["source_id"])
    assert source["file_name"] == "a b.jpg"
    assert source["metadata"] == {"format": "JPEG"}
    assert (source["width"], source["height"], source["group_key"]) == (640, 480, final["source_id"])
    with registry.reader() as session:
        file = session.query(BatchFile).one()
    assert (file.status, file.source_id) == ("ready", final["source_id"])


def test_registering_again_changes_nothing(registry, batch, contents):
    key = batch("/in/a.jpg", "/in/b.jpg", "/in/c.jpg", "/in/d.jpg")
    rows = [row("/in/a.jpg"), row("/in/b.jpg", "b", 1), row("/in/c.jpg"), broken("/in/d.jpg")]
    final = register_sources(registry, key, rows, 6)
    before = contents()
    assert register_sources(registry, key, rows, 6) == final
    assert register_sources(registry, key, final, 6) == final
    assert contents() == before


def test_the_same_bytes_in_a_batch_are_a_duplicate_that_names_the_first(registry, batch):
    key = batch("/in/a.jpg", "/in/b.jpg")
    first, second = register_sources(registry, key, [row("/in/a.jpg"), row("/in/b.jpg")], 6)
    assert first["status"] == "ready"
    assert (second["status"], second["reason"]) == ("duplicate", "same content as /in/a.jpg")


def test_the_same_bytes_in_another_batch_are_a_duplicate(registry, batch):
    one, two = batch("/in/a.jpg"), batch("/in/b.jpg")
    register_sources(registry, one, [row("/in/a.jpg")], 6)
    (final,) = register_sources(registry, two, [row("/in/b.jpg")], 6)
    assert (final["status"], final["reason"]) == ("duplicate", "same content as /in/a.jpg")
    (again,) = register_sources(registry, one, [row("/in/a.jpg")], 6)
    assert again["status"] == "ready"


def test_the_same_bytes_in_another_project_are_the_same_source_and_ready(registry, batch):
    register_sources(registry, batch("/in/a.jpg"), [row("/in/a.jpg")], 6)
    (final,) = register_sources(registry, batch("/in/b.jpg", project="people"), [row("/in/b.jpg")], 6)
    assert final["status"] == "ready"
    assert get_source(registry, final["source_id"])["file_path"] == "/in/a.jpg"


def test_a_source_is_known_at_every_path_that_held_it_the_newest_first(registry, batch, tmp_path):
    old, new = tmp_path / "old.jpg", tmp_path / "new.jpg"
    old.write_text("a")
    (first,) = register_sources(registry, batch(str(old)), [row(str(old))], 6)
    old.rename(new)
    register_sources(registry, batch(str(new)), [row(str(new))], 6)
    assert newest_path(registry, first["source_id"], "parts") == str(new)
    files = seen_files(registry, [first["source_id"]], "parts")[first["source_id"]]
    assert [file.file_path for file in files] == [str(new), str(old)]


def test_a_file_that_can_no_longer_be_read_is_still_known_to_have_held_its_source(registry, batch):
    key = batch("/in/a.jpg")
    (first,) = register_sources(registry, key, [row("/in/a.jpg")], 6)
    gone = {**row("/in/a.jpg"), "status": "quarantined", "reason": "has vanished", "source_id": None}
    register_sources(registry, key, [gone], 6)
    assert newest_path(registry, first["source_id"], "parts") == "/in/a.jpg"
    assert [path for _, path, _ in quarantined_files(registry)] == ["/in/a.jpg"]


def test_a_near_duplicate_joins_the_group_of_the_nearest_source(registry, batch):
    register_sources(
        registry,
        batch("/in/a.jpg", "/in/b.jpg"),
        [row("/in/a.jpg", "a", 0), row("/in/b.jpg", "b", (1 << 256) - 1)],
        6,
    )
    rows = [row("/in/c.jpg", "c", 0b111111), row("/in/d.jpg", "d", 0b1111111), row("/in/e.jpg", "e", 1 << 100)]
    register_sources(registry, batch("/in/c.jpg", "/in/d.jpg", "/in/e.jpg"), rows, 6)
    assert group(registry, "b") != group(registry, "a")
    assert group(registry, "c") == group(registry, "a")
    assert group(registry, "d") == group(registry, "a")  # within reach of c, which stands before it
    assert group(registry, "e") == group(registry, "a")


def test_a_source_out_of_reach_is_its_own_group(registry, batch):
    rows = [row("/in/a.jpg", "a", 0), row("/in/b.jpg", "b", 0b1111111)]
    register_sources(registry, batch("/in/a.jpg", "/in/b.jpg"), rows, 6)
    assert group(registry, "b") != group(registry, "a")


def test_a_group_never_changes(registry, batch):
    rows = [row("/in/a.jpg", "a", 0), row("/in/b.jpg", "b", 0b1111111)]
    key = batch("/in/a.jpg", "/in/b.jpg")
    register_sources(registry, key, rows, 6)
    before = group(registry, "b")
    register_sources(registry, key, rows, 255)
    assert group(registry, "b") == before


def test_a_source_without_a_perceptual_hash_is_its_own_group(registry, batch):
    rows = [row("/in/a.jpg", "a", 0), row("/in/b.jpg", "b", perceptual_hash=0) | {"perceptual_hash": None}]
    register_sources(registry, batch("/in/a.jpg", "/in/b.jpg"), rows, 255)
    assert group(registry, "b") != group(registry, "a")


def test_a_quarantined_file_is_kept_with_its_reason_and_is_no_source(registry, batch):
    register_sources(registry, batch("/in/a.jpg"), [broken("/in/a.jpg")], 6)
    register_sources(registry, batch("/in/b.jpg", project="people"), [broken("/in/b.jpg", "truncated")], 6)
    assert quarantined_files(registry) == [
        ("parts", "/in/a.jpg", "empty file"),
        ("people", "/in/b.jpg", "truncated"),
    ]
    assert quarantined_files(registry, "people") == [("people", "/in/b.jpg", "truncated")]


def test_a_file_that_was_put_right_is_no_longer_quarantined(registry, batch):
    register_sources(registry, batch("/in/a.jpg"), [broken("/in/a.jpg")], 6)
    register_sources(registry, batch("/in/a.jpg", mtime_ns=2), [row("/in/a.jpg")], 6)
    assert quarantined_files(registry) == []


def test_a_row_of_another_batch_is_refused_and_nothing_is_written(registry, batch, contents):
    key = batch("/in/a.jpg")
    before = contents()
    with pytest.raises(ValueError, match=r"/in/b\.jpg is not in the batch"):
        register_sources(registry, key, [row("/in/a.jpg"), row("/in/b.jpg", "b")], 6)
    assert contents() == before


def test_unknown_batches_and_sources_are_clear_errors(registry):
    with pytest.raises(UserError, match="there is no batch 'parts--x'"):
        register_sources(registry, "parts--x", [], 6)
    with pytest.raises(UserError, match="there is no source 'src_x'"):
        get_source(registry, "src_x")


def test_frames_are_registered_once(registry, batch):
    (source,) = register_sources(registry, batch("/in/a.jpg"), [row("/in/a.jpg")], 6)
    frame = {"frame_id": "frm_a", "source_id": source["source_id"], "frame_idx": 0, "timestamp_ms": 0}
    register_frames(registry, [frame | {"file_path": "/in/a.jpg", "sha256": "", "width": 1, "height": 1}])
    register_frames(registry, [frame])
    with registry.reader() as session:
        assert [found.source_id for found in session.query(Frame)] == [source["source_id"]]


hashes = st.lists(st.integers(0, 2**256 - 1), max_size=6)


@settings(max_examples=60)
@given(known=hashes, added=hashes, wanted=st.integers(0, 2**256 - 1), distance=st.integers(0, 255))
def test_the_nearest_hash_is_found(known, added, wanted, distance):
    everything = known + added
    index = GroupIndex([f"{value:064x}" for value in known], [str(i) for i in range(len(known))])
    for i, value in enumerate(added, start=len(known)):
        index.add(f"{value:064x}", str(i))
    reach = [((value ^ wanted).bit_count(), i) for i, value in enumerate(everything)]
    near = [(bits, i) for bits, i in reach if bits <= distance]
    expected = Near(*min(near), str(min(near)[1])) if near else None
    assert index.nearest(f"{wanted:064x}", distance) == expected


def test_a_hash_of_another_length_is_refused():
    with pytest.raises(ValueError, match="64 hex characters"):
        GroupIndex(["ff"], ["a"])


def all_pairs(hashes: list[int], distance: int) -> list[int]:
    """The group of each hash as the place of its first member, each compared with all before it."""
    groups: list[int] = []
    for place, value in enumerate(hashes):
        near = [((value ^ other).bit_count(), i) for i, other in enumerate(hashes[:place])]
        bits, nearest = min(near, default=(257, place))
        groups.append(groups[nearest] if bits <= distance else place)
    return groups


@pytest.mark.parametrize("distance", [0, 1, 6, 7, 8, 20])
def test_groups_are_those_of_comparing_all_with_all_however_they_are_cut_into_batches(registry, batch, distance):
    random = Random(distance)
    hashes = [random.getrandbits(256) for _ in range(12)]
    while len(hashes) < 150:
        flipped = random.sample(range(256), random.randint(0, distance + 2))
        hashes.append(random.choice(hashes) ^ sum(1 << bit for bit in flipped))
    paths = [f"/in/{place}.jpg" for place in range(len(hashes))]
    start = 0
    while start < len(hashes):
        stop = start + random.randint(1, 40)
        rows = [row(path, path, value) for path, value in zip(paths[start:stop], hashes[start:stop], strict=True)]
        register_sources(registry, batch(*paths[start:stop]), rows, distance)
        start = stop
    expected = all_pairs(hashes, distance)
    assert [group(registry, path) for path in paths] == [group(registry, paths[first]) for first in expected]
    assert len({group(registry, path) for path in paths}) == len(set(expected))


def test_what_another_process_registered_since_it_was_looked_for_is_joined_too(registry, batch):
    with registry.reader() as session:
        near = find_standing(session, [f"{3:064x}"], 6)
    register_sources(registry, batch("/in/a.jpg"), [row("/in/a.jpg", "a", 0)], 6)
    with registry.session() as session:
        groups = join_groups(session, [("src_new", f"{3:064x}"), ("src_none", None)], near, 6)
    assert groups == [group(registry, "a"), "src_none"]
