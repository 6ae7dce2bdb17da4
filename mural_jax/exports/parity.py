"""Whether an export gives the embeddings that the trainer gives."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mural_jax.exports.trained import Subject

# The cosine that every example has to have at least, by how the weights are stored; ours. What a
# number of 8 or of 11 bits rounds off is 0.4% and 0.05% of it.
LEAST = {'float32': 0.9999, 'float16': 0.9999, 'bfloat16': 0.999, 'int8': 0.98}


class Mismatch(Exception):
    """The export does not give the trainer's embeddings."""


class Agreement(NamedTuple):
    """Cosines of an export's embeddings with the trainer's, of one tower."""

    tower: str
    examples: int
    lowest: float
    mean: float
    allowed: float


Encoder = Callable[[Sequence], np.ndarray]


def compare(subject: Subject, encoders: dict[str, Encoder], dtype: str) -> list[Agreement]:
    """Encodes the examples by what was exported.

    encoders: by tower; 'image' takes the bytes of pictures, 'text' takes texts. Raises Mismatch.
    """
    examples, found = subject.examples, []
    given = {'image': (examples.pictures, examples.image_ND),
             'text': (examples.texts, examples.text_ND)}  # fmt: skip
    for tower in subject.towers:
        inputs, wanted_ND = given[tower]
        vector_ND = np.asarray(encoders[tower](inputs), np.float64)
        if vector_ND.shape != wanted_ND.shape or not np.isfinite(vector_ND).all():
            raise Mismatch(
                f'the tower {tower} gives {list(vector_ND.shape)}, with values that are not '
                f'finite or of another shape than {list(wanted_ND.shape)}'
            )
        cosine_N = _cosines(vector_ND, wanted_ND.astype(np.float64))
        one = Agreement(
            tower, len(cosine_N), float(cosine_N.min()), float(cosine_N.mean()), LEAST[dtype]
        )
        if one.lowest < one.allowed:
            raise Mismatch(
                f'of {one.examples} examples of the tower {tower} the lowest cosine with the '
                f"trainer's embedding is {one.lowest:.6f}, less than {one.allowed}"
            )
        found.append(one)
    return found


def _cosines(one_ND: np.ndarray, other_ND: np.ndarray) -> np.ndarray:
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    # A vector of zeros agrees with nothing.
    return (one_ND * other_ND).sum(1) / np.maximum(lengths_N, 1e-30)
