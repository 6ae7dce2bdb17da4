"""Random pairs of texts and regions, with a random model of one stream that scores them."""

import dataclasses
from typing import Any

import numpy as np
from evaluation.fixed_data import FixedData, make_fixed
from models.towers import build_one_stream

from mural_jax.evaluation.embed import ModelEmbedder
from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.models import functional

SIZE = 30  # The first pair has no text.


@dataclasses.dataclass(frozen=True)
class JointPairs:
    """The pairs as data, and the arrays behind.

    batch: the batch that the data yields, with its last example masked.
    """

    data: FixedData
    examples: SplitExamples
    batch: dict[str, Any]
    text_NL: np.ndarray
    region_NRF: np.ndarray


def make_pairs() -> JointPairs:
    rng = np.random.default_rng(0)
    text_NL = rng.integers(4, 20, (SIZE, 6)).astype(np.int32)
    region_NRF = rng.uniform(0, 1, (SIZE, 3, 9)).astype(np.float32)
    region_NRF[..., 4:] = [0.1, 0.1, 0.4, 0.4, 0.09]
    place_BM = rng.integers(0, 3, (SIZE, 2)).astype(np.int32)
    batch = {
        'text': text_NL,
        'regions': region_NRF,
        'word_place': place_BM,
        'word_target': rng.integers(0, 20, (SIZE, 2)).astype(np.int32),
        'region_place': place_BM,
        'region_target': rng.integers(0, 7, (SIZE, 2)).astype(np.int32),
        'match': (np.arange(SIZE) % 2).astype(np.int32),
        'ids': text_NL[:, :2],
        'origin': text_NL[:, 0],
    }
    embedder = ModelEmbedder(
        *functional.split(build_one_stream()), lambda texts: text_NL[[int(text) for text in texts]]
    )
    texts: list[dict[str, list[str]]] = [
        {'en': [str(number)]} if number else {} for number in range(SIZE)
    ]
    examples = SplitExamples(
        [str(number) for number in range(SIZE)],
        texts,
        np.full(SIZE, -1),
        np.full(SIZE, np.nan),
        [b''] * SIZE,
        lambda start, stop: region_NRF[start:stop],
    )
    masked = batch, np.arange(SIZE) < SIZE - 1
    data = make_fixed(embedder, lambda split: examples, [masked])
    return JointPairs(data, examples, batch, text_NL, region_NRF)
