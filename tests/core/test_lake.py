import contextlib
import threading
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_dagster.core.errors import DamagedTableError, UserError
from al_dagster.core.lake import Lake
from al_dagster.core.schemas import LAKE_SCHEMAS, VECTOR_INDEX

ASSET = "vector_index"


def table(*object_ids: str) -> pa.Table:
    return pa.table({"object_id": list(object_ids), "version_id": ["v1"] * len(object_ids)})


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "lake") if request.param == "local" else f"memory://lake-{uuid.uuid4().hex}"


@pytest.fixture
def lake(root: str) -> Lake:
    return Lake(root)


def test_what_is_written_is_read_back_in_the_declared_schema(lake, root):
    size = lake.write(ASSET, "parts--20260101T000000-ab12", table("obj_a", "obj_b"))
    assert lake.exists(ASSET, "parts--20260101T000000-ab12")
    fs, _ = fsspec.core.url_to_fs(root)
    assert size == fs.size(lake.path(ASSET, "parts--20260101T000000-ab12")) > 0
    read = lake.read(ASSET, "parts--20260101T000000-ab12")
    assert read.schema.equals(VECTOR_INDEX)
    assert read.column("object_id").to_pylist() == ["obj_a", "obj_b"]


def test_a_partition_that_is_not_stored_cannot_be_read_and_the_error_names_what_to_materialize(lake):
    assert not lake.exists(ASSET, "none")
    with pytest.raises(UserError, match=rf"{ASSET} of none is not in the lake: materialize {ASSET} first"):
        lake.read(ASSET, "none")


def test_what_a_stage_stored_last_is_empty_before_the_first_time(lake):
    assert lake.previous(ASSET, "none").equals(VECTOR_INDEX.empty_table())
    lake.write(ASSET, "none", table("obj_a"))
    assert lake.previous(ASSET, "none").num_rows == 1


@pytest.mark.parametrize("damage", ["emptied", "cut off", "flipped", "other magic"])
def test_a_damaged_table_is_absent_for_its_stage_and_for_others_an_error_that_names_what_mends_it(
    tmp_path, spoil, damage
):
    lake, key = Lake(str(tmp_path)), "my parts--20260101T000000-ab12"
    lake.write(ASSET, key, table("obj_a"))
    spoil(Path(lake.path(ASSET, key)), damage)
    assert lake.previous(ASSET, key).equals(VECTOR_INDEX.empty_table())
    with pytest.raises(DamagedTableError, match="is damaged; `al ingest --project 'my parts' --again` makes it anew"):
        lake.read(ASSET, key)
    lake.write(ASSET, key, table("obj_b"))
    assert lake.read(ASSET, key)["object_id"].to_pylist() == ["obj_b"]


def test_no_flipped_bit_is_taken_for_what_was_stored(tmp_path):
    lake = Lake(str(tmp_path))
    stored = table(*(f"obj_{number}" for number in range(9))).replace_schema_metadata({"kept": "what was looked at"})
    lake.write(ASSET, "a", stored)
    path = Path(lake.path(ASSET, "a"))
    content, good = path.read_bytes(), lake.read(ASSET, "a")
    missed = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with contextlib.suppress(DamagedTableError):
            if not lake.read(ASSET, "a").equals(good, check_metadata=True):
                missed.append(place)
    assert missed == []


def test_a_table_without_the_columns_that_must_be_there_is_damaged(lake, root):
    fs, _ = fsspec.core.url_to_fs(root)
    lake.write(ASSET, "a", table("obj_a"))
    with fs.open(lake.path(ASSET, "a"), "wb") as file:
        pq.write_table(pa.table({"object_id": ["obj_a"]}), file)
    assert lake.previous(ASSET, "a").num_rows == 0


def test_every_reader_of_parquet_reads_the_tables(tmp_path):
    import duckdb
    import pandas as pd

    lake = Lake(str(tmp_path))
    lake.write(ASSET, "a", table("obj_a", "obj_b"))
    path = lake.path(ASSET, "a")
    assert duckdb.read_parquet(path).fetchall() == [("obj_a", "v1"), ("obj_b", "v1")]
    assert pd.read_parquet(path)["object_id"].tolist() == pq.read_table(path)["object_id"].to_pylist()


def test_writing_again_replaces_the_whole_partition_and_leaves_nothing_beside_it(lake, root):
    lake.write(ASSET, "a", table("obj_a", "obj_b"))
    lake.write(ASSET, "a", table("obj_c"))
    assert lake.read(ASSET, "a").column("object_id").to_pylist() == ["obj_c"]
    fs, path = fsspec.core.url_to_fs(root)
    assert len(fs.find(path)) == 1


