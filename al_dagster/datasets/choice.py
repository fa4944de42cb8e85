"""Which frames and objects of a project go into a dataset, and why the others do not."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from al_dagster.core.geometry import MIN_SIDE
from al_dagster.datasets.definition import DatasetDefinition, UnsatisfiedDefinitionError
from al_dagster.datasets.report import EXAMPLES, LeftOut
from al_dagster.datasets.selection import Pool

Flags = NDArray[np.bool_]

REPLACED = "gone, or replaced by another file"
NOT_LABELLED = "not labelled"
NOT_SEARCHED = "not searched for all classes"
UNSURE = "unsure"
BELOW_CONFIDENCE = "below min_confidence"
NOT_REVIEWED = "not all reviewed"
NOT_VALIDATED = "not validated"
WITH_VALIDATED = "with validated objects"
VALIDATED = "validated"
NEAR_DUPLICATE = "nearly the same as one of another split"
NEIGHBOUR = "next to one of another split in a recording"
UNUSABLE = "with a box outside the image or under a pixel"
EMPTY = "without objects"
NOT_CONFIRMED = "without objects, which nobody confirmed"

_WAITS = "waits to be labelled"
_UNKNOWN_DETECTOR = "an unknown detector"


@dataclass(frozen=True)
class Choice:
    """What goes into a dataset, as rows of a pool.

    Args:
        frames: (f,) the frames that go in, ascending.
        objects: (n,) the objects that go in, ascending.
        ignored: (m,) the objects that the filter drops and whose region is to teach nothing, ascending.
        frame_of: the frame of every object of the pool; -1 where it has none there.
        class_of: the class of every object of the pool; -1 where it is none of the dataset's.
        left_out: what does not go in.
        raw_confidence: by detector, objects whose raw confidence was compared, since they are not calibrated.
    """

    frames: NDArray[np.int64]
    objects: NDArray[np.int64]
    ignored: NDArray[np.int64]
    frame_of: NDArray[np.int64]
    class_of: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]
    raw_confidence: dict[str, int]


def choose(pool: Pool, definition: DatasetDefinition, classes: Sequence[str]) -> Choice:
    """Decide what goes into a dataset.

    A frame goes in if it was labelled and shows objects of the classes that pass the filter, or no object of the
    classes: then it is background. A frame that was labelled before a class was asked for stays out, and so does one
    with an object that the filter drops unless the definition says otherwise, since a model would learn that nothing is
    there. In a dataset of validated objects a background is what a person marked as such, or where people deleted all
    that the machine had found.

    Args:
        pool: what the project has.
        definition: its filter.
        classes: the classes of the dataset.

    Raises:
        UnsatisfiedDefinitionError: no object goes in; the sentence says what each filter left, or why the frames stay
            out.
    """
    rule, frames, rows = definition.filter, pool.frames, pool.objects
    frame_of = _positions(rows["frame_id"], frames["frame_id"])
    class_of = _class_of(rows["category_id"], pool.categories, classes)
    of_class, has_frame = class_of >= 0, frame_of >= 0
    is_validated = _flags(rows["is_validated"])
    confidence = _numbers(pc.coalesce(rows["calibrated_confidence"], rows["confidence"]))
    is_sure = is_validated | (rule.min_confidence == 0) | (confidence >= rule.min_confidence)
    in_state = np.ones_like(is_sure) if rule.is_validated is None else is_validated == rule.is_validated
    is_usable = _is_usable(rows, frames, frame_of)
    passes = of_class & is_usable & is_sure & in_state
    dropped = of_class & is_usable & ~passes

    def frames_with(objects: Flags) -> Flags:
        found = np.zeros(frames.num_rows, dtype=np.bool_)
        found[frame_of[objects & has_frame]] = True
        return found

    is_marked = _flags(frames["is_marked"]) & ~frames_with(has_frame)
    is_labelled = _flags(frames["is_labelled"]) | is_marked
    has_dropped, is_empty = frames_with(dropped), ~frames_with(passes)
    excludes = rule.on_dropped == "exclude"
    wants_validated = rule.is_validated is True
    unsearched = _unsearched(pool, classes)
    confirmed = is_marked | (_frames_cleared(pool, classes) & ~frames_with(of_class))
    reasons = {
        REPLACED: _flags(frames["is_replaced"]),
        NOT_LABELLED: ~is_labelled,
        NOT_SEARCHED: _flags(pc.is_valid(unsearched)) & ~is_marked,
        BELOW_CONFIDENCE: frames_with(dropped & ~is_sure) & excludes,
        NOT_REVIEWED if wants_validated else WITH_VALIDATED: has_dropped
        & (is_empty & wants_validated if not excludes else True),
        UNUSABLE: frames_with(of_class & ~is_usable) & is_empty & ~has_dropped,
        UNSURE: _flags(frames["is_unsure"]) & is_empty & ~is_marked,
        EMPTY: is_empty & (not definition.include_empty),
        NOT_CONFIRMED: is_empty & wants_validated & ~confirmed,
    }
    details = {NOT_LABELLED: frames["error"], NOT_SEARCHED: unsearched}
    stays_out = np.zeros(frames.num_rows, dtype=np.bool_)
    left_out = []
    for reason, flags in reasons.items():
        left_out.append(_left_out(reason, "frames", flags & ~stays_out, frames["file_path"], details.get(reason)))
        stays_out |= flags
        if reason == NOT_SEARCHED:
            in_labelled = _of_frames(~stays_out, frame_of)
    goes_in = _of_frames(~stays_out, frame_of)
    left_out += [
        _left_out(reason, "objects", flags, rows["object_id"])
        for reason, flags in (
            (UNUSABLE, of_class & ~is_usable & in_labelled),
            (BELOW_CONFIDENCE, dropped & ~is_sure & in_labelled),
            (NOT_VALIDATED if wants_validated else VALIDATED, dropped & is_sure & in_labelled),
            (NOT_LABELLED, of_class & ~has_frame),
        )
    ]
    chosen = np.flatnonzero(passes & goes_in)
    counted = tuple(item for item in left_out if item.count)
    if not len(chosen):
        counts = [int(flags.sum()) for flags in (of_class, of_class & is_sure, of_class & is_sure & in_state)]
        raise UnsatisfiedDefinitionError(_nothing(definition, [rows.num_rows, *counts], counted))
    raw = of_class & ~is_validated & _flags(pc.is_null(rows["calibrated_confidence"])) & (rule.min_confidence > 0)
    return Choice(
        frames=np.flatnonzero(~stays_out),
        objects=chosen,
        ignored=np.flatnonzero(dropped & goes_in & (rule.on_dropped == "ignore")),
        frame_of=frame_of,
        class_of=class_of,
        left_out=counted,
        raw_confidence=_counts(rows["detection_model"].filter(pa.array(raw)), _UNKNOWN_DETECTOR),
    )


def _positions(keys: pa.ChunkedArray, known: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each key stands among the known ones; -1 for one that is not."""
    return _numbers(pc.index_in(keys, value_set=known.combine_chunks()).fill_null(-1)).astype(np.int64)


