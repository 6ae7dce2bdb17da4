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
        self.model = graphdef, params, statistics
        self.tokenize, self.batch_size = tokenize, batch_size

    def images(self, task: str, visual: np.ndarray) -> np.ndarray:
        """Pictures, uint8 [N, H, W, 3], or their regions, [N, R, F] -> float32 [N, D]."""
        return self._embed(task, 'image', visual)

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        """N texts -> float32 [N, D]."""
        return self._embed(task, 'text', self.tokenize(texts))

    def _embed(self, task: str, tower: str, inputs: np.ndarray) -> np.ndarray:
        """The last batch is filled up with zeros, whose embeddings are dropped."""
        graphdef, *arrays = self.model
        size = min(self.batch_size, 1 << (len(inputs) - 1).bit_length())
        embedded = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            filled = np.zeros((size, *inputs.shape[1:]), inputs.dtype)
            filled[: len(part)] = part
            vectors = _encode(graphdef, task, tower, *arrays, filled)
            embedded.append(np.asarray(vectors)[: len(part)])
        return np.concatenate(embedded)
