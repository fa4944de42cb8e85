import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.core.errors import UserError
from al_dagster.vision.florence2_tokens import BINS, Vocabulary, names_phrase, read_answer

TAGS = ["<s>", "<pad>", "</s>", "<od>", "</od>", *(f"<loc_{number}>" for number in range(BINS))]
TAGS += ["<sep>", "<poly>", "</poly>"]


class Letters:
    """A tokenizer with a token a letter, and the tags of Florence-2."""

    def __init__(self, tags=TAGS):
        self.tags = {tag: number for number, tag in enumerate(tags)}
        self.letters = {chr(code): len(tags) + code - 32 for code in range(32, 127)}

    def get_vocab(self):
        return {**self.tags, **self.letters}

    def get_added_vocab(self):
        return self.tags

    def decode(self, token_ids):
        names = {number: letter for letter, number in self.letters.items()}
        return "".join(names[number] for number in token_ids)

    def encode(self, text):
        vocabulary = self.get_vocab()
        return np.array([vocabulary[token] for token in re.findall(r"</?[a-z]+(?:_\d+)?>|.", text)], dtype=np.int64)


LETTERS = Letters()
VOCABULARY = Vocabulary.of(LETTERS)


def locations(*bins):
    return "".join(f"<loc_{number}>" for number in bins)


def read(text, log_probs=None):
    ids = LETTERS.encode(text)
    return read_answer(ids, np.zeros(len(ids)) if log_probs is None else log_probs, VOCABULARY)


def bins_of(answer):
    return (answer.boxes * BINS - 0.5).round(6).tolist()


ONE, TWO = (100, 200, 300, 400), (500, 510, 520, 530)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("</s><s></s><pad><pad>", []),
        (f"<s>nut{locations(*ONE)}</s><pad>", [("nut", ONE)]),
        (f"nut{locations(*ONE, *TWO)}", [("nut", ONE), ("nut", TWO)]),
        (f"nut{locations(*ONE)}hex bolt{locations(*TWO)}", [("nut", ONE), ("hex bolt", TWO)]),
        (f" nut {locations(*ONE)}", [("nut", ONE)]),
        (f"nut{locations(*ONE, 5, 6, 7)}", [("nut", ONE)]),
        (f"nut{locations(5, 6, 7)}bolt{locations(*ONE)}", [("bolt", ONE)]),
        (locations(*ONE), []),
        (f"{locations(*ONE)}nut{locations(*TWO)}", [("nut", TWO)]),
        ("nut", []),
        (f"nut{locations(300, 200, 100, 400)}", []),
        (f"nut{locations(100, 200, 100, 400)}", []),
        (f"nut<poly>{locations(100, 400, 300, 250, 200, 200)}</poly>", [("nut", (100, 200, 300, 400))]),
        (f"nut<poly>{locations(1, 2, 3, 4)}<sep>{locations(9, 1, 5, 6, 8)}</poly>", [("nut", (1, 1, 9, 6))]),
        (
            f"nut<poly>{locations(*ONE)}</poly><poly>{locations(*TWO)}</poly>bolt<poly>{locations(*ONE)}</poly>",
            [("nut", ONE), ("nut", TWO), ("bolt", ONE)],
        ),
        (f"nut<poly>{locations(*ONE)}</poly>bolt<poly>{locations(*TWO)}", [("nut", ONE)]),
        (f"nut<poly>{locations(*ONE)}</poly>bolt{locations(*TWO)}", [("nut", ONE), ("bolt", TWO)]),
        (f"nut<poly>{locations(7)}</poly>", []),
    ],
)
def test_an_answer_is_read_into_labelled_boxes(text, expected):
    answer = read(text)
    assert list(zip(answer.labels, map(tuple, bins_of(answer)), strict=True)) == expected
    assert answer.boxes.shape == (len(expected), 4)


def test_ids_beyond_the_vocabulary_are_no_text():
    ids = np.append(LETTERS.encode(f"nut{locations(*ONE)}"), 10**6)
    answer = read_answer(ids, np.zeros(len(ids)), VOCABULARY)
    assert answer.labels == ["nut"]