def _class_of(category_ids: pa.ChunkedArray, categories: dict[int, str], classes: Sequence[str]) -> NDArray[np.int64]:
    table = np.full(max(categories, default=0) + 1, -1, dtype=np.int64)
    for category_id, name in categories.items():
        if name in classes:
            table[category_id] = classes.index(name)
    return table[_numbers(category_ids)]


def _unsearched(pool: Pool, classes: Sequence[str]) -> pa.ChunkedArray:
    """The classes that the labelling of each frame was not asked for and that of another was; null where there is none.

    What no labelling was asked for people have added: it is missing from no frame more than from any other.
    """
    texts = pool.frames["searched_for"].dictionary_encode().unify_dictionaries()
    listed = texts.chunk(0).dictionary.to_pylist() if texts.num_chunks else []
    searched = [frozenset(json.loads(text)) for text in listed]
    known = frozenset().union(*searched)
    missing = [", ".join(name for name in classes if name in known - found) or None for found in searched]
    return pa.chunked_array([pa.array(missing, pa.string()).take(part.indices) for part in texts.chunks], pa.string())


def _is_usable(rows: pa.Table, frames: pa.Table, frame_of: NDArray[np.int64]) -> Flags:
    """Whether the part of each box that lies in its frame has an area; a box without a frame there has none."""
    usable = frame_of >= 0
    for corner, length, size in (("bbox_x", "bbox_w", "width"), ("bbox_y", "bbox_h", "height")):
        sizes = np.append(_numbers(frames[size]), 0)[frame_of]
        low = _numbers(rows[corner])
        high = low + _numbers(rows[length])
        usable &= np.clip(high, 0, sizes) - np.clip(low, 0, sizes) >= MIN_SIDE
    return usable


