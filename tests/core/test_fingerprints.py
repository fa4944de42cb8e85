import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core.fingerprints import content_hash, fingerprint

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.dictionaries(st.sampled_from(["model", "box", "code"]), VALUES, min_size=1))
def test_the_order_of_what_it_is_made_from_does_not_matter(values: dict[str, object]):
    made = fingerprint(**values)
    assert made == fingerprint(**dict(reversed(values.items())))
    assert len(bytes.fromhex(made)) == 16


def test_any_part_that_changes_changes_it():
    made = {
        fingerprint(model="m", threshold=0.5),
        fingerprint(model="m", threshold=0.51),
        fingerprint(model="n", threshold=0.5),
        fingerprint(model="m", threshold="0.5"),
        fingerprint(model="m", limit=0.5),
        fingerprint(model="m"),
    }
    assert len(made) == 6


def test_a_value_that_json_does_not_know_is_refused():
    with pytest.raises(TypeError):
        fingerprint(model=object())


def test_content_depends_on_values_and_rows_but_not_on_the_order_of_columns():
    whole = content_hash({"a": [1, 2], "b": ["x", None]})
    assert whole == content_hash({"b": ["x", None], "a": [1, 2]})
    assert whole != content_hash({"a": [2, 1], "b": ["x", None]})
    assert whole != content_hash({"a": [1, 2], "b": ["x", "None"]})


def test_content_of_long_arrays_counts_to_the_last_value():
    first, second = np.zeros(5000, dtype=np.float32), np.zeros(5000, dtype=np.float32)
    second[2500] = 1
    assert content_hash({"a": [first]}) != content_hash({"a": [second]})
    assert content_hash({"a": [first]}) == content_hash({"a": [first.tolist()]})
