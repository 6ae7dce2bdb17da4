"""A config's model becomes modules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flax import nnx

from mural_jax.config.build import build, check_known
from mural_jax.models import functional
from mural_jax.models.companions import Companion
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.one_stream import OneStream
from mural_jax.models.spaces import Spaces

MODELS: dict[str, Any] = {'dual_encoder': DualEncoder, 'one_stream': OneStream}
BUILDERS: dict[str, Callable] = {kind: model.from_config for kind, model in MODELS.items()}
NO_COMPANIONS: Mapping[str, Companion] = MappingProxyType({})


def encoders_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what the model of a config node encodes by: its towers, or the views of one stream.

    Raises UserError where the kind of the model is not known.
    """
    check_known(node.get('kind', ''), MODELS, 'model.kind')
    return MODELS[node['kind']].encoders(node)


def model_constructor(
    node: Mapping[str, Any],
    spaces: Spaces,
    vocab_size: int,
    seed: int = 0,
    companions: Mapping[str, Companion] = NO_COMPANIONS,
) -> Callable[[], DualEncoder]:
    """A function that builds the model of a config node, with its companions."""

    def construct() -> DualEncoder:
        rngs = nnx.Rngs(seed)
        model = build(BUILDERS, node, 'model', spaces=spaces, rngs=rngs, vocab_size=vocab_size)
        # After the model, so that its first weights are the same with and without companions.
        for name, companion in companions.items():
            where = f'companions.{name}.model'
            given = {'spaces': {}, 'rngs': rngs, 'vocab_size': vocab_size}
            model.companions[name] = build(BUILDERS, companion.model, where, **given)
        return model

    return construct


def abstract_model(
    node: Mapping[str, Any],
    spaces: Spaces,
    vocab_size: int,
    companions: Mapping[str, Companion] = NO_COMPANIONS,
) -> tuple[Any, Any, Any]:
    """(structure, parameters, batch statistics) of a model: shapes alone, at no cost."""
    construct = model_constructor(node, spaces, vocab_size, companions=companions)
    return functional.split(nnx.eval_shape(construct))