def _frames_cleared(pool: Pool, classes: Sequence[str]) -> Flags:
    """Whether a person deleted an object of the classes in each frame."""
    cleared = np.zeros(pool.frames.num_rows, dtype=np.bool_)
    frame_of = _positions(pool.deleted["frame_id"], pool.frames["frame_id"])
    of_class = _class_of(pool.deleted["category_id"], pool.categories, classes) >= 0
    cleared[frame_of[of_class & (frame_of >= 0)]] = True
    return cleared


def _of_frames(frames: Flags, frame_of: NDArray[np.int64]) -> Flags:
    """Whether the frame of each object is one of these."""
    return np.append(frames, False)[frame_of]


def _left_out(
    reason: str, unit: str, flags: Flags, names: pa.ChunkedArray, details: pa.ChunkedArray | None = None
) -> LeftOut:
    at = np.flatnonzero(flags)
    examples = tuple(names.take(pa.array(at[:EXAMPLES])).to_pylist())
    return LeftOut(
        reason, unit, len(at), {} if details is None else _counts(details.take(pa.array(at)), _WAITS), examples
    )


def _counts(values: pa.ChunkedArray, if_null: str) -> dict[str, int]:
    """How often each text comes, most often first."""
    counted = pc.value_counts(values.fill_null(if_null)).to_pylist()
    return dict(Counter({row["values"]: row["counts"] for row in counted}).most_common())


def _flags(values: pa.ChunkedArray) -> Flags:
    return np.asarray(values.fill_null(False).to_numpy(), dtype=np.bool_)


def _numbers(values: pa.ChunkedArray) -> NDArray[np.floating]:
    """The values; what is empty is NaN."""
    return np.asarray(values.to_numpy())


def _nothing(definition: DatasetDefinition, counts: Sequence[int], left_out: Sequence[LeftOut]) -> str:
    active, of_class, sure, in_state = counts
    start = f"dataset {definition.name!r} selects no object"
    if in_state:
        why = "; ".join(item.sentence for item in left_out)
        return f"{start} that can be used: left out: {why}; label the images again or loosen the filter"
    if not active:
        return f"{start}: project {definition.project!r} has no objects yet; label some of its images first"
    steps = [f"project {definition.project!r} has {active} active objects"]
    if definition.filter.categories is not None:
        steps.append(f"{of_class} of them are {' or '.join(definition.filter.categories)}")
    if definition.filter.min_confidence > 0:
        steps.append(f"{sure} of these have a confidence of at least {definition.filter.min_confidence:g}")
    if definition.filter.is_validated is not None:
        steps.append(f"{in_state} of these are {'' if definition.filter.is_validated else 'not '}validated")
    return f"{start}: {', '.join(steps)}; loosen the filter"
