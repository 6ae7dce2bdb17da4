"""A config's model becomes modules: the tables of towers, heads and models."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import jax
from flax import nnx

from mural_jax.config.build import arguments_of, build, check_known
from mural_jax.models import functional
from mural_jax.models.catalog import HEADS, TOWERS
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.layers import DTYPES, Compute, choose
from mural_jax.models.one_stream import WAYS, OneStream
from mural_jax.types import UserError

ATTENTION = {'xla': 'any device', 'cudnn': 'flash attention of an NVIDIA GPU'}


class Compared(Protocol):
    """What a model has to know of a task that compares embeddings, a `tasks.Contrast`."""

    @property
    def towers(self) -> tuple[str, ...]: ...

    @property
    def temperature(self) -> float: ...

    @property
    def bias(self) -> float | None: ...


Contrasts = Mapping[str, Compared]  # by name


def _dual_encoder(
    *, contrasts: Contrasts, rngs: nnx.Rngs, vocab_size: int, towers: dict[str, Any],
    embedding: int, heads: Mapping[str, Any] = MappingProxyType({}), dtype: str = 'float32',
    attention: str = 'xla',
) -> DualEncoder:  # fmt: skip
    """The table entry of `DualEncoder`.

    heads: by tower, `dict(kind='linear', bias=False)` where nothing is said. dtype: what towers
    compute in, 'float32' or 'bfloat16'. attention: 'xla', or 'cudnn', an NVIDIA GPU's flash
    attention, which takes bfloat16.
    """
    compute = _compute(dtype, attention)
    built = {}
    for name, node in towers.items():
        given: dict[str, Any] = {'rngs': rngs, 'compute': compute}
        kind = TOWERS.get(node.get('kind'))
        if kind and 'vocab_size' in arguments_of(kind):
            given['vocab_size'] = vocab_size
        built[name] = build(TOWERS, node, f'model.towers.{name}', **given)
    widths = {name: tower.width for name, tower in built.items()}
    return DualEncoder(towers=built, **_heads(contrasts, widths, embedding, heads, rngs))


def _compute(dtype: str, attention: str) -> Compute:
    choose('dtype', dtype, DTYPES)
    choose('attention', attention, ATTENTION)
    if attention == 'cudnn' and (jax.default_backend() != 'gpu' or dtype != 'bfloat16'):
        raise UserError(
            "config.model.attention='cudnn' needs an NVIDIA GPU and dtype='bfloat16'; here are "
            f"{jax.default_backend()} and {dtype}. Use attention='xla'."
        )
    return Compute(DTYPES[dtype], attention)


def _heads(
    contrasts: Contrasts,
    widths: Mapping[str, int],
    embedding: int,
    heads: Mapping[str, Any],
    rngs: nnx.Rngs,
) -> dict[str, Any]:
    """Heads, temperatures and biases of the tasks that compare; `widths` by tower."""
    for name in heads:
        check_known(name, widths, 'model.heads')

    def head(tower: str) -> nnx.Module:
        node = heads.get(tower, {'kind': 'linear'})
        given = {'width': widths[tower], 'embedding': embedding, 'rngs': rngs}
        return build(HEADS, node, f'model.heads.{tower}', **given)

    return {
        'heads': {name: {tower: head(tower) for tower in task.towers}
                  for name, task in contrasts.items()},
        'temperature': {name: task.temperature for name, task in contrasts.items()},
        'bias': {name: task.bias for name, task in contrasts.items() if task.bias is not None},
    }  # fmt: skip


def _one_stream(
    *, contrasts: Contrasts, rngs: nnx.Rngs, vocab_size: int, towers: dict[str, Any],
    num_classes: int, embedding: int = 0, heads: Mapping[str, Any] = MappingProxyType({}),
    dtype: str = 'float32', attention: str = 'xla',
) -> OneStream:  # fmt: skip
    """The table entry of `OneStream`, whose tower is `fusion`; for distillation also `teacher`.

    num_classes: of regions. embedding, heads, dtype, attention: as of a dual encoder; heads by
    way, 'image' and 'text'.
    """
    compute = _compute(dtype, attention)
    if set(towers) not in ({'fusion'}, {'fusion', 'teacher'}):
        raise UserError(
            f'model.towers of one stream is dict(fusion=...), and where it is distilled '
            f'teacher=... too, not {sorted(towers)}.'
        )
    given = {'rngs': rngs, 'compute': compute, 'vocab_size': vocab_size}
    built = {
        name: build(TOWERS, towers[name], f'model.towers.{name}', **given)
        for name in ('fusion', 'teacher') if name in towers
    }  # fmt: skip
    width = built['fusion'].width
    more = _heads(contrasts, dict.fromkeys(WAYS, width), embedding, heads, rngs)
    eps = towers['fusion']['layers'].get('norm_eps', 1e-6)
    return OneStream(**built, num_classes=num_classes, norm_eps=eps, rngs=rngs, **more)


MODELS: dict[str, Any] = {'dual_encoder': _dual_encoder, 'one_stream': _one_stream}


def constructor(
    node: Mapping[str, Any], contrasts: Contrasts, vocab_size: int, seed: int = 0
) -> Callable[[], DualEncoder]:
    """What builds the model of a config."""

    def construct() -> DualEncoder:
        given = {'contrasts': contrasts, 'rngs': nnx.Rngs(seed), 'vocab_size': vocab_size}
        return build(MODELS, node, 'model', **given)

    return construct


def abstract(
    node: Mapping[str, Any], contrasts: Contrasts, vocab_size: int
) -> tuple[Any, Any, Any]:
    """(structure, parameters, batch statistics) of a model, shapes alone, at no cost."""
    return functional.split(nnx.eval_shape(constructor(node, contrasts, vocab_size)))
