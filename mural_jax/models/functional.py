"""NNX modules in functional style: build once, then carry plain nested dicts of arrays.

`jax.jit`, optimizers, checkpoints and shardings all see ordinary trees, and none of them depends on
how NNX represents a module.
"""

from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params, Params]:
    """(structure, parameters, batch statistics), the last two as nested dicts of float32 arrays."""
    graphdef = nnx.graphdef(model)
    return graphdef, _pure_state(model, nnx.Param), _pure_state(model, nnx.BatchStat)


def merge(graphdef: nnx.GraphDef, params: Params, statistics: Params) -> Any:
    """The model rebuilt from the result of `split`, for use inside a jitted function."""
    return nnx.merge(graphdef, _with_integer_keys(params), _with_integer_keys(statistics))


def read_batch_statistics(model: nnx.Module) -> Params:
    """The current batch statistics of the model, detached from the gradient.

    A training pass updates them in place, so the caller reads them after the pass.
    """
    return jax.lax.stop_gradient(_pure_state(model, nnx.BatchStat))


def _pure_state(model: nnx.Module, kind: type) -> Params:
    return _with_string_keys(nnx.to_pure_dict(nnx.state(model, kind)))


# NNX keys the elements of a list by integers. Checkpoints and the path patterns of configs need
# strings, so the keys change type on the way out and on the way back.
def _with_string_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {str(key): _with_string_keys(value) for key, value in tree.items()}


def _with_integer_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _with_integer_keys(value) for k, value in tree.items()}
