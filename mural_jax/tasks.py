"""A task is a stream, what to encode, an objective and a weight."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.types import Array, Batch, Encoding, Objective


@dataclasses.dataclass(frozen=True)
class Task:
    """One term of the loss.

    stream: where its batches come from. encode: ((field, tower), (field, tower)), the query and
    the result. weight: of its loss in the sum. temperature, bias: what the learned ones start
    from; a bias goes with an objective that has one.
    """

    stream: str
    encode: tuple[tuple[str, str], tuple[str, str]]
    objective: Objective
    weight: float = 1.0
    temperature: float = 0.07
    bias: float | None = None

    @property
    def towers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tower for _, tower in self.encode))


def total_loss(
    model: DualEncoder, tasks: Mapping[str, Task], batches: Mapping[str, Batch], key: Array,
    locked: Collection[str] = (),
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """sum_t weight_t * loss_t over the tasks, and their logs as `task/name`.

    Tasks with the same stream and the same fields share one pass through the towers. Towers in
    `locked` run as in evaluation: no dropout, batch norms at rest.
    """
    encoded: dict[tuple, list[Encoding]] = {}
    total = jnp.float32(0)
    logs: dict[str, Array] = {}
    for number, (name, task) in enumerate(tasks.items()):
        batch = batches[task.stream]
        view = (task.stream, task.encode)
        if view not in encoded:
            encoded[view] = _encode(model, task, batch, jax.random.fold_in(key, number), locked)
        query, result = (
            model.project(name, tower, encoding).pooled_BD
            for (_, tower), encoding in zip(task.encode, encoded[view])
        )
        loss, task_logs = task.objective(query, result, batch['ids'], **model.scalars(name))
        total += task.weight * loss
        logs |= {f'{name}/{log}': value for log, value in {'loss': loss, **task_logs}.items()}
    return total, logs | {'loss': total}


def _encode(
    model: DualEncoder, task: Task, batch: Batch, key: Array, locked: Collection[str]
) -> list[Encoding]:
    """The encodings of the task's two fields; a tower that both need runs once over both."""
    (left, left_tower), (right, right_tower) = task.encode
    if left_tower != right_tower:
        keys = jax.random.split(key)
        return [
            model.encode(tower, batch[field], None if tower in locked else own)
            for (field, tower), own in zip(task.encode, keys)
        ]
    # Side by side, not one after the other: a device keeps its own examples.
    both = jnp.stack([batch[left], batch[right]], axis=1)
    own = None if left_tower in locked else key
    encoding = model.encode(left_tower, both.reshape(-1, *both.shape[2:]), own)
    pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), encoding)
    return [jax.tree.map(lambda x, side=side: x[:, side], pairs) for side in (0, 1)]
