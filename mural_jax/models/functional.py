"""NNX modules in functional style: built once, then plain nested dicts of arrays."""

from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params, Params]:
    """(structure, parameters, batch statistics), the last two nested dicts of float32 arrays."""
    graphdef = nnx.graphdef(model)
    return graphdef, _state(model, nnx.Param), _state(model, nnx.BatchStat)


def merge(graphdef: nnx.GraphDef, params: Params, statistics: Params) -> Any:
    """The model again, for use inside a jitted function."""
    return nnx.merge(graphdef, _numbers(params), _numbers(statistics))


def statistics(model: nnx.Module) -> Params:
    """The batch statistics as they are after a pass, detached from the gradient."""
    return jax.lax.stop_gradient(_state(model, nnx.BatchStat))


def _state(model: nnx.Module, kind: type) -> Params:
    return _strings(nnx.to_pure_dict(nnx.state(model, kind)))


def _strings(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {str(key): _strings(value) for key, value in tree.items()}


def _numbers(tree: Any) -> Any:
    """List positions are integers in NNX and strings in checkpoints and path patterns."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _numbers(value) for k, value in tree.items()}
