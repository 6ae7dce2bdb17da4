"""A task is a stream, what to encode, an objective and a weight."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.types import Array, Batch, Encoding, Objective

# By task the embeddings of its two sides, query and result, float32 [B, D], unit norm.
Embedded = dict[str, tuple[Array, Array]]


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


def embed(
    model: DualEncoder, tasks: Mapping[str, Task], batches: Mapping[str, Batch], key: Array,
    locked: Collection[str] = (),
) -> Embedded:  # fmt: skip
    """The embeddings of all tasks, of batches or of parts of them.

    An example's are functions of the model, the key and its `index` in the global batch; batch
    norms alone look at what is beside it. Tasks with the same stream and the same fields share
    one pass through the towers. Towers in `locked` run as in evaluation: no dropout, batch norms
    at rest.
    """
    encoded: dict[tuple, list[Encoding]] = {}
    embedded = {}
    for number, (name, task) in enumerate(tasks.items()):
        view = (task.stream, task.encode)
        if view not in encoded:
            batch = batches[task.stream]
            own = jax.random.fold_in(key, number)
            key_B = jax.vmap(lambda index, own=own: jax.random.fold_in(own, index))(batch['index'])
            encoded[view] = _encode(model, task, batch, key_B, locked)
        query, result = (
            model.project(name, tower, encoding).pooled_BD
            for (_, tower), encoding in zip(task.encode, encoded[view])
        )
        embedded[name] = (query, result)
    return embedded


def total_loss(
    model: DualEncoder, tasks: Mapping[str, Task], embedded: Embedded,
    batches: Mapping[str, Batch],
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """sum_t weight_t * loss_t over the tasks, and their logs as `task/name`.

    The embeddings are those of the whole batches; of the model only learned scalars are used.
    """
    total = jnp.float32(0)
    logs: dict[str, Array] = {}
    for name, task in tasks.items():
        ids_BN = batches[task.stream]['ids']
        loss, task_logs = task.objective(*embedded[name], ids_BN, **model.scalars(name))
        total += task.weight * loss
        logs |= {f'{name}/{log}': value for log, value in {'loss': loss, **task_logs}.items()}
    return total, logs | {'loss': total}


def _encode(
    model: DualEncoder, task: Task, batch: Batch, key_B: Array, locked: Collection[str]
) -> list[Encoding]:
    """The encodings of the task's two fields; a tower that both need runs once over both."""
    (left, left_tower), (right, right_tower) = task.encode
    key_2B = jax.vmap(jax.random.split, out_axes=1)(key_B)
    if left_tower != right_tower:
        return [
            model.encode(tower, batch[field], None if tower in locked else own_B)
            for (field, tower), own_B in zip(task.encode, key_2B)
        ]
    # Side by side, not one after the other: a device keeps its own examples.
    both = jnp.stack([batch[left], batch[right]], axis=1)
    own = None if left_tower in locked else key_2B.T.reshape(-1)
    encoding = model.encode(left_tower, both.reshape(-1, *both.shape[2:]), own)
    pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), encoding)
    return [jax.tree.map(lambda x, side=side: x[:, side], pairs) for side in (0, 1)]
