"""What a model costs, from abstract shapes: no array is made."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core

from mural_jax.models import functional
from mural_jax.types import Array


def parameters(params: Any) -> dict[str, Counter]:
    """Parameters of each tower and of the `heads`, by part: {'image': {'stack': 85054464}}."""
    counts: dict[str, Counter] = {}
    for path, value in jax.tree.leaves_with_path(params):
        names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
        if names[0] == 'towers':
            group, part = names[1], names[2]
        else:
            group, part = 'heads and scalars', '/'.join(names[:3])
        counts.setdefault(group, Counter())[part] += math.prod(value.shape)
    return counts


def forward_flops(model: tuple[Any, Any, Any], tower: str, inputs: Any) -> Counter:
    """Floating-point operations of one pass of a tower in evaluation, by part.

    model: (structure, parameters, batch statistics), arrays or shapes. inputs: a batch or its
    `jax.ShapeDtypeStruct`. Counted are matrix products and convolutions, two operations for each
    multiplication with its addition; the rest is some percent.
    """
    graphdef, params, statistics = model

    def encode(params: Any, statistics: Any, inputs: Array) -> Array:
        return functional.merge(graphdef, params, statistics).encode(tower, inputs).pooled_BD

    return flops(encode, params, statistics, inputs)


def flops(call: Callable, *arguments: Any) -> Counter:
    """Operations of matrix products and convolutions, by the outermost named scope."""
    return of_jaxpr(jax.make_jaxpr(call)(*arguments).jaxpr)


def of_jaxpr(jaxpr: Any) -> Counter:
    """What `flops` gives, of a function that is traced already; of all devices together."""
    counts: Counter = Counter()
    for scope, operations in _walk(jaxpr, ''):
        counts[scope.split('/')[0]] += operations
    return counts


def _walk(jaxpr: Any, scope: str) -> Iterator[tuple[str, int]]:
    for equation in jaxpr.eqns:
        own = '/'.join(filter(None, [scope, str(equation.source_info.name_stack)]))
        count = {'dot_general': _dot, 'conv_general_dilated': _convolution}.get(
            equation.primitive.name
        )
        if count:
            yield own, count(equation)
        # What is inside of a shard_map is what one device does.
        times = {
            'scan': lambda given: given['length'], 'shard_map': lambda given: given['mesh'].size
        }.get(equation.primitive.name, lambda _: 1)(equation.params)  # fmt: skip
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            for name, operations in _walk(inner, own):
                yield name, times * operations


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    outputs = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
