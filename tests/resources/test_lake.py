import dagster as dg
import pyarrow as pa
import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.lake import Lake
from al_dagster.core.schemas import VECTOR_INDEX
from al_dagster.resources.lake import LakeIOManager, NewTables, StoredTables


def table_of(*ids: str) -> pa.Table:
    return pa.table({"object_id": list(ids), "version_id": ["v"] * len(ids)}).cast(VECTOR_INDEX)


@pytest.fixture
def manager(tmp_path) -> LakeIOManager:
    return LakeIOManager(root=str(tmp_path))


def output_context() -> dg.OutputContext:
    return dg.build_output_context(asset_key=dg.AssetKey("vector_index"))


def test_each_table_is_written_before_the_next_is_made(manager, tmp_path):
    lake = Lake(str(tmp_path))
    seen = []

    def tables():
        for name in ("a", "b", "c"):
            seen.append(lake.partitions("vector_index"))
            yield name, table_of(name)

    manager.handle_output(output_context(), NewTables(tables()))
    assert seen == [[], ["a"], ["a", "b"]]


def test_what_was_finished_before_an_error_is_kept(manager, tmp_path):
    def tables():
        yield "a", table_of("a")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        manager.handle_output(output_context(), NewTables(tables()))
    assert Lake(str(tmp_path)).partitions("vector_index") == ["a"]


def test_a_table_with_other_columns_is_refused(manager):
    wrong = pa.table({"object_id": ["a"]})
    with pytest.raises((KeyError, ValueError)):
        manager.handle_output(output_context(), NewTables([("a", wrong)]))


def test_columns_folder_and_size_are_published(manager, tmp_path):
    context = output_context()
    manager.handle_output(context, NewTables([("a", table_of("x"))]))
    metadata = context.consume_logged_metadata()
    assert [column.name for column in metadata["dagster/column_schema"].schema.columns] == VECTOR_INDEX.names
    assert metadata["lake_folder"].value == f"{tmp_path}/vector_index"
    assert metadata["bytes_written"].value == (tmp_path / "vector_index" / "a.parquet").stat().st_size


def test_stored_tables_are_read_when_they_are_asked_for(tmp_path):
    lake = Lake(str(tmp_path))
    stored = StoredTables(lake, "vector_index", ["a", "b"])
    lake.write("vector_index", "a", table_of("x"))
    assert list(stored) == ["a", "b"]
    assert stored["a"]["object_id"].to_pylist() == ["x"]
    with pytest.raises(UserError, match="vector_index of b is not in the lake"):
        stored["b"]
