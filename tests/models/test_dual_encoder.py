"""The dual encoder: a space has heads and learned scalars of its own."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.towers import build_text, build_vit, largest_difference

from mural_jax.models.dual_encoder import DualEncoder, build_spaces
from mural_jax.models.heads import Identity
from mural_jax.models.spaces import Space
from mural_jax.types import UserError


@pytest.fixture(scope='module')
def model() -> DualEncoder:
    """A model with two spaces, of images and texts and of texts alone."""
    spaces = {
        'image_text': Space(sides=('image', 'text'), embedding=12, temperature=0.05, bias=-10.0),
        'text_text': Space(sides=('text',), embedding=12, temperature=0.2),
    }
    return DualEncoder(
        towers={'image': build_vit(), 'text': build_text()},
        spaces=build_spaces(spaces, {'image': 16, 'text': 16}, nnx.Rngs(0)),
    )


def test_represented_vectors_have_length_one_and_differ_by_space(model: DualEncoder) -> None:
    encoding = model.encode('text', jnp.array([[3, 4, 0]]))
    one = model.represent('image_text', 'text', encoding)
    other = model.represent('text_text', 'text', encoding)
    assert one.shape == (1, 12)
    np.testing.assert_allclose(jnp.linalg.norm(one), 1, rtol=1e-6)
    assert largest_difference(one, other) > 1e-3


def test_each_space_has_its_own_scalars(model: DualEncoder) -> None:
    scalars = model.scalars('text_text')
    np.testing.assert_allclose(scalars['temperature'], 0.2, rtol=1e-6)
    assert set(scalars) == {'temperature'}
    assert model.scalars('image_text')['bias'] == -10


def test_identity_head_needs_a_tower_of_the_same_width() -> None:
    with pytest.raises(UserError, match='a tower as wide as'):
        Identity(width=16, embedding=12, rngs=nnx.Rngs(0))
