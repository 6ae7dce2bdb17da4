"""Transformer layers: the compiled loop, rematerialisation, attention, and settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.towers import LAYERS, assert_trees_close, build_text, run_training_pass

from mural_jax.models.layers import Layers, attend, attend_with_cudnn
from mural_jax.models.text import Bert, Transformer
from mural_jax.types import UserError

DEEP = Layers(width=16, depth=4, num_heads=2, dropout=0.1)


@pytest.mark.parametrize('kind', [Transformer, Bert])
@pytest.mark.parametrize(
    'option', [{'unroll': 4}, {'remat': 'full'}, {'remat': 'dots'}, {'remat': 'offload'}]
)
def test_unrolling_and_remat_change_no_result(kind: type, option: dict) -> None:
    inputs = jnp.array([[5, 9, 2, 0, 0], [1, 1, 4, 8, 7]])
    default = run_training_pass(build_text(DEEP, kind), inputs)
    changed = run_training_pass(build_text(dataclasses.replace(DEEP, **option), kind), inputs)
    assert_trees_close(default, changed)


def test_stack_applies_its_layers_in_order() -> None:
    stack = build_text().stack
    x = jax.random.normal(jax.random.key(0), (2, 4, 16))
    mask = jnp.ones((2, 4), bool)
    graphdef, params = nnx.split(stack.blocks)
    one_by_one = x
    for layer in range(stack.layers.depth):
        block = nnx.merge(graphdef, jax.tree.map(lambda p, layer=layer: p[layer], params))
        one_by_one = block(one_by_one, mask, None)
    np.testing.assert_allclose(stack(x, mask, None), one_by_one, atol=1e-6)


def test_attention_equals_a_loop_over_heads_and_visible_tokens() -> None:
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 3, 4)) for i in range(3))
    mask = np.array([[True, True, False], [True, False, False]])
    result = attend(query, key, value, 2, jnp.array(mask), causal=True)
    expected = np.zeros((2, 3, 4))
    for b in range(2):
        for q in range(3):
            visible = [k for k in range(3) if mask[b, k] and k <= q]
            for head in (slice(0, 2), slice(2, 4)):
                scores = [float(query[b, q, head] @ key[b, k, head]) / 2**0.5 for k in visible]
                weights = np.exp(scores) / np.exp(scores).sum()
                expected[b, q, head] = sum(w * value[b, k, head] for w, k in zip(weights, visible))
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize('num_queries, length', [(1, 6), (1, 7), (6, 6), (7, 7)])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_cudnn_padding_changes_no_output_and_no_gradient(
    num_queries: int, length: int, causal: bool, masked: bool
) -> None:
    """The kernel of cuDNN needs a GPU; XLA's attention stands in for it here."""
    shapes = [(3, num_queries, 2, 4), (3, length, 2, 4), (3, length, 2, 4)]
    keys = jax.random.split(jax.random.key(0), 3)
    heads = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    real_BL = jnp.arange(length)[None] < jnp.array([[1], [4], [length]])
    mask = real_BL[:, None, None, :] if masked else None

    def plain(heads: list[jax.Array]) -> jax.Array:
        return jax.nn.dot_product_attention(*heads, mask=mask, is_causal=causal)

    def padded(heads: list[jax.Array]) -> jax.Array:
        return attend_with_cudnn(heads, mask, causal, 'xla')

    weight = jax.random.normal(jax.random.key(1), shapes[0])
    np.testing.assert_allclose(plain(heads), padded(heads), rtol=1e-5, atol=1e-6)
    ours, theirs = (jax.grad(lambda x, f=f: (f(x) * weight).sum())(heads) for f in (padded, plain))
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('wrong', [{'num_heads': 3}, {'remat': 'all'}, {'activation': 'tanh'}])
def test_impossible_layers_raise_user_error(wrong: dict) -> None:
    with pytest.raises(UserError):
        dataclasses.replace(LAYERS, **wrong)
