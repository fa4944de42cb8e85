import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core.schemas import CLASSIFICATIONS
from al_dagster.labelling.stage import Rows, compute_new, computed_units

SCHEMA = pa.schema([pa.field("unit", pa.string()), pa.field("value", pa.int64()), pa.field("fingerprint", pa.string())])
NOTHING = SCHEMA.empty_table()

names = st.sampled_from("abcdefgh")
contents = st.dictionaries(names, st.integers(0, 3))


def rows_of(unit: str, content: int) -> Rows:
    """As many rows as the content says: a unit may have none."""
    return [{"unit": unit, "value": 10 * content + index} for index in range(content)]


class Stage:
    """Computes rows from contents and remembers for which units it was asked."""

    def __init__(self, contents: dict[str, int], unreadable: frozenset[str] = frozenset()) -> None:
        self.contents, self.unreadable, self.asked = contents, unreadable, []

    def run(self, previous: pa.Table, **options) -> pa.Table:
        def compute(units: list[str]) -> dict[str, Rows]:
            self.asked = units
            return {unit: rows_of(unit, self.contents[unit]) for unit in units if unit not in self.unreadable}

        self.asked = []
        prints = [(unit, f"print-{content}") for unit, content in self.contents.items()]
        table, computed, reused = compute_new(prints, previous, unit_column="unit", compute=compute, **options)
        assert computed == len(self.asked)
        assert reused == len(self.contents) - len(self.asked)
        return table


@given(before=contents, after=contents)
def test_what_is_reused_is_what_would_have_been_computed(before, after):
    stored = Stage(before).run(NOTHING)
    stage = Stage(after)
    assert stage.run(stored).equals(Stage(after).run(NOTHING), check_metadata=True)
    assert set(stage.asked) == {unit for unit, content in after.items() if before.get(unit) != content}


@given(content=contents)
def test_with_nothing_changed_nothing_is_computed(content):
    stored = Stage(content).run(NOTHING)
    stage = Stage(content)
    assert stage.run(stored).equals(stored, check_metadata=True)
    assert stage.asked == []


@given(content=contents, unreadable=st.frozensets(names))
def test_a_unit_that_was_left_out_is_tried_again_and_the_others_are_not(content, unreadable):
    stored = Stage(content, unreadable).run(NOTHING)
    assert computed_units(stored, "unit") == set(content) - unreadable
    stage = Stage(content)
    assert stage.run(stored).equals(Stage(content).run(NOTHING), check_metadata=True)
    assert set(stage.asked) == unreadable & set(content)


@given(content=contents)
def test_units_without_rows_are_remembered_through_a_file(content, tmp_path_factory):
    from al_dagster.core.lake import Lake

    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    labels = {unit: [{"object_id": unit} | EMPTY_ROW] * count for unit, count in content.items()}
    prints = [(unit, "print") for unit in content]
    options = {"unit_column": "object_id", "compute": lambda units: {unit: labels[unit] for unit in units}}
    table, computed, _ = compute_new(prints, CLASSIFICATIONS.empty_table(), **options)
    assert computed == len(content)
    lake.write("classifications", "batch", table)
    assert compute_new(prints, lake.read("classifications", "batch"), **options)[1] == 0


EMPTY_ROW = {"frame_id": "f", "label": "disc", "score": 1.0, "margin": 1.0, "classification_model": "m"}


def test_rows_that_no_longer_stand_are_computed_again():
    stored = Stage({"a": 1, "b": 2}).run(NOTHING)
    stage = Stage({"a": 1, "b": 2})
    table = stage.run(stored, reusable=lambda rows: [unit != "b" for unit in rows["unit"].to_pylist()])
    assert stage.asked == ["b"]
    assert table.equals(stored)


def test_rows_stand_in_the_order_of_the_units():
    stored = Stage({"a": 1, "b": 1}).run(NOTHING)
    assert Stage({"c": 1, "b": 1, "a": 1}).run(stored)["unit"].to_pylist() == ["c", "b", "a"]


def test_a_unit_whose_stored_rows_differ_in_their_fingerprint_is_computed_again():
    stored = Stage({"a": 2}).run(NOTHING)
    mixed = stored.set_column(2, "fingerprint", pa.array(["print-2", "other"]))
    stage = Stage({"a": 2})
    assert stage.run(mixed).equals(stored)
    assert stage.asked == ["a"]


def test_an_error_of_the_computation_is_raised():
    def fails(units: list[str]) -> dict[str, Rows]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        compute_new([("a", "1")], NOTHING, unit_column="unit", compute=fails)
