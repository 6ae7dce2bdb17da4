"""Parameters and floating-point operations of a model, counted from shapes without any array."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core

from mural_jax.models import functional
from mural_jax.types import Array


def count_parameters(params: Any) -> dict[str, Counter]:
    """Parameters by tower and part, as in {'image': {'stack': 85054464}}.

    All parameters outside the towers are counted under 'heads and scalars'.
    """
    counts: dict[str, Counter] = {}
    for path, value in jax.tree.leaves_with_path(params):
        names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
        if names[0] == 'towers':
            group, part = names[1], names[2]
        elif names[0] == 'companions':
            group, part = f'companion {names[1]}', '/'.join(names[2:4])
        else:
            group, part = 'heads and scalars', '/'.join(names[:4])
        counts.setdefault(group, Counter())[part] += math.prod(value.shape)
    return counts


def count_forward_flops(model: tuple[Any, Any, Any], tower: str, inputs: Any) -> Counter:
    """Floating-point operations of one forward pass of a tower in evaluation mode, by part.

    Only matrix products and convolutions count, with two operations for each multiply-add; all
    other operations add a few percent.

    Args:
      model: (structure, parameters, batch statistics), as arrays or as shapes.
      tower: The name of the tower.
      inputs: A batch for the tower, or its `jax.ShapeDtypeStruct`.
    """
    graphdef, params, statistics = model

    def encode(params: Any, statistics: Any, inputs: Array) -> Array:
        return functional.merge(graphdef, params, statistics).encode(tower, inputs).pooled_BD

    return count_flops(encode, params, statistics, inputs)


def count_flops(call: Callable, *arguments: Any) -> Counter:
    """Operations of the matrix products and convolutions in `call`, by outermost named scope."""
    return count_jaxpr_flops(jax.make_jaxpr(call)(*arguments).jaxpr)


def count_jaxpr_flops(jaxpr: Any) -> Counter:
    """The same counts as `count_flops` for a traced function, summed over all devices."""
    counts: Counter = Counter()
    for scope, operations in _walk_products(jaxpr, ''):
        counts[scope.split('/')[0]] += operations
    return counts


def _walk_products(jaxpr: Any, outer_scope: str) -> Iterator[tuple[str, int]]:
    """Yields (named scope, operations) of every product in a jaxpr and in the jaxprs inside it."""
    for equation in jaxpr.eqns:
        scope = '/'.join(filter(None, [outer_scope, str(equation.source_info.name_stack)]))
        count = PRODUCTS.get(equation.primitive.name)
        if count:
            yield scope, count(equation)
        repeats = _count_repeats(equation)
        # Primitives such as scan, cond and custom_vjp carry their bodies as parameters.
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            for name, operations in _walk_products(inner, scope):
                yield name, repeats * operations


def _count_repeats(equation: Any) -> int:
    """How often the jaxprs inside an equation run."""
    if equation.primitive.name == 'scan':
        return equation.params['length']
    # The body of a shard_map is the program of one device, and every device of the mesh runs it.
    if equation.primitive.name == 'shard_map':
        return equation.params['mesh'].size
    return 1


def _dot_flops(equation: Any) -> int:
    """2 * (entries of the result) * (length of each sum)."""
    (contracted, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)


def _convolution_flops(equation: Any) -> int:
    """2 * (entries of the result) * (entries of the kernel that belong to one output channel)."""
    # A grouped kernel holds the input channels of one group alone, so groups need no special case.
    kernel_shape = equation.invars[1].aval.shape
    outputs = kernel_shape[equation.params['dimension_numbers'].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel_shape) // outputs


# How the operations of each counted primitive follow from the shapes in its equation.
PRODUCTS = {'dot_general': _dot_flops, 'conv_general_dilated': _convolution_flops}
