"""A task is a stream, what to encode, an objective and a weight."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.layers import choose
from mural_jax.models.one_stream import OneStream
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.types import Array, Batch, Encoding, Objective

# What is encoded: (field, tower), or (fields, tower) where a tower takes several together.
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

    def outputs(self, name: str, model: Any, encodings: list[Encoding], batch: Batch) -> Any: ...

    def loss(
        self, name: str, model: Any, outputs: Any, batch: Batch
    ) -> tuple[Array, dict[str, Array]]: ...


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Two sides of an example are told apart from those of all others.

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

    def outputs(
        self, name: str, model: DualEncoder, encodings: list[Encoding], batch: Batch
    ) -> tuple[Array, Array]:
        """The embeddings of the two sides, float32 [B, D], unit norm."""
        query, result = (
            model.project(name, tower, encoding).pooled_BD
            for (_, tower), encoding in zip(self.encode, encodings)
        )
        return query, result

    def loss(
        self, name: str, model: DualEncoder, outputs: tuple[Array, Array], batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        return self.objective(*outputs, batch['ids'], **model.scalars(name))


PREDICTED = {
    'words': 'words that are hidden in the text',
    'regions': 'classes of regions that are hidden in the picture',
    'match': 'whether text and picture belong together',
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was hidden of a pair is predicted from the rest of it (Unicoder-VL, arXiv:1908.06066).

    stream: one that hides words and regions. predict: of PREDICTED. weight: of its loss.
    """

    stream: str
    predict: str
    weight: float = 1.0

    encode: ClassVar[Encode] = ((('text', 'regions'), 'joint'),)

    def __post_init__(self) -> None:
        choose('predict', self.predict, PREDICTED)

    def outputs(
        self, name: str, model: OneStream, encodings: list[Encoding], batch: Batch
    ) -> Predicted:
        (joint,) = encodings
        if self.predict == 'match':
            return prediction.yes_or_no(model.matches(joint), batch['match'])
        if self.predict == 'words':
            logit_BMV = model.words(joint, batch['word_place'])
            return prediction.classes(logit_BMV, batch['word_target'])
        # Behind the words and the mark of the picture.
        place_BM = batch['region_place'] + batch['text'].shape[1] + 1
        logit_BMC = model.region_classes(joint, place_BM)
        return prediction.classes(logit_BMC, batch['region_target'])

    def loss(
        self, name: str, model: OneStream, outputs: Predicted, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        return prediction.mean(outputs)


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
            own = jax.random.fold_in(key, number)
            key_B = jax.vmap(lambda index, own=own: jax.random.fold_in(own, index))(batch['index'])
            encoded[view] = _encode(model, task.encode, batch, key_B, locked)
        embedded[name] = task.outputs(name, model, encoded[view], batch)
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


def _encode(
    model: Any, encode: Encode, batch: Batch, key_B: Array, locked: Collection[str]
) -> list[Encoding]:
    """The encodings of the fields; a tower that two texts need runs once over both."""
    towers = [tower for _, tower in encode]
    key_NB = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(key_B)
    if len(set(towers)) == len(towers):
        return [
            model.encode(tower, _inputs(batch, field), None if tower in locked else own_B)
            for (field, tower), own_B in zip(encode, key_NB)
        ]
    (left, tower), (right, _) = encode
    # Side by side, not one after the other: a device keeps its own examples.
    both = jnp.stack([batch[left], batch[right]], axis=1)
    own = None if tower in locked else key_NB.T.reshape(-1)
    encoding = model.encode(tower, both.reshape(-1, *both.shape[2:]), own)
    pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), encoding)
    return [jax.tree.map(lambda x, side=side: x[:, side], pairs) for side in (0, 1)]


def _inputs(batch: Batch, field: str | tuple[str, ...]) -> Any:
    return batch[field] if isinstance(field, str) else tuple(batch[name] for name in field)
