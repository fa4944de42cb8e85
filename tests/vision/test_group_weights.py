import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision.fewshot import SupportSet, classify
from al_dagster.vision.group_weights import learn_weights

SHAPE, COLOUR = 6, 2
GROUPS = (SHAPE, COLOUR)


def _vectors(shapes, colours, colour_share=0.02):
    """Vectors of a shape group and a colour group, each a direction, the colour with a small share of the likeness."""
    shapes, colours = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (shapes, colours))
    joined = [np.sqrt(1 - colour_share) * shapes, np.sqrt(colour_share) * colours]
    return np.concatenate(joined, axis=1).astype(np.float32)


def _coloured(rng, colours, count):
    """For each name, vectors of its colour and of any shape."""
    return {
        name: _vectors(rng.random((count, SHAPE)), np.tile(colour, (count, 1)).astype(float))
        for name, colour in colours.items()
    }


COLOURS = {"red": (1, 0), "blue": (0, 1)}


def test_what_only_colour_tells_apart_is_named_by_its_colour():
    rng = np.random.default_rng(0)
    examples, objects = _coloured(rng, COLOURS, 5), _coloured(rng, COLOURS, 40)
    weights = learn_weights(examples, None, GROUPS)
    wrong_before, wrong_after = (
        sum(result.label != name for name, array in objects.items() for result in classify(array, support, -1.0))
        for support in (SupportSet(examples), SupportSet(examples, weights=weights))
    )
    assert wrong_before > 10
    assert wrong_after == 0
    assert weights.learnt[1] > 5 * weights.own[1]


def test_more_examples_change_the_weights_more():
    def share(count):
        drawn = (_coloured(np.random.default_rng(seed), COLOURS, count) for seed in range(10))
        return np.mean([learn_weights(examples, None, GROUPS).learnt[1] for examples in drawn])

    assert 0.02 < share(2) < share(20)


def test_what_is_told_apart_anyhow_leaves_the_weights_nearly_alone():
    rng = np.random.default_rng(0)
    apart = {
        name: _vectors(np.eye(SHAPE)[[number]] + 0.05 * rng.random((5, SHAPE)), rng.random((5, COLOUR)))
        for number, name in enumerate("abc")
    }
    weights = learn_weights(apart, None, GROUPS)
    assert weights.learnt == pytest.approx(weights.own, abs=0.01)


def test_one_class_is_told_from_the_background():
    rng = np.random.default_rng(0)
    vectors = _coloured(rng, COLOURS, 5)
    weights = learn_weights({"red": vectors["red"]}, vectors["blue"], GROUPS)
    assert weights.learnt[1] > 2 * weights.own[1]


def test_background_examples_need_not_be_alike():
    rng = np.random.default_rng(0)
    examples = _coloured(rng, COLOURS, 1)
    assert learn_weights(examples, _vectors(rng.random((5, SHAPE)), rng.random((5, COLOUR))), GROUPS) is None


@pytest.mark.parametrize(
    ("names", "count", "groups"),
    [
        pytest.param("ab", 1, GROUPS, id="one example a class"),
        pytest.param("ab", 5, (SHAPE + COLOUR,), id="one group"),
        pytest.param("a", 5, GROUPS, id="one class and no background"),
    ],
)
def test_there_may_be_nothing_to_learn(names, count, groups):
    rng = np.random.default_rng(0)
    examples = {name: _vectors(rng.random((count, SHAPE)), rng.random((count, COLOUR))) for name in names}
    assert learn_weights(examples, None, groups) is None


def test_groups_that_do_not_make_up_a_vector_are_refused():
    with pytest.raises(ValueError, match=r"groups of 6, 3 features do not make up 8"):
        learn_weights(_coloured(np.random.default_rng(0), COLOURS, 2), None, (6, 3))


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 4), st.booleans())
def test_the_likeness_of_weighed_vectors_is_that_of_their_groups_in_the_learnt_shares(seed, classes, count, background):
    rng = np.random.default_rng(seed)
    vectors = _vectors(rng.random((30, SHAPE)), rng.random((30, COLOUR)), rng.uniform(0.01, 0.99))
    examples = {str(number): vectors[number * count :][:count] for number in range(classes)}
    weights = learn_weights(examples, vectors[-2:] if background or classes == 1 else None, GROUPS)
    assert weights.learnt.min() >= 0
    assert weights.learnt.sum() == pytest.approx(1)
    weighed = weights.weigh(vectors)
    assert weighed.dtype == np.float32
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in np.split(vectors, [SHAPE], axis=1)]
    expected = sum(share * (part @ part.T) for share, part in zip(weights.learnt, parts, strict=True))
    assert weighed @ weighed.T == pytest.approx(expected, abs=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_weights_do_not_depend_on_the_order_of_classes_and_examples(seed):
    rng = np.random.default_rng(seed)
    examples = {name: _vectors(rng.random((4, SHAPE)), rng.random((4, COLOUR)), 0.3) for name in "abc"}
    turned_round = {name: examples[name][::-1] for name in "cba"}
    one, other = (learn_weights(found, None, GROUPS).learnt for found in (examples, turned_round))
    assert one == pytest.approx(other, abs=1e-3)


def test_a_group_in_which_all_vectors_are_zero_does_no_harm():
    rng = np.random.default_rng(0)
    padded = {name: np.pad(array, [(0, 0), (0, 3)]) for name, array in _coloured(rng, COLOURS, 5).items()}
    weights = learn_weights(padded, None, (*GROUPS, 3))
    weighed = weights.weigh(padded["red"])
    assert np.linalg.norm(weighed, axis=1) == pytest.approx(1)
