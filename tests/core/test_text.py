import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core.text import did_you_mean, nearest, printable, printable_json

ANY = st.text(st.characters(), max_size=40)
"""Lone surrogates among them: so Python writes the bytes of a file's name that are not UTF-8."""


@given(ANY)
def test_whatever_a_name_holds_becomes_one_line_that_can_be_written_and_steers_nothing(name):
    shown = printable(name)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)


def test_letters_of_any_script_stay_as_they_are():
    assert printable("나사 é 螺丝 🙂 a\\b") == "나사 é 螺丝 🙂 a\\b"


def test_what_steers_a_terminal_or_turns_the_writing_is_written_out():
    assert printable("\x1b[31m\t\n\x9b\u202e\udcff") == "\\x1b[31m\\t\\n\\x9b\\u202e\\udcff"


@given(st.dictionaries(ANY, ANY, max_size=3))
def test_a_json_document_keeps_its_values(values):
    document = printable_json(json.dumps(values, indent=2, ensure_ascii=False))
    document.encode()
    assert json.loads(document) == values
    assert not any(0x7F <= ord(character) < 0xA0 for character in document)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Person", "person"), ("FACE", "face"), ("persons", "person"), ("nutt", "Nut"), ("sofa", None), ("", None)],
)
def test_the_name_that_was_meant_is_found_whatever_its_capitals(name, meant):
    assert nearest(name, ["person", "face", "Nut"]) == meant


def test_a_sentence_names_each_name_that_was_meant_once():
    assert did_you_mean(["Person", "persons", "sofa", "Face"], ["face", "person"]) == "; did you mean 'person', 'face'?"
    assert did_you_mean(["sofa"], ["face", "person"]) == ""
