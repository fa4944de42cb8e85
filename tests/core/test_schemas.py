import pytest

from al_dagster.core.schemas import LAKE_SCHEMAS


@pytest.mark.parametrize("asset", LAKE_SCHEMAS)
def test_every_table_has_distinct_columns_and_a_first_one_that_is_never_null(asset):
    schema = LAKE_SCHEMAS[asset]
    assert len(set(schema.names)) == len(schema.names)
    assert not schema.field(0).nullable


def test_a_column_has_one_type_in_all_tables():
    kinds: dict[str, set[str]] = {}
    for schema in LAKE_SCHEMAS.values():
        for field in schema:
            kinds.setdefault(field.name, set()).add(str(field.type))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