def test_boxes_under_one_label_share_its_probability_and_have_their_own():
    ids = LETTERS.encode(f"<s>ab{locations(*ONE, *TWO)}c{locations(*ONE)}</s>")
    probabilities = np.array([0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.95, 0.9, 0.85, 0.8, 0.3, 0.9, 0.9, 0.9, 0.9, 0.2])
    answer = read_answer(ids, np.log(probabilities), VOCABULARY)
    assert answer.p_label == pytest.approx([0.9 * 0.8, 0.9 * 0.8, 0.3])
    assert answer.p_box == pytest.approx([0.7 * 0.6 * 0.5 * 0.4, 0.95 * 0.9 * 0.85 * 0.8, 0.9**4])


def test_the_probability_of_a_polygon_is_that_of_the_tokens_that_give_its_box_its_sides():
    ids = LETTERS.encode(f"a<poly>{locations(100, 50, 10, 60, 70, 20, 80, 90)}</poly>")
    probabilities = np.array([0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.3, 0.7, 0.3, 0.6, 0.1])
    answer = read_answer(ids, np.log(probabilities), VOCABULARY)
    assert bins_of(answer) == [[10, 20, 100, 90]]
    assert answer.p_label == pytest.approx([0.5])
    assert answer.p_box == pytest.approx([0.8 * 0.7 * 0.9 * 0.6])


def test_a_tokenizer_without_locations_is_refused():
    with pytest.raises(UserError, match=r"lacks <loc_7>"):
        Vocabulary.of(Letters([tag for tag in TAGS if tag != "<loc_7>"]))


BIN = st.integers(0, BINS - 1)
LABEL = st.sampled_from(["nut", "hex bolt", "x"])
BOXES = st.lists(st.tuples(LABEL, st.lists(BIN, max_size=11)), max_size=5)
POLYGON = st.lists(st.lists(BIN, min_size=4, max_size=9), min_size=1, max_size=3)
POLYGONS = st.lists(st.tuples(LABEL, st.lists(POLYGON, min_size=1, max_size=2)), min_size=1, max_size=4)


def _extent(polygons):
    x = [value for polygon in polygons for value in polygon[::2]]
    y = [value for polygon in polygons for value in polygon[1::2]]
    return min(x), min(y), max(x), max(y)


def _library(text):
    """What transformers reads of an answer, on an image as large as there are locations."""
    from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

    class Specials:
        all_special_tokens = ("<s>", "</s>", "<pad>")

    task = "description_with_bboxes_or_polygons"
    found = Florence2PostProcessor({task: {}}, Specials())(text=text, image_size=(BINS, BINS), parse_tasks=task)[task]
    boxes = [(part["cat_name"], part["bbox"] if "bbox" in part else _extent(part["polygons"])) for part in found]
    # Its pattern takes the end of a location that belongs to no box for the start of the next label.
    return [(label.rpartition(">")[2], tuple(box)) for label, box in boxes if box[0] < box[2] and box[1] < box[3]]


@settings(max_examples=60)
@given(BOXES)
def test_boxes_are_those_that_transformers_reads(parts):
    text = "<s>" + "".join(label + locations(*bins) for label, bins in parts) + "</s><pad>"
    answer = read(text)
    assert list(zip(answer.labels, map(tuple, bins_of(answer)), strict=True)) == _library(text)


@settings(max_examples=60)
@given(POLYGONS)
def test_polygons_have_the_extent_of_those_that_transformers_reads(parts):
    def tagged(polygon):
        return "<poly>" + "<sep>".join(locations(*part) for part in polygon) + "</poly>"

    text = "<s>" + "".join(label + "".join(map(tagged, polygons)) for label, polygons in parts) + "</s>"
    answer = read(text)
    assert list(zip(answer.labels, map(tuple, bins_of(answer)), strict=True)) == _library(text)


@pytest.mark.parametrize(
    ("label", "phrase", "same"),
    [
        ("price tag", "price tag", True),
        ("Price tags", "price  tag", True),
        ("boxes", "box", True),
        ("car", "red car", True),
        ("a red car", "red car", True),
        ("horse", "unicorn", False),
        ("woman", "man", False),
        ("cattle", "cat", False),
        ("blue car", "red car", False),
        ("a dog", "ape", False),
        ("t shirt", "T-shirt", True),
        ("猫", "猫", True),
        ("", "nut", False),
    ],
)
def test_a_label_answers_the_phrase_that_shares_its_words(label, phrase, same):
    assert names_phrase(label, phrase) is same
