"""Arrays of a model by their path, as a file of weights stores them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mural_jax.types import Array

SCALES = 'scales/'  # prefix of the scales that belong to an int8 array


def dequantize(stored: Mapping[str, Any]) -> dict[str, Array]:
    """Returns float32 arrays by path; an int8 array is multiplied by its scales."""
    # Traced into a program, the stored arrays are its constants: it stays as small as the file.
    arrays = {name: jnp.asarray(array).astype(jnp.float32) for name, array in stored.items()}
    return {
        name: array * arrays[SCALES + name] if SCALES + name in arrays else array
        for name, array in arrays.items()
        if not name.startswith(SCALES)
    }


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Returns the leaves of nested dicts by path, such as 'params/towers/image/...'."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = prefix + key
        leaves |= flatten(value, f'{path}/') if isinstance(value, Mapping) else {path: value}
    return leaves


def unflatten_like(
    tree: Mapping[str, Any], leaves: Mapping[str, Any], prefix: str = ''
) -> dict[str, Any]:
    """Returns nested dicts with the structure of `tree` and the given leaves."""
    return {
        key: unflatten_like(value, leaves, f'{prefix}{key}/')
        if isinstance(value, Mapping)
        else leaves[prefix + key]
        for key, value in tree.items()
    }
