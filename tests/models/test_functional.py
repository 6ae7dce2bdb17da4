"""Modules as nested dicts of arrays, and back."""

import jax.numpy as jnp
import numpy as np
from models.towers import build_vit

from mural_jax.models import functional


def test_merge_is_the_inverse_of_split() -> None:
    tower, image = build_vit(), jnp.full((1, 16, 16, 3), 9, jnp.uint8)
    merged = functional.merge(*functional.split(tower))
    np.testing.assert_array_equal(tower(image).pooled_BD, merged(image).pooled_BD)


def test_list_positions_are_strings_after_split() -> None:
    _, params, _ = functional.split(build_vit())
    assert set(params['patches']) == {'0', '1'}
