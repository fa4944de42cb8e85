"""Reading Florence-2's answers: from generated tokens and their probabilities to boxes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.errors import UserError

BINS = 1000
"""Locations along an image's width, and along its height."""

_TEXT, _LOCATION, _FRAME, _OPEN, _CLOSE, _MARKUP = range(6)
_TAGS = {"<s>": _FRAME, "</s>": _FRAME, "<pad>": _FRAME, "<poly>": _OPEN, "</poly>": _CLOSE}
_PLURALS = ("", "s", "es")


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    def get_vocab(self) -> dict[str, int]:
        """The id of every token."""

    def get_added_vocab(self) -> dict[str, int]:
        """The ids of the tokens that are no text."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of some tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """What the ids of a Florence-2 checkpoint stand for.

    Args:
        kinds: (v + 1,), for each id whether it is text, a location or markup; the last stands for ids beyond the
            vocabulary, which its embedding table is padded with.
        bins: (v + 1,), the location of an id, 0–999.
        decode: the text of some ids.
    """

    kinds: NDArray[np.int8]
    bins: NDArray[np.int64]
    decode: Callable[[list[int]], str]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """The vocabulary of a tokenizer.

        Raises:
            UserError: it lacks the location tokens of Florence-2.
        """
        vocabulary = tokenizer.get_vocab()
        names = [f"<loc_{number}>" for number in range(BINS)]
        if missing := [name for name in (*names, *_TAGS) if name not in vocabulary]:
            raise UserError(f"the tokenizer is not Florence-2's: it lacks {missing[0]}; fetch the model again")
        kinds = np.full(max(vocabulary.values()) + 2, _TEXT, dtype=np.int8)
        kinds[-1] = _MARKUP
        kinds[list(tokenizer.get_added_vocab().values())] = _MARKUP
        kinds[[vocabulary[tag] for tag in _TAGS]] = list(_TAGS.values())
        locations = [vocabulary[name] for name in names]
        kinds[locations] = _LOCATION
        bins = np.zeros(len(kinds), dtype=np.int64)
        bins[locations] = np.arange(BINS)
        return cls(kinds, bins, tokenizer.decode)


@dataclass(frozen=True)
class Answer:
    """The boxes of one answer, in the order in which they were generated.

    Args:
        labels: k texts.
        boxes: (k, 4), x1, y1, x2, y2 as shares of the image's width and height, inside 0–1.
        p_label: (k,), product of the probabilities of the label's tokens; boxes under one label share it.
        p_box: (k,), product of the probabilities of the four location tokens that give the box its sides.
    """

    labels: list[str]
    boxes: NDArray[np.float64]
    p_label: NDArray[np.float64]
    p_box: NDArray[np.float64]


def read_answer(ids: NDArray[np.integer], log_probs: NDArray[np.floating], vocabulary: Vocabulary) -> Answer:
    """The boxes of a generated sequence.

    An answer is labels, each followed by boxes of four locations (x1, y1, x2, y2) or by polygons between ``<poly>``
    and ``</poly>``, whose parts ``<sep>`` divides. A polygon becomes its bounding box. Locations that no label
    precedes, fewer than four at the end of a run, a polygon that the end of the answer cuts off, and boxes without
    an extent are left out. A location is the middle of its bin, as in transformers' ``Florence2PostProcessor``.

    Args:
        ids: (t,), token ids.
        log_probs: (t,), the natural logarithm of the probability that the model gave each of them.
        vocabulary: of the checkpoint.
    """
    ids = np.minimum(ids, len(vocabulary.kinds) - 1)
    used = vocabulary.kinds[ids] != _FRAME
    ids, log_probs = ids[used], np.asarray(log_probs, dtype=np.float64)[used]
    kinds, bins = vocabulary.kinds[ids], vocabulary.bins[ids]

    text = kinds == _TEXT
    begins = text & ~_shifted(text)
    label_of = np.cumsum(begins) - 1
    label_log_probs = np.bincount(label_of[text], weights=log_probs[text], minlength=1)

    opened, closed = np.cumsum(kinds == _OPEN), np.cumsum(kinds == _CLOSE)
    locations = (kinds == _LOCATION) & (label_of >= 0)
    sides = np.concatenate(
        [
            _box_sides(locations & (opened == closed)),
            _polygon_sides(locations & (opened > closed), opened, int(closed[-1]) if closed.size else 0, bins),
        ]
    )
    sides = sides[np.argsort(sides.min(axis=1), kind="stable")]
    corners = bins[sides]
    sides = sides[(corners[:, 2:] > corners[:, :2]).all(axis=1)]

    labels = [vocabulary.decode(part.tolist()).strip() for part in np.split(ids[text], np.flatnonzero(begins[text]))]
    owner = label_of[sides[:, 0]]
    return Answer(
        # The part before the first label is empty.
        labels=[labels[1 + number] for number in owner],
        boxes=(bins[sides] + 0.5) / BINS,
        p_label=np.exp(label_log_probs[owner]),
        p_box=np.exp(log_probs[sides].sum(axis=1)),
    )


def names_phrase(label: str, phrase: str) -> bool:
    """Whether the label of an answer means the phrase that was asked for.

    It does if every word of the one is among the words of the other, whatever the case and the ending of a plural:
    "Price tags" answers "price tag", "car" answers "red car", "horse" does not answer "unicorn".
    """
    answered, asked = (re.findall(r"\w+", text.casefold()) for text in (label, phrase))
    return bool(answered) and (_all_among(answered, asked) or _all_among(asked, answered))


def _all_among(words: Sequence[str], others: Sequence[str]) -> bool:
    return all(any(_same_word(word, other) for other in others) for word in words)


def _same_word(one: str, other: str) -> bool:
    return any(one + ending == other or other + ending == one for ending in _PLURALS)


def _shifted(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each position, the flag of the one before."""
    return np.concatenate([[False], flags[:-1]]) if flags.size else flags


def _places_in_runs(flags: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each position, how far it is from the start of its run of flags, and how long that run is."""
    begins = flags & ~_shifted(flags)
    positions, run = np.arange(flags.size), np.cumsum(begins)
    starts = np.maximum.accumulate(np.where(begins, positions, 0)) if flags.size else positions
    lengths = np.bincount(run[flags], minlength=int(run[-1]) + 1 if flags.size else 1)
    return positions - starts, lengths[run] if flags.size else positions


def _box_sides(locations: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(k, 4), positions of the tokens of boxes: each four of a run."""
    place, length = _places_in_runs(locations)
    first = np.flatnonzero(locations & (place % 4 == 0) & (place + 4 <= length))
    return first[:, None] + np.arange(4)


def _polygon_sides(
    locations: NDArray[np.bool_], opened: NDArray[np.intp], closed: int, bins: NDArray[np.int64]
) -> NDArray[np.intp]:
    """(k, 4), positions of the tokens that give the bounding boxes of finished polygons their sides."""
    place, length = _places_in_runs(locations)
    first = np.flatnonzero(locations & (place % 2 == 0) & (place + 2 <= length))
    sides = []
    for polygon in np.unique(opened[first]):
        if polygon > closed:
            continue
        x = first[opened[first] == polygon]
        y = x + 1
        sides.append([x[bins[x].argmin()], y[bins[y].argmin()], x[bins[x].argmax()], y[bins[y].argmax()]])
    return np.array(sides, dtype=np.intp).reshape(-1, 4)
