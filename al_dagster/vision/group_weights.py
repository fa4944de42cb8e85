"""How much each group of an embedding's features counts, learnt from examples of the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize
from scipy.special import logsumexp

SHARPNESS = 20.0
"""By how much the logarithm of an example's say in the name of another grows as their likeness grows by 1."""

PULL = 20.0
"""Strength of the pull to the embedding's own weights, which as many examples must outweigh."""

PARAMETERS = {"sharpness": SHARPNESS, "pull": PULL}
"""What the weights depend on."""


@dataclass(frozen=True)
class GroupWeights:
    """Weights of groups of features.

    Args:
        lengths: features of each group, in their order in a vector.
        own: each group's share in the likeness of two vectors, as the embedder made them; the sum is 1.
        learnt: the share that it gets instead; the sum is 1.
    """

    lengths: tuple[int, ...]
    own: NDArray[np.float64]
    learnt: NDArray[np.float64]

    def weigh(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors whose cosine similarity gives the groups their learnt shares.

        Args:
            vectors: (n, dimension), as the embedder makes them.

        Returns:
            (n, dimension), float32, L2 norm 1.
        """
        factors = np.sqrt(np.divide(self.learnt, self.own, out=np.zeros_like(self.own), where=self.own > 0))
        weighed = vectors * np.repeat(factors, self.lengths)
        return np.asarray(weighed / np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def learn_weights(
    examples: Mapping[str, NDArray[np.float32]], others: NDArray[np.float32] | None, lengths: Sequence[int]
) -> GroupWeights | None:
    """Learn which groups of features tell the classes apart.

    Each example is named by the others, each having a say that grows exponentially with its likeness, and the weights
    are those under which the right class gets the most say, as in neighbourhood components analysis (Goldberger et al.
    2004, "Neighbourhood components analysis"), which scikit-learn has for free linear maps; a handful of examples can
    settle one number a group and no more. The classes count alike. A ridge pulls the weights to the embedding's own,
    so that few examples, or examples that are told apart anyhow, change little.

    Args:
        examples: for each class, (k, dimension), L2 norm 1: a vector an example, not one a turn.
        others: (k, dimension), L2 norm 1: what is of no class, which examples should not be like; or None.
        lengths: features of each group, in their order in a vector.

    Returns:
        The weights; None where there is nothing to learn: one group, one class and no others, or no class with two
        examples.

    Raises:
        ValueError: the groups do not make up a vector.
    """
    arrays = [*examples.values(), *([] if others is None else [others])]
    if sum(lengths) != arrays[0].shape[1]:
        raise ValueError(f"groups of {', '.join(map(str, lengths))} features do not make up {arrays[0].shape[1]}")
    vectors = np.concatenate(arrays).astype(np.float64)
    names = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    asked = np.flatnonzero(np.bincount(names)[names] > 1)
    asked = asked[names[asked] < len(examples)]
    if len(lengths) < 2 or len(arrays) < 2 or len(asked) == 0:
        return None
    parts = np.split(vectors, np.cumsum(lengths)[:-1], axis=1)
    own = np.array([np.square(part).sum() for part in parts]) / np.square(vectors).sum()
    likeness = np.stack(
        [part[asked] @ part.T / max(share, 1e-12) for part, share in zip(parts, own, strict=True)], axis=2
    )
    itself = asked[:, None] == np.arange(len(vectors))
    right = (names[asked, None] == names) & ~itself
    counts = np.bincount(names[asked])[names[asked]]
    weight = len(asked) / (counts * len(np.unique(names[asked])))

    def loss(shares: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        say = np.where(itself, -np.inf, SHARPNESS * (likeness @ shares))
        everyone = logsumexp(say, axis=1, keepdims=True)
        agreeing = logsumexp(np.where(right, say, -np.inf), axis=1, keepdims=True)
        change = np.exp(say - everyone) - np.where(right, np.exp(say - agreeing), 0.0)
        value = weight @ (everyone - agreeing)[:, 0] + PULL * np.square(shares - own).sum()
        slope = SHARPNESS * np.einsum("i,ij,ijg->g", weight, change, likeness) + 2 * PULL * (shares - own)
        return float(value), slope

    found = minimize(
        loss,
        own,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(own),
        constraints=LinearConstraint(np.ones((1, len(own))), 1.0, 1.0),
    )
    learnt = np.clip(found.x, 0.0, None)
    return GroupWeights(tuple(lengths), own, learnt / learnt.sum())