def test_a_write_that_fails_leaves_the_old_table_and_nothing_beside_it(lake, root, monkeypatch):
    lake.write(ASSET, "a", table("obj_a"))

    def half_written(_: pa.Table, file, **__: object) -> None:
        file.write(b"PAR1 half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", half_written)
    with pytest.raises(OSError, match="no space"):
        lake.write(ASSET, "a", table("obj_b"))
    monkeypatch.undo()
    assert lake.read(ASSET, "a").column("object_id").to_pylist() == ["obj_a"]
    fs, path = fsspec.core.url_to_fs(root)
    assert len(fs.find(path)) == 1


def test_partitions_are_listed_sorted_under_their_own_names(lake):
    names = ["b--2", "a--1", "한글 이름", "with/slash", "percent%2F", ".dot", "space and 'quotes'"]
    for name in names:
        lake.write(ASSET, name, table(name))
    assert lake.partitions(ASSET) == sorted(names)
    for name in names:
        assert lake.read(ASSET, name).column("object_id").to_pylist() == [name]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20))
def test_any_partition_name_stays_inside_its_folder_and_is_read_back(tmp_path: Path, name: str):
    folder = tmp_path / uuid.uuid4().hex
    lake = Lake(str(folder))
    lake.write(ASSET, name, table("obj_a"))
    assert lake.partitions(ASSET) == [name]
    assert Path(lake.path(ASSET, name)).parent == folder / ASSET


def test_columns_are_cast_put_in_order_and_others_dropped(lake):
    rows = LAKE_SCHEMAS["frames"].empty_table().to_pydict()
    values = {"frame_id": "f", "source_id": "s", "file_path": "p", "sha256": "h"}
    values |= dict.fromkeys(("frame_idx", "timestamp_ms", "size_bytes", "mtime_ns", "width", "height"), 7)
    columns = {name: [values[name]] for name in reversed(rows)} | {"extra": [1]}
    lake.write("frames", "a", pa.table(columns))
    assert lake.read("frames", "a").schema.equals(LAKE_SCHEMAS["frames"])
    assert lake.read("frames", "a").to_pylist() == [{name: values[name] for name in rows}]


def test_a_missing_column_a_missing_value_or_a_wrong_type_is_refused(lake):
    with pytest.raises((KeyError, ValueError), match="version_id"):
        lake.write(ASSET, "a", pa.table({"object_id": ["obj_a"]}))
    with pytest.raises(ValueError, match="null"):
        lake.write(ASSET, "a", pa.table({"object_id": ["obj_a"], "version_id": pa.array([None], pa.string())}))
    with pytest.raises((ValueError, pa.ArrowException)):
        lake.write("frames", "a", pa.table({name: ["text"] for name in LAKE_SCHEMAS["frames"].names}))
    assert not lake.exists(ASSET, "a")


def test_metadata_of_the_schema_is_kept(lake):
    lake.write(ASSET, "a", table("obj_a").replace_schema_metadata({"fingerprint": "abc"}))
    assert lake.read(ASSET, "a").schema.metadata[b"fingerprint"] == b"abc"


def test_a_reader_sees_a_whole_table_while_another_writes(tmp_path):
    lake = Lake(str(tmp_path))
    lake.write(ASSET, "a", table(*["obj_0"] * 500))
    done = threading.Event()
    seen: list[set[str]] = []

    def write() -> None:
        for index in range(30):
            lake.write(ASSET, "a", table(*[f"obj_{index}"] * 500))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        seen.append(set(lake.read(ASSET, "a").column("object_id").to_pylist()))
    writer.join()
    assert seen
    assert all(len(values) == 1 for values in seen)


def test_a_table_of_an_older_version_gets_the_declared_columns_that_may_be_empty(lake, root):
    from al_dagster.core.schemas import DETECTIONS

    row = {field.name: "x" if field.type == pa.string() else 1.0 for field in DETECTIONS}
    lake.write("detections", "a", pa.Table.from_pylist([row], schema=DETECTIONS))
    old = lake.read("detections", "a").drop_columns(["p_label", "p_box"])
    fs, _ = fsspec.core.url_to_fs(root)
    with fs.open(lake.path("detections", "a"), "wb") as file:
        pq.write_table(old.replace_schema_metadata({b"kept": b"yes"}), file)
    read = lake.read("detections", "a")
    assert read.schema.equals(DETECTIONS)
    assert read.schema.metadata == {b"kept": b"yes"}
    assert read.to_pylist() == [{**row, "p_label": None, "p_box": None}]
    lake.write("detections", "a", read)
