import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core import ids

SHA = hashlib.sha256(b"content").hexdigest()
BOX = (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("made", "prefix"),
    [
        (ids.source_id(SHA), "src"),
        (ids.frame_id("src_a", 0), "frm"),
        (ids.object_id("p", "src_a", 0, "m@1", BOX), "obj"),
        (ids.dataset_id("d", "abc"), "ds"),
        (ids.track_id("src_a", "nut", "obj_a"), "trk"),
    ],
)
def test_an_id_is_its_prefix_and_12_characters_of_base32(made, prefix):
    assert re.fullmatch(prefix + "_[a-z2-7]{12}", made)


def test_ids_never_change_from_one_version_to_the_next():
    assert ids.source_id(SHA) == "src_5vyafnbz5gwi"
    assert ids.frame_id("src_5vyafnbz5gwi", 0) == "frm_p2zcvajjfrhs"
    assert ids.object_id("p", "src_5vyafnbz5gwi", 0, "m@1", BOX) == "obj_kpekxhnnn6qb"


def test_everything_that_an_object_is_made_from_changes_its_id():
    made = {
        ids.object_id(*parts)
        for parts in [
            ("p", "src_a", 0, "m@1", BOX),
            ("q", "src_a", 0, "m@1", BOX),
            ("p", "src_b", 0, "m@1", BOX),
            ("p", "src_a", 1, "m@1", BOX),
            ("p", "src_a", 0, "m@2", BOX),
            ("p", "src_a", 0, "m@1", (1.1, *BOX[1:])),
            ("p", "src_a", 0, "m@1", (*BOX[:3], 40.1)),
        ]
    }
    assert len(made) == 7


@given(box=st.tuples(*[st.integers(0, 10_000)] * 4), noise=st.floats(-0.04, 0.04))
def test_boxes_that_are_the_same_to_a_tenth_of_a_pixel_are_one_object(box: tuple[int, ...], noise: float):
    moved = [value + noise for value in box]
    assert ids.object_id("p", "s", 0, "m", box) == ids.object_id("p", "s", 0, "m", moved)


@given(
    first=st.text(alphabet="ab", max_size=4), second=st.text(alphabet="ab", max_size=4), other=st.text("ab", max_size=4)
)
def test_parts_are_told_apart(first: str, second: str, other: str):
    assert (ids.digest(first, second) == ids.digest(first + other, second)) == (other == "")


def test_a_batch_key_names_project_and_time_in_utc():
    moment = datetime(2026, 3, 1, 1, 30, 5, tzinfo=timezone(timedelta(hours=9)))
    assert re.fullmatch(r"parts--20260228T163005-[0-9a-f]{4}", ids.batch_key("parts", moment))


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64))
def test_the_project_of_a_batch_key_is_read_back_and_the_key_is_fit_for_dagster(name: str):
    key = ids.batch_key(name, datetime(2026, 1, 1, tzinfo=UTC))
    assert ids.batch_project(key) == name
    assert "..." not in key
    assert re.fullmatch(r"[\w.~-]+", key)
    assert ids.slug_project(ids.project_slug(name)) == name


@pytest.mark.parametrize("name", ["parts", "a-b_c.d", "나사", "A1"])
def test_letters_and_digits_of_any_script_stand_in_a_slug_as_they_are(name: str):
    assert ids.project_slug(name) == name


def test_other_characters_are_written_as_their_bytes():
    assert ids.project_slug("bolts M8/é") == "bolts~20M8~2fé"
