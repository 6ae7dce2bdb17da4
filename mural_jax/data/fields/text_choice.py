"""Which text of an example is taken."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mural_jax.types import UserError

NUM_RANDOM = 3  # numbers in [0, 1) that one choice takes


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """A kind of text that an example has, then one text of it, or several of them joined.

    kinds: how often each kind is taken, in proportion; a kind that an example lacks leaves its
    share to the others. Empty takes the data set's own kinds, every kind alike.
    joined: by kind, at most so many of its texts are joined by commas, at least 1.
    """

    kinds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    joined: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.kinds.values()) or (
            self.kinds and not any(self.kinds.values())
        ):
            raise UserError('text.kinds: weights must be 0 or more, and one of them more than 0.')
        if any(count < 1 for count in self.joined.values()):
            raise UserError('text.joined: numbers must be at least 1.')

    def kind_weights(self, kinds: Sequence[str]) -> np.ndarray:
        """The weight of each of a data set's kinds, float64 [K]; all 1 where none is named."""
        if not self.kinds:
            return np.ones(len(kinds))
        return np.array([float(self.kinds.get(kind, 0.0)) for kind in kinds])

    def most_joined(self, kinds: Sequence[str]) -> np.ndarray:
        """How many texts of each kind are joined at most, int64 [K]."""
        return np.array([self.joined.get(kind, 1) for kind in kinds], np.int64)


def choose_texts(
    kind_T: np.ndarray,
    size_B: np.ndarray,
    weight_K: np.ndarray,
    most_K: np.ndarray,
    random_B3: np.ndarray,
) -> np.ndarray:
    """Places among the texts of each example, int64 [B, J], -1 where fewer are joined.

    `kind_T`: the kinds of the texts of all examples, sorted within one; `size_B` of them belong to
    each, at least one with weight. `random_B3` in [0, 1): the kind, where among its texts, how
    many.
    """
    row_T = np.repeat(np.arange(len(size_B)), size_B)
    width = len(weight_K)
    key_T = row_T * width + kind_T
    count_BK = np.bincount(key_T, minlength=len(size_B) * width).reshape(-1, width)
    share_BK = np.cumsum((count_BK > 0) * weight_K, axis=1)
    wanted_B1 = random_B3[:, :1].astype(np.float64) * share_BK[:, -1:]
    kind_B = np.minimum((share_BK <= wanted_B1).sum(axis=1), width - 1)
    rows_B = np.arange(len(size_B))
    total_B = count_BK[rows_B, kind_B]
    first_B = np.cumsum(count_BK, axis=1)[rows_B, kind_B] - total_B
    start_B = _scale(random_B3[:, 1], total_B)
    joined_B = _scale(random_B3[:, 2], np.minimum(total_B, most_K[kind_B])) + 1
    # A run of texts from a random start, wrapping round.
    run_J = np.arange(int(most_K.max()))[None]
    place_BJ = first_B[:, None] + (start_B[:, None] + run_J) % total_B[:, None]
    return np.where(run_J < joined_B[:, None], place_BJ, -1)


def _scale(random_B: np.ndarray, number_B: np.ndarray) -> np.ndarray:
    """[0, 1) -> {0, ..., number - 1}, int64."""
    scaled_B = np.floor(random_B.astype(np.float64) * number_B).astype(np.int64)
    return np.minimum(scaled_B, number_B - 1)
