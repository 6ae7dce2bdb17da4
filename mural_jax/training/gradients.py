"""The loss of a step and its gradient, for the whole batch at once or in microbatches."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import jax

from mural_jax.distributed.mesh import Rules, constrain, constrain_batch
from mural_jax.models.functional import Params, merge, read_batch_statistics
from mural_jax.tasks.base import Outputs, Task, encode_and_run, total_loss
from mural_jax.training.optimizers import path_name
from mural_jax.types import Array, Batch

Logs = dict[str, Array]


class Penalty(Protocol):
    """An objective over the parameters themselves, the third shape of an objective.

    EWC (Kirkpatrick et al. 2017, arXiv:1612.00796) and MAS (Aljundi et al. 2018,
    arXiv:1711.09601) are both of the form

        value = 1/2 sum_k importance_k (params_k - anchor_k)^2

    An implementation must be hashable and equal to another one of the same settings, such as a
    frozen dataclass: it is part of what a compiled step is looked up by.
    """

    def __call__(self, params: Params, anchor: Params, importance: Params) -> Array:
        """The penalty, a float32 scalar.

        The three trees have one structure and float32 leaves. `anchor` are the parameters at the
        end of an earlier stage, `importance` is at least 0. Both are constants.
        """
        ...


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['anchor', 'importance'],
    meta_fields=['objective', 'weight'],
)
@dataclasses.dataclass(frozen=True)
class PenaltyTerm:
    """A penalty with its arrays: `weight * objective(params, anchor, importance)`.

    A pytree: a jitted step takes its arrays as arguments, and compiles its objective and weight.
    """

    objective: Penalty
    anchor: Params
    importance: Params
    weight: float = 1.0


class Loss:
    """The loss of one step as a function of the parameters, in two halves.

    `embed` handles each example by itself, so it may run on parts of a batch. `compare` looks at
    all examples together.
    """

    def __init__(
        self,
        graphdef: Any,
        tasks: Mapping[str, Task],
        frozen: frozenset[str],
        locked: frozenset[str],
        batch_statistics: Params,
        key: Array,
        step: Array,
        penalties: Mapping[str, PenaltyTerm] | None = None,
    ):
        """Args:
        graphdef: structure of the model.
        tasks: the terms of the loss by name.
        frozen: paths of the parameters that get no gradient.
        locked: towers that run as in evaluation.
        batch_statistics: running statistics of batch norms before the step.
        key: the random key of the step.
        step: number of the step, int32.
        penalties: further terms of the loss, over the parameters alone.
        """
        self.graphdef, self.tasks, self.frozen, self.locked = graphdef, tasks, frozen, locked
        self.statistics, self.penalties = batch_statistics, penalties or {}
        self.key, self.step = key, step

    def embed(self, params: Params, batches: Mapping[str, Batch]) -> tuple[Outputs, Params]:
        """(embeddings, batch statistics after the pass) of batches or of parts of them."""
        model = self._build_model(params)
        outputs = encode_and_run(model, self.tasks, batches, self.key, self.step, self.locked)
        return jax.tree.map(constrain_batch, outputs), read_batch_statistics(model)

    def compare(
        self, params: Params, embedded: Outputs, batches: Mapping[str, Batch]
    ) -> tuple[Array, Logs]:
        """(loss, logs) from the embeddings of whole batches.

        loss = sum_t weight_t * loss_t + sum_p weight_p * penalty_p, over tasks and penalties.
        """
        model = self._build_model(params)
        total, logs = total_loss(model, self.tasks, embedded, batches, self.step)
        # Here and not in `embed`: a penalty counts once a step, not once a microbatch.
        for name, term in self.penalties.items():
            value = term.objective(self._freeze(params), term.anchor, term.importance)
            total += term.weight * value
            logs |= {f'{name}/penalty': value, 'loss': total}
        return total, logs

    def _build_model(self, params: Params) -> Any:
        return merge(self.graphdef, self._freeze(params), self.statistics)

    def _freeze(self, params: Params) -> Params:
        """The parameters, the frozen ones without a gradient."""

        def stop_if_frozen(path: tuple, value: Array) -> Array:
            return jax.lax.stop_gradient(value) if path_name(path) in self.frozen else value

        return jax.tree.map_with_path(stop_if_frozen, params)


def compute_gradient(
    loss: Loss, params: Params, batches: Mapping[str, Batch]
) -> tuple[Params, Logs, Params]:
    """(gradient, logs, batch statistics) in one pass over the batches."""

    def total(params: Params) -> tuple[Array, tuple[Logs, Params]]:
        embedded, batch_statistics = loss.embed(params, batches)
        value, logs = loss.compare(params, embedded, batches)
        return value, (logs, batch_statistics)

    gradient, (logs, batch_statistics) = jax.grad(total, has_aux=True)(params)
    return gradient, logs, batch_statistics


def accumulate_gradient(
    loss: Loss, params: Params, batches: Mapping[str, Batch], count: int, rules: Rules
) -> tuple[Params, Logs, Params]:
    """The result of `compute_gradient`, from `count` microbatches one after the other.

    Needs the activation memory of one microbatch, and one more forward pass. The loss compares
    all pairs of the batch, so it is no mean over microbatches; instead (GradCache, Gao et al.
    2021, arXiv:2101.06983):

    1. Embed every microbatch, and keep nothing but the embeddings.
    2. Compute the loss of the whole batch, and its gradient with respect to the embeddings and
       to the learned scalars.
    3. Embed every microbatch again, and propagate its share of that gradient through the towers.

    An example draws the same dropout in both passes, and the same as in `compute_gradient`.

    Batch norms see one microbatch at a time, so with them the gradient differs from that of
    `compute_gradient`. Their running statistics are the means over the microbatches.
    """
    parts = jax.tree.map(lambda x: _split_batch(x, count), batches)

    def embed_part(_: None, part: Mapping[str, Batch]) -> tuple[None, tuple[Outputs, Params]]:
        return None, loss.embed(params, part)

    _, (embedded_parts, part_statistics) = jax.lax.scan(embed_part, None, parts)
    embedded = jax.tree.map(_join_parts, embedded_parts)
    # This gradient holds only what `compare` itself uses of the parameters: the learned scalars
    # and the penalties. The towers' part follows below.
    compare = jax.value_and_grad(loss.compare, argnums=(0, 1), has_aux=True)
    (_, logs), (gradient, embedding_gradient) = compare(params, embedded, batches)

    def add_part(
        gradient: Params, inputs: tuple[Mapping[str, Batch], Outputs]
    ) -> tuple[Params, None]:
        part, share = inputs
        _, pull_back = jax.vjp(lambda params: loss.embed(params, part)[0], params)
        gradient = jax.tree.map(lambda a, b: a + b, gradient, pull_back(share)[0])
        # Or XLA may keep the running sum whole on every device.
        return constrain(gradient, rules), None

    shares = jax.tree.map(lambda x: _split_batch(x, count), embedding_gradient)
    gradient, _ = jax.lax.scan(add_part, constrain(gradient, rules), (parts, shares))
    return gradient, logs, jax.tree.map(lambda x: x.mean(0), part_statistics)


def _split_batch(x: Array, count: int) -> Array:
    """[B, ...] -> [count, B / count, ...].

    A microbatch takes every `count`-th example: so each device splits the examples that it
    holds, and none moves to another device.
    """
    parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
    return constrain_batch(parts, dim=1)


def _join_parts(parts: Array) -> Array:
    """The inverse of `_split_batch`."""
    return constrain_batch(parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:]))
