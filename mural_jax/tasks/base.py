"""A task is a stream, what to encode, an objective and a weight."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.types import Array, Batch, Encoding

# What is encoded: (field, tower), or (fields, tower) where a tower takes several together, which
# may be tuples again.
Encode = tuple[tuple[Any, str], ...]
# By task what its loss needs of the examples: trees of arrays [B, ...].
Embedded = dict[str, Any]


class Task(Protocol):
    """One term of the loss.

    Whatever is an example's own is computed in `outputs`, of batches or of parts of them; what
    looks at all examples, in `loss`.
    """

    @property
    def stream(self) -> str: ...

    @property
    def encode(self) -> Encode: ...

    @property
    def weight(self) -> float: ...

    def outputs(
        self, name: str, model: Any, encodings: list[Encoding], batch: Batch, key_B: Array
    ) -> Any: ...

    def loss(
        self, name: str, model: Any, outputs: Any, batch: Batch
    ) -> tuple[Array, dict[str, Array]]: ...


def embed(
    model: Any, tasks: Mapping[str, Task], batches: Mapping[str, Batch], key: Array,
    locked: Collection[str] = (),
) -> Embedded:  # fmt: skip
    """What the losses of all tasks need, of batches or of parts of them.

    An example's are functions of the model, the key and its `index` in the global batch; batch
    norms alone look at what is beside it. Tasks with the same stream and the same fields share
    one pass through the towers. Towers in `locked` run as in evaluation: no dropout, batch norms
    at rest.
    """
    encoded: dict[tuple, list[Encoding]] = {}
    embedded = {}
    for number, (name, task) in enumerate(tasks.items()):
        batch = batches[task.stream]
        view = (task.stream, task.encode)
        if view not in encoded:
            encoded[view] = _encode(model, task.encode, batch, _keys(key, number, batch), locked)
        key_B = _keys(key, len(tasks) + number, batch)
        embedded[name] = task.outputs(name, model, encoded[view], batch, key_B)
    return embedded


def total_loss(
    model: Any, tasks: Mapping[str, Task], embedded: Embedded, batches: Mapping[str, Batch]
) -> tuple[Array, dict[str, Array]]:
    """sum_t weight_t * loss_t over the tasks, and their logs as `task/name`.

    `embedded` is that of the whole batches; of the model only learned scalars are used.
    """
    total = jnp.float32(0)
    logs: dict[str, Array] = {}
    for name, task in tasks.items():
        loss, task_logs = task.loss(name, model, embedded[name], batches[task.stream])
        total += task.weight * loss
        logs |= {f'{name}/{log}': value for log, value in {'loss': loss, **task_logs}.items()}
    return total, logs | {'loss': total}


def _keys(key: Array, number: int, batch: Batch) -> Array:
    """A key for each example, [B], by its place in the global batch."""
    own = jax.random.fold_in(key, number)
    return jax.vmap(lambda index: jax.random.fold_in(own, index))(batch['index'])


def _encode(
    model: Any, encode: Encode, batch: Batch, key_B: Array, locked: Collection[str]
) -> list[Encoding]:
    """The encodings of the fields; a tower that several need runs once over all of them."""
    key_NB = jax.vmap(lambda key: jax.random.split(key, max(2, len(encode))), out_axes=1)(key_B)
    encodings: dict[int, Encoding] = {}
    for tower in dict.fromkeys(tower for _, tower in encode):
        places = [place for place, (_, other) in enumerate(encode) if other == tower]
        inputs = [inputs_of(batch, encode[place][0]) for place in places]
        if len(places) == 1:
            own_B = None if tower in locked else key_NB[places[0]]
            encodings[places[0]] = model.encode(tower, inputs[0], own_B)
            continue
        # Side by side, not one after the other: a device keeps its own examples.
        beside = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *inputs)
        own = None if tower in locked else key_NB[np.array(places)].T.reshape(-1)
        encoding = model.encode(tower, beside, own)
        for side, place in enumerate(places):
            encodings[place] = _every(encoding, side, len(places))
    return [encodings[place] for place in range(len(encode))]


def _every(encoding: Encoding, side: int, count: int) -> Encoding:
    """Of `count` encodings side by side for each example, one."""
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:])[:, side], encoding)


def inputs_of(batch: Batch, field: Any) -> Any:
    """What an `encode` names of a batch: a field, or a tuple of such."""
    return batch[field] if isinstance(field, str) else tuple(inputs_of(batch, x) for x in field)


def name_of(field: Any) -> str:
    """A name for what an `encode` names."""
    return field if isinstance(field, str) else '+'.join(map(name_of, field))
