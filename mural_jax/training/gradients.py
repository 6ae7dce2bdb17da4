"""The loss of a step and its gradient, of the whole batch at once or of one part after another."""

from collections.abc import Mapping
from typing import Any

import jax

from mural_jax.distributed.mesh import Rules, constrain, constrain_batch
from mural_jax.models.functional import Params, merge, statistics
from mural_jax.tasks.base import Embedded, Task, embed, total_loss
from mural_jax.training.optimizers import path_name
from mural_jax.types import Array, Batch

Logs = dict[str, Array]


class Loss:
    """The loss as a function of the parameters: `parts` together are what `whole` is."""

    def __init__(
        self, graphdef: Any, tasks: Mapping[str, Task], frozen: frozenset[str],
        locked: frozenset[str], batch_statistics: Params, key: Array,
    ):  # fmt: skip
        """frozen: paths of parameters without a gradient. key: that of the step."""
        self.graphdef, self.tasks, self.frozen, self.locked = graphdef, tasks, frozen, locked
        self.statistics, self.key = batch_statistics, key

    def embed(self, params: Params, batches: Mapping[str, Batch]) -> tuple[Embedded, Params]:
        """(embeddings, batch statistics after the pass) of batches or of parts of them."""
        model = self._model(params)
        embedded = embed(model, self.tasks, batches, self.key, self.locked)
        return jax.tree.map(constrain_batch, embedded), statistics(model)

    def compare(
        self, params: Params, embedded: Embedded, batches: Mapping[str, Batch]
    ) -> tuple[Array, Logs]:
        """(loss, logs) of the embeddings of whole batches."""
        model = self._model(params)
        return total_loss(model, self.tasks, embedded, batches)

    def _model(self, params: Params) -> Any:
        def hold(path: tuple, value: Array) -> Array:
            return jax.lax.stop_gradient(value) if path_name(path) in self.frozen else value

        params = jax.tree.map_with_path(hold, params)
        return merge(self.graphdef, params, self.statistics)


def whole(
    loss: Loss, params: Params, batches: Mapping[str, Batch]
) -> tuple[Params, Logs, Params]:  # fmt: skip
    """(gradient, logs, batch statistics) in one pass over the batches."""

    def total(params: Params) -> tuple[Array, tuple[Logs, Params]]:
        embedded, passed = loss.embed(params, batches)
        value, logs = loss.compare(params, embedded, batches)
        return value, (logs, passed)

    gradient, (logs, passed) = jax.grad(total, has_aux=True)(params)
    return gradient, logs, passed


def in_parts(
    loss: Loss, params: Params, batches: Mapping[str, Batch], count: int, rules: Rules
) -> tuple[Params, Logs, Params]:
    """What `whole` gives, in the memory of a `count`-th of the batches, for one more forward pass.

    The loss looks at all pairs, so it cannot be a mean over parts. First all parts are embedded
    and nothing else is kept; then the gradient of the loss by the embeddings, and by the learned
    scalars, is that of the whole batch; last each part is passed again, and its share of that
    gradient goes back through the towers (GradCache, Gao et al. 2021, arXiv:2101.06983). An
    example draws the same dropout in both passes, and the same as in `whole`.

    Batch norms see one part at a time: only with them is the gradient another than that of
    `whole`. Their running statistics are the means over the parts.
    """
    parts = jax.tree.map(lambda x: _cut(x, count), batches)

    def look(_: None, part: Mapping[str, Batch]) -> tuple[None, tuple[Embedded, Params]]:
        return None, loss.embed(params, part)

    _, (embedded_parts, passed) = jax.lax.scan(look, None, parts)
    embedded = jax.tree.map(_join, embedded_parts)
    compare = jax.value_and_grad(loss.compare, argnums=(0, 1), has_aux=True)
    (_, logs), (gradient, by_embedding) = compare(params, embedded, batches)

    def add(gradient: Params, given: tuple[Mapping[str, Batch], Embedded]) -> tuple[Params, None]:
        part, share = given
        _, back = jax.vjp(lambda params: loss.embed(params, part)[0], params)
        gradient = jax.tree.map(lambda a, b: a + b, gradient, back(share)[0])
        return constrain(gradient, rules), None

    shares = jax.tree.map(lambda x: _cut(x, count), by_embedding)
    gradient, _ = jax.lax.scan(add, constrain(gradient, rules), (parts, shares))
    return gradient, logs, jax.tree.map(lambda x: x.mean(0), passed)


def _cut(x: Array, count: int) -> Array:
    """[B, ...] -> [count, B / count, ...]; a device cuts its own examples, none move."""
    parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
    return constrain_batch(parts, dim=1)


def _join(parts: Array) -> Array:
    """What `_cut` cut."""
    return constrain_batch(parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:]))
