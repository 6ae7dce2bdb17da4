"""The contract of a task: a stream, views of its examples, an objective and a weight."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.config.build import check_known
from mural_jax.data.streams.base import Field, Stream
from mural_jax.models.companions import Companion
from mural_jax.models.spaces import Spaces
from mural_jax.types import Array, Batch, Encoding, UserError

# Views of an example: (field, encoder), or (fields, encoder) for an encoder that takes several
# fields together. Fields may be nested: (('text', ('tags', 'regions')), 'joint').
Encode = tuple[tuple[Any, str], ...]
# What the losses need of the examples, by task: trees of arrays [B, ...].
Outputs = dict[str, Any]


class Pass(NamedTuple):
    """What a task sees of a step.

    model: The model of the run; it holds the companions.
    batch: The batch of the task's stream: the whole one in `loss`, perhaps a part in `outputs`.
    step: Number of the step, int32.
    encodings: One for each view of the task; none in `loss`.
    key_B: A random key for each example; None in `loss`.
    """

    model: Any
    batch: Batch
    step: Array
    encodings: Sequence[Encoding] = ()
    key_B: Array | None = None


class Setup(Protocol):
    """What a task may ask of its run when it checks itself."""

    @property
    def encoders(self) -> Collection[str]: ...

    @property
    def model(self) -> Mapping[str, Any]: ...

    @property
    def spaces(self) -> Spaces: ...

    @property
    def streams(self) -> Mapping[str, Stream]: ...

    @property
    def companions(self) -> Mapping[str, Companion]: ...

    @property
    def microbatches(self) -> int: ...

    @property
    def init_from(self) -> Mapping[str, str]: ...


class Task(Protocol):
    """One term of the loss.

    Whatever belongs to one example alone is computed in `outputs`, which is called with whole
    batches or with parts of them; whatever looks at all examples belongs into `loss`. That is
    what makes microbatches exact.
    """

    @property
    def stream(self) -> str: ...

    @property
    def encode(self) -> Encode: ...

    @property
    def weight(self) -> float: ...

    def outputs(self, given: Pass) -> Any:
        """What the loss needs of each example, a tree of [B, ...]."""
        ...

    def loss(self, given: Pass, outputs: Any) -> tuple[Array, dict[str, Array]]:
        """(scalar loss, scalar logs) of the outputs of the whole batch."""
        ...

    def trained_spaces(self) -> Mapping[str, tuple[str, ...]]:
        """The spaces that the task trains, and the scalars of each that it learns."""
        ...

    def check(self, setup: Setup, where: str) -> None:
        """Raises UserError where the task does not fit its run; `where` is its config node."""
        ...

    def check_classes(self, counts: Mapping[str, int], setup: Setup, where: str) -> None:
        """Raises UserError where targets have more classes than the model knows.

        counts: Classes of the stream's target fields, where its data sets say them.
        """
        ...

    def num_negatives(self, batch_size: int) -> int:
        """Negatives that each query meets in a batch, 0 for a task that compares none."""
        ...


def check_views(task: Task, setup: Setup, where: str) -> None:
    """Raises UserError where a task names a stream, field or encoder that its run lacks."""
    check_known(task.stream, setup.streams, f'{where}.stream')
    for _, encoder in task.encode:
        if encoder not in setup.encoders:
            raise UserError(
                f'config.{where}.encode names the encoder {encoder!r}; this model has '
                f'{", ".join(setup.encoders)}.'
                + (' A joint one needs model.kind=one_stream.' if encoder == 'joint' else '')
            )
    fields = setup.streams[task.stream].fields()
    for field, _ in task.encode:
        names = field_names(field)
        for name in names:
            check_known(name, fields, f'{where}.encode')
        _check_tags(names, fields, where)


def _check_tags(names: Sequence[str], fields: Mapping[str, Field], where: str) -> None:
    """Raises UserError where a view takes regions without the tags that belong to them."""
    for name in names:
        # The tags of an image and of its hard negative differ.
        tags = [
            other
            for other, field in fields.items()
            if field.role == 'tags' and bool(field.negative_of) == bool(fields[name].negative_of)
        ]
        if fields[name].role == 'regions' and tags and tags[0] not in names:
            raise UserError(
                f'config.{where}.encode takes {name!r} alone, but in this stream an image is its '
                f'tags and its regions: write ({tags[0]!r}, {name!r}).'
            )


def encode_and_run(
    model: Any,
    tasks: Mapping[str, Task],
    batches: Mapping[str, Batch],
    key: Array,
    step: Array,
    locked: Collection[str] = (),
) -> Outputs:
    """Outputs of all tasks for whole batches or for parts of them.

    The outputs of an example are a function of the model, the key and its `index` in the global
    batch; only batch norms look at the examples beside it. Tasks with the same stream and views
    share one pass through the encoders. Towers in `locked` run as in evaluation: no dropout, and
    batch norms keep their statistics.
    """
    encoded: dict[tuple, list[Encoding]] = {}
    outputs = {}
    for number, (name, task) in enumerate(tasks.items()):
        batch = batches[task.stream]
        # An image-text batch that three tasks read is encoded once.
        views = (task.stream, task.encode)
        if views not in encoded:
            keys = _example_keys(key, number, batch)
            encoded[views] = _encode_views(model, task.encode, batch, keys, locked)
        # Keys of their own, behind those of all passes.
        key_B = _example_keys(key, len(tasks) + number, batch)
        outputs[name] = task.outputs(Pass(model, batch, step, encoded[views], key_B))
    return outputs


def total_loss(
    model: Any,
    tasks: Mapping[str, Task],
    outputs: Outputs,
    batches: Mapping[str, Batch],
    step: Array,
) -> tuple[Array, dict[str, Array]]:
    """(sum of weight_t * loss_t over the tasks, their logs as `task/name` and the sum as `loss`).

    `outputs` are those of the whole batches; of the model only learned scalars are used.
    """
    # Added in the order of the tasks, so that a sum has the same bits on each run.
    total = jnp.float32(0)
    logs: dict[str, Array] = {}
    for name, task in tasks.items():
        loss, task_logs = task.loss(Pass(model, batches[task.stream], step), outputs[name])
        total += task.weight * loss
        logs |= {f'{name}/{log}': value for log, value in {'loss': loss, **task_logs}.items()}
    return total, logs | {'loss': total}


def _example_keys(key: Array, number: int, batch: Batch) -> Array:
    """A key for each example, [B], by its place in the global batch."""
    own = jax.random.fold_in(key, number)
    return jax.vmap(lambda index: jax.random.fold_in(own, index))(batch['index'])


def _encode_views(
    model: Any, encode: Encode, batch: Batch, key_B: Array, locked: Collection[str]
) -> list[Encoding]:
    """Encodings of the views; an encoder that several views need runs once over all of them."""
    key_NB = jax.vmap(lambda key: jax.random.split(key, max(2, len(encode))), out_axes=1)(key_B)
    encodings: dict[int, Encoding] = {}
    for encoder in dict.fromkeys(encoder for _, encoder in encode):
        views = [view for view, (_, other) in enumerate(encode) if other == encoder]
        inputs = [inputs_of(batch, encode[view][0]) for view in views]
        if len(views) == 1:
            own_B = None if encoder in locked else key_NB[views[0]]
            encodings[views[0]] = model.encode(encoder, inputs[0], own_B)
            continue
        # Side by side, not one view after the other: a device keeps its own examples.
        beside = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *inputs)
        own = None if encoder in locked else key_NB[np.array(views)].T.reshape(-1)
        encoding = model.encode(encoder, beside, own)
        for place, view in enumerate(views):
            encodings[view] = _take_view(encoding, place, len(views))
    return [encodings[view] for view in range(len(encode))]


def _take_view(encoding: Encoding, place: int, count: int) -> Encoding:
    """One of the `count` encodings that stand side by side for each example."""
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:])[:, place], encoding)


def inputs_of(batch: Batch, field: Any) -> Any:
    """The arrays that a view names: one field, or a tuple of fields."""
    return batch[field] if isinstance(field, str) else tuple(inputs_of(batch, x) for x in field)


def field_names(field: Any) -> list[str]:
    """The fields that a view names, in order."""
    return [field] if isinstance(field, str) else [name for x in field for name in field_names(x)]


def view_name(field: Any) -> str:
    """One name for the fields of a view."""
    return '+'.join(field_names(field))
