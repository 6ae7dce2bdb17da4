"""Which of an example's texts is drawn. Needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mural_jax.types import UserError

NUM_RANDOM = 3  # random numbers in [0, 1) that one choice uses


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """Chooses a kind of text that an example has, then one text of it, or several to be joined.

    kinds: relative frequency of each kind; the share of a kind that an example lacks goes to its
    other kinds. Empty draws all default kinds of the data set equally often.
    joined: by kind, largest number of its texts that are joined by commas, at least 1; 1 for
    other kinds.
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
        """The weight of each of a data set's kinds, float64 [K]; all 1 if none is set."""
        if not self.kinds:
            return np.ones(len(kinds))
        return np.array([float(self.kinds.get(kind, 0.0)) for kind in kinds])

    def most_joined(self, kinds: Sequence[str]) -> np.ndarray:
        """Largest number of texts that are joined of each kind, int64 [K]."""
        return np.array([self.joined.get(kind, 1) for kind in kinds], np.int64)


def choose_texts(
    kind_T: np.ndarray,
    size_B: np.ndarray,
    weight_K: np.ndarray,
    most_K: np.ndarray,
    random_B3: np.ndarray,
) -> np.ndarray:
    """Places of the chosen texts among each example's texts, int64 [B, J]; -1 for none.

    kind_T: kinds of the texts of all examples, one example after another, sorted within each.
    size_B: number of texts of each example, at least one of them of a kind with weight.
    weight_K, most_K: weight and largest number of joined texts of each kind; J is the maximum.
    random_B3: numbers in [0, 1) that choose the kind, the first text of it, and how many.
    """
    # Number of texts of each example and kind.
    row_T = np.repeat(np.arange(len(size_B)), size_B)
    width = len(weight_K)
    key_T = row_T * width + kind_T
    count_BK = np.bincount(key_T, minlength=len(size_B) * width).reshape(-1, width)
    # The kind whose interval of the cumulative weights holds the random number.
    share_BK = np.cumsum((count_BK > 0) * weight_K, axis=1)
    wanted_B1 = random_B3[:, :1].astype(np.float64) * share_BK[:, -1:]
    kind_B = np.minimum((share_BK <= wanted_B1).sum(axis=1), width - 1)
    rows_B = np.arange(len(size_B))
    total_B = count_BK[rows_B, kind_B]
    first_B = np.cumsum(count_BK, axis=1)[rows_B, kind_B] - total_B
    start_B = _scale(random_B3[:, 1], total_B)
    joined_B = _scale(random_B3[:, 2], np.minimum(total_B, most_K[kind_B])) + 1
    # Joined texts follow each other from a random start, and the first follows the last.
    run_J = np.arange(int(most_K.max()))[None]
    place_BJ = first_B[:, None] + (start_B[:, None] + run_J) % total_B[:, None]
    return np.where(run_J < joined_B[:, None], place_BJ, -1)


def _scale(random_B: np.ndarray, number_B: np.ndarray) -> np.ndarray:
    """int64 [B] in {0, ..., number - 1} from random numbers in [0, 1)."""
    scaled_B = np.floor(random_B.astype(np.float64) * number_B).astype(np.int64)
    return np.minimum(scaled_B, number_B - 1)
