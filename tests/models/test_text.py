"""Text towers of transformer layers: padding, pooling, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.towers import LAYERS, build_text, largest_difference

from mural_jax.models.layers import Layers
from mural_jax.types import UserError

DEEP = Layers(width=16, depth=4, num_heads=2, dropout=0.1)


@pytest.mark.parametrize('pool', ['mean', 'first', 'last', 'eot'])
@pytest.mark.parametrize('causal', [False, True])
def test_pooled_vector_does_not_depend_on_padding(pool: str, causal: bool) -> None:
    options = {'eot_id': 9} if pool == 'eot' else {}
    tower = build_text(DEEP, pool=pool, causal=causal, **options)
    short = jnp.array([[7, 3, 9, 0], [9, 0, 0, 0]])
    # After CLIP's end-of-text token any id is padding.
    longer = jnp.pad(short, ((0, 0), (0, 3)), constant_values=4 if pool == 'eot' else 0)
    np.testing.assert_allclose(tower(short).pooled_BD, tower(longer).pooled_BD, atol=1e-5)
    np.testing.assert_array_equal(tower(short).mask_BL, short != 0)


def test_mean_of_short_texts_does_not_depend_on_padding() -> None:
    tower = build_text()
    short = jnp.array([[7, 3, 9, 0], [4, 0, 0, 0]])
    long = jnp.pad(short, ((0, 0), (0, 4)))
    np.testing.assert_allclose(tower(short).pooled_BD, tower(long).pooled_BD, atol=1e-6)


def test_empty_text_gives_finite_vector() -> None:
    assert np.isfinite(build_text()(jnp.zeros((1, 4), jnp.int32)).pooled_BD).all()


def test_attended_padding_changes_the_vector() -> None:
    """SigLIP reads padding as text, so the last position belongs to the text."""
    tower = build_text(DEEP, pool='last', attend_padding=True)
    one, other = (tower(jnp.array([[7, 3, last]])).pooled_BD for last in (0, 4))
    assert largest_difference(one, other) > 1e-3


def test_eot_pooling_without_eot_id_raises_user_error() -> None:
    with pytest.raises(UserError, match='eot_id'):
        build_text(DEEP, pool='eot')


def test_dropout_is_reproducible_by_its_key() -> None:
    tower = build_text(dataclasses.replace(LAYERS, dropout=0.5))
    text = jnp.array([[7, 3, 9, 1]])
    first, same, other = (
        tower(text, jax.random.split(jax.random.key(k), 1)).pooled_BD for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert largest_difference(first, other) > 1e-3


def test_dropout_is_off_in_evaluation() -> None:
    tower = build_text(dataclasses.replace(LAYERS, dropout=0.5))
    text = jnp.array([[7, 3, 9, 1]])
    np.testing.assert_array_equal(tower(text).pooled_BD, tower(text).pooled_BD)
