"""Embedding many items with a trained model, in batches of one shape."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from mural_jax.models.functional import Params, merge
from mural_jax.types import Array


@partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(
    graphdef: Any, task: str, tower: str, params: Params, statistics: Params, inputs: Array
) -> Array:
    model = merge(graphdef, params, statistics)
    return model.project(task, tower, model.encode(tower, inputs)).pooled_BD


class Embedder:
    """Pictures and texts -> unit vectors of one task's space."""

    def __init__(
        self, graphdef: Any, params: Params, statistics: Params,
        tokenize: Callable[[list[str]], np.ndarray], batch_size: int = 256,
    ):  # fmt: skip
        """`tokenize` makes int32 [N, L] of texts; `batch_size` is what one pass holds."""
        self._graphdef, self._params, self._statistics = graphdef, params, statistics
        self._tokenize, self._batch_size = tokenize, batch_size

    def images(self, task: str, image_NHWC: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, D]."""
        return self._embed(task, 'image', image_NHWC)

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        """N texts -> float32 [N, D]."""
        return self._embed(task, 'text', self._tokenize(texts))

    def _embed(self, task: str, tower: str, inputs: np.ndarray) -> np.ndarray:
        """The last batch is filled up with zeros, whose embeddings are dropped."""
        size = min(self._batch_size, 1 << (len(inputs) - 1).bit_length())
        embedded = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            filled = np.zeros((size, *inputs.shape[1:]), inputs.dtype)
            filled[: len(part)] = part
            vectors = _encode(self._graphdef, task, tower, self._params, self._statistics, filled)
            embedded.append(np.asarray(vectors)[: len(part)])
        return np.concatenate(embedded)
