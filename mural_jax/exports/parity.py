"""Check that an export gives the embeddings of the trainer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mural_jax.exports.trained import TrainedModel

# The lowest cosine that any example may have, by the dtype of the stored weights (ours). Rounding
# to the 8 significant bits of bfloat16 changes a number by up to 0.4%, to the 11 of float16 by up
# to 0.05%.
MIN_COSINE = {'float32': 0.9999, 'float16': 0.9999, 'bfloat16': 0.999, 'int8': 0.98}


class Mismatch(Exception):
    """An export that does not give the trainer's embeddings."""


class Agreement(NamedTuple):
    """Cosines between the embeddings of an export and of the trainer, for one tower.

    examples: number of examples. allowed: the lowest cosine that is accepted.
    """

    tower: str
    examples: int
    lowest: float
    mean: float
    allowed: float


Encoder = Callable[[Sequence], np.ndarray]


def check_parity(source: TrainedModel, encoders: dict[str, Encoder], dtype: str) -> list[Agreement]:
    """Encodes the examples with an export and returns how well each tower agrees.

    encoders: by tower; 'image' takes encoded images, 'text' takes strings.
    dtype: of the stored weights.

    Raises Mismatch if any example has a cosine below what its dtype allows.
    """
    examples, agreements = source.examples, []
    inputs_and_vectors = {
        'image': (examples.images, examples.image_ND),
        'text': (examples.texts, examples.text_ND),
    }
    for tower in source.towers:
        inputs, expected_ND = inputs_and_vectors[tower]
        vector_ND = np.asarray(encoders[tower](inputs), np.float64)
        if vector_ND.shape != expected_ND.shape or not np.isfinite(vector_ND).all():
            raise Mismatch(
                f'the tower {tower} gives an array {list(vector_ND.shape)}, which has values that '
                f'are not finite or another shape than {list(expected_ND.shape)}'
            )
        cosine_N = _compute_cosines(vector_ND, expected_ND.astype(np.float64))
        agreement = Agreement(
            tower, len(cosine_N), float(cosine_N.min()), float(cosine_N.mean()), MIN_COSINE[dtype]
        )
        if agreement.lowest < agreement.allowed:
            raise Mismatch(
                f'for the tower {tower}, the lowest cosine of {agreement.examples} examples with '
                f"the trainer's embeddings is {agreement.lowest:.6f}, below {agreement.allowed}"
            )
        agreements.append(agreement)
    return agreements


def _compute_cosines(one_ND: np.ndarray, other_ND: np.ndarray) -> np.ndarray:
    """Returns the cosine of each pair of rows, [N]."""
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    # The bound gives a vector of zeros the cosine 0 instead of NaN, so that it is a mismatch.
    return (one_ND * other_ND).sum(1) / np.maximum(lengths_N, 1e-30)
