"""Embedding many items with a trained model, in batches of one shape, over all devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mural_jax.distributed.mesh import gather, global_batch
from mural_jax.evaluation.split_data import Items
from mural_jax.models.functional import Params, merge
from mural_jax.types import Array, UserError


@partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(
    graphdef: Any, task: str, tower: str, params: Params, statistics: Params, inputs: Any
) -> Array:
    model = merge(graphdef, params, statistics)
    return gather(model.project(task, tower, model.encode(tower, inputs)).pooled_BD)


class Embedder:
    """Pictures and texts -> unit vectors of one task's space."""

    def __init__(
        self, graphdef: Any, params: Params, statistics: Params,
        tokenize: Callable[[list[str]], np.ndarray], batch_size: int = 256,
        mesh: Mesh | None = None,
    ):  # fmt: skip
        """`tokenize` makes int32 [N, L] of texts; `batch_size` is what one pass holds.

        mesh: where the parameters are, each of its devices and hosts takes a part of a batch; None
        for one device.
        """
        self.model = graphdef, params, statistics
        self.tokenize, self.mesh = tokenize, mesh
        parts = mesh.shape['data'] * mesh.shape['fsdp'] if mesh else 1
        self.batch_size = -(-batch_size // parts) * parts
        self._parts = parts

    def images(self, task: str, items: Items) -> np.ndarray:
        """The pictures of items, float32 [N, D]. They are decoded batch by batch."""
        return self._embed(task, 'image', items.decode, len(items.png))

    def visual(self, task: str, visual: Any) -> np.ndarray:
        """Decoded pictures, uint8 [N, H, W, 3], their regions, [N, R, F], or tags and regions.

        Gives float32 [N, D].
        """
        return self._embed(task, 'image', _slices(visual), len(jax.tree.leaves(visual)[0]))

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        """N texts -> float32 [N, D]."""
        return self._embed(task, 'text', lambda a, b: self.tokenize(texts[a:b]), len(texts))

    def _embed(
        self, task: str, tower: str, part: Callable[[int, int], Any], count: int
    ) -> np.ndarray:
        """`part` gives inputs [stop - start, ...] -> float32 [N, D].

        Each host makes its own rows of a batch. The last one is filled up with copies, whose
        embeddings are dropped. Raises UserError where an embedding is not finite.
        """
        graphdef, *arrays = self.model
        size = self.batch_size
        while size // 2 >= count and size % (2 * self._parts) == 0:
            size //= 2
        own = size // jax.process_count() if self.mesh else size
        first = own * jax.process_index() if self.mesh else 0
        embedded = []
        for start in range(0, count, size):
            begin = min(start + first, count - 1)
            rows = part(begin, max(min(begin + own, count), begin + 1))
            filled = jax.tree.map(lambda x: _filled(x, own), rows)
            if self.mesh:
                with jax.set_mesh(self.mesh):
                    inputs = global_batch(filled, self.mesh)
                    vectors = _encode(graphdef, task, tower, *arrays, inputs)
            else:
                vectors = _encode(graphdef, task, tower, *arrays, filled)
            embedded.append(np.asarray(vectors))
        vector_ND = np.concatenate(embedded)[:count]
        if not np.isfinite(vector_ND).all():
            bad = int((~np.isfinite(vector_ND).all(1)).sum())
            raise UserError(
                f'{bad} of {count} embeddings of {tower}s for {task} are not finite: no score '
                'would mean anything. Take an earlier checkpoint with --step.'
            )
        return vector_ND


def _filled(rows: Array, size: int) -> np.ndarray:
    """The rows, then copies of the last one up to `size`."""
    rows = np.asarray(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _slices(visual: Any) -> Callable[[int, int], Any]:
    return lambda start, stop: jax.tree.map(lambda array: array[start:stop], visual)
