"""The contract of a similarity: how the two sides of a space are compared."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from mural_jax.types import Array, Encoding, Tree

Head = Callable[[Array], Array]  # [..., width of a tower] -> [..., width of the space]


class Similarity(Protocol):
    """Compares representations of the left side of a space with those of the right side.

    `represent` reduces an encoding to what is compared: a unit vector, unit vectors of tokens with
    their mask, a distribution, bits. A representation is a tree of arrays whose first dimension is
    the example; losses gather it, indexes store it.

    `score` compares every left example with every right one. The loss (gathered and around the
    ring), exact ranks and search all call this one function, on whole sets or on tiles of them,
    so it must be a pure function of its two arguments, and a score must not depend on its tile.

    The sides are those of the space, in order: an image-text space compares images (left) with
    texts (right), whichever of the two is the query. A caller whose queries are on the right
    transposes the score matrix.

    form: What a representation is, a key of `similarity.catalog.FORMS`. An index has one form.
    candidates: The kind of a cheaper similarity of the same space whose best results are worth
    scoring, or '' where scoring everything is cheap.
    """

    @property
    def form(self) -> str: ...

    @property
    def candidates(self) -> str: ...

    def represent(self, encoding: Encoding, head: Head) -> Tree:
        """The representation of encoded examples, float32 where it is differentiated."""
        ...

    def score(self, left: Tree, right: Tree) -> Array:
        """Score matrix, float32 [Q, R], of Q left and R right examples; higher is more alike."""
        ...

    def score_pairs(self, left: Tree, right: Tree) -> np.ndarray:
        """Scores of P pairs, float64 [P]: the definition, summed in one order, in NumPy.

        Exact ranks fall back on it where float32 scores are too close to tell apart.
        """
        ...

    def rounding(self, left: Tree, right: Tree) -> float:
        """A bound of |score - score_pairs| over all pairs of two sets of NumPy representations."""
        ...


@dataclasses.dataclass(frozen=True)
class Swapped:
    """A similarity whose queries are on the right side of its space."""

    similarity: Similarity

    @property
    def form(self) -> str:
        return self.similarity.form

    @property
    def candidates(self) -> str:
        return self.similarity.candidates

    def represent(self, encoding: Encoding, head: Head) -> Tree:
        return self.similarity.represent(encoding, head)

    def score(self, left: Tree, right: Tree) -> Array:
        return self.similarity.score(right, left).T

    def score_pairs(self, left: Tree, right: Tree) -> np.ndarray:
        return self.similarity.score_pairs(right, left)

    def rounding(self, left: Tree, right: Tree) -> float:
        return self.similarity.rounding(right, left)
