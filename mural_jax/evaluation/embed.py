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
    graphdef: Any, task: str, tower: str, params: Params, statistics: Params, inputs: Any
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

    def images(self, task: str, visual: Any) -> np.ndarray:
        """Pictures, uint8 [N, H, W, 3], their regions, [N, R, F], or tags and regions.

        Gives float32 [N, D].
        """
        return self._embed(task, 'image', visual)

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        """N texts -> float32 [N, D]."""
        return self._embed(task, 'text', self.tokenize(texts))

    def _embed(self, task: str, tower: str, inputs: Any) -> np.ndarray:
        """Arrays [N, ...] -> float32 [N, D].

        The last batch is filled up with zeros, whose embeddings are dropped.
        """
        graphdef, *arrays = self.model
        count = len(jax.tree.leaves(inputs)[0])
        size = min(self.batch_size, 1 << (count - 1).bit_length())

        def filled(start: int, array: np.ndarray) -> np.ndarray:
            part = array[start : start + size]
            return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])

        embedded = [
            _encode(graphdef, task, tower, *arrays, jax.tree.map(partial(filled, start), inputs))
            for start in range(0, count, size)
        ]
        return np.concatenate([np.asarray(vectors) for vectors in embedded])[:count]
