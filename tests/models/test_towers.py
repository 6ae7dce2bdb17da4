"""Towers and the dual encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.heads import Identity, Linear
from mural_jax.models.layers import Layers
from mural_jax.models.text import Transformer
from mural_jax.models.vision import PatchLevel, ViT
from mural_jax.types import UserError

SMALL = Layers(width=16, depth=2, num_heads=2)


def transformer(layers: Layers = SMALL, **more) -> Transformer:
    settings = dict(vocab_size=50, max_length=8, layers=layers) | more
    return Transformer(rngs=nnx.Rngs(0), **settings)


def vit(layers: Layers = SMALL, **more) -> ViT:
    settings = dict(image_size=16, layers=layers, patches=(2, 2), stem=(8,)) | more
    return ViT(rngs=nnx.Rngs(0), **settings)


def test_padding_changes_nothing() -> None:
    tower = transformer()
    short = jnp.array([[7, 3, 9, 0], [4, 0, 0, 0]])
    long = jnp.pad(short, ((0, 0), (0, 4)))
    np.testing.assert_allclose(tower(short).pooled_BD, tower(long).pooled_BD, atol=1e-6)


def test_an_empty_text_is_a_number() -> None:
    assert np.isfinite(transformer()(jnp.zeros((1, 4), jnp.int32)).pooled_BD).all()


def test_a_key_turns_dropout_on_and_names_it() -> None:
    tower = transformer(dataclasses.replace(SMALL, dropout=0.5))
    text = jnp.array([[7, 3, 9, 1]])
    first, again, other = (
        tower(text, jax.random.split(jax.random.key(k), 1)).pooled_BD for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(tower(text).pooled_BD, tower(text).pooled_BD)


def test_a_patch_level_is_a_strided_convolution() -> None:
    level = PatchLevel(4, 3, 5, True, jnp.float32, nnx.Rngs(0))
    image = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    kernel = level.linear.kernel[...].reshape(4, 4, 3, 5)
    right = jax.lax.conv_general_dilated(
        image, kernel, (4, 4), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(level(image), right, atol=1e-5)


def test_batch_statistics_move_in_training_and_rest_in_evaluation() -> None:
    image = jax.random.randint(jax.random.key(0), (4, 16, 16, 3), 0, 255).astype(jnp.uint8)
    tower = vit()
    before = functional.statistics(tower)
    tower(image)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, functional.statistics(tower)))
    tower(image, jax.random.split(jax.random.key(0), 4))
    after = functional.statistics(tower)
    assert not jax.tree.all(jax.tree.map(np.array_equal, before, after))


def test_a_stack_is_its_layers_in_order() -> None:
    stack = transformer().stack
    x = jax.random.normal(jax.random.key(0), (2, 4, 16))
    mask = jnp.ones((2, 4), bool)
    graphdef, params = nnx.split(stack.blocks)
    one_by_one = x
    for layer in range(stack.layers.depth):
        block = nnx.merge(graphdef, jax.tree.map(lambda p, layer=layer: p[layer], params))
        one_by_one = block(one_by_one, mask, None)
    np.testing.assert_allclose(stack(x, mask, None), one_by_one, atol=1e-6)


def test_split_and_merge_are_inverse_and_keys_are_strings() -> None:
    tower = vit()
    image = jnp.full((1, 16, 16, 3), 9, jnp.uint8)
    graphdef, params, statistics = functional.split(tower)
    assert set(params['patches']) == {'0', '1'}
    again = functional.merge(graphdef, params, statistics)
    np.testing.assert_array_equal(tower(image).pooled_BD, again(image).pooled_BD)


def test_heads_and_temperatures_are_one_for_each_task() -> None:
    rngs = nnx.Rngs(0)
    tasks = {'image_text': ('image', 'text'), 'text_text': ('text',)}
    model = DualEncoder(
        towers={'image': vit(), 'text': transformer()},
        heads={
            task: {tower: Linear(width=16, embedding=12, rngs=rngs) for tower in towers}
            for task, towers in tasks.items()
        },
        temperature={'image_text': 0.05, 'text_text': 0.2},
        bias={'image_text': -10.0},
    )
    encoding = model.encode('text', jnp.array([[3, 4, 0]]))
    one = model.project('image_text', 'text', encoding).pooled_BD
    two = model.project('text_text', 'text', encoding).pooled_BD
    assert one.shape == (1, 12)
    np.testing.assert_allclose(jnp.linalg.norm(one), 1, rtol=1e-6)
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_allclose(model.scalars('text_text')['temperature'], 0.2, rtol=1e-6)
    assert set(model.scalars('text_text')) == {'temperature'}
    assert model.scalars('image_text')['bias'] == -10


@pytest.mark.parametrize('wrong', [{'patches': (3, 2)}, {'stem': ()}, {'pool': 'max'}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        vit(**wrong)


@pytest.mark.parametrize('wrong', [{'num_heads': 3}, {'remat': 'all'}, {'activation': 'tanh'}])
def test_layers_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        dataclasses.replace(SMALL, **wrong)


def test_no_head_needs_a_tower_of_the_same_width() -> None:
    with pytest.raises(UserError, match='as wide as the embedding'):
        Identity(width=16, embedding=12, rngs=nnx.Rngs(0))
