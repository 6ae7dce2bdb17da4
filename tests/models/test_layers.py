"""Stacks: scanned or unrolled, rematerialised or not; masks; what a pass costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mural_jax.models import cost, functional
from mural_jax.models.convnets import EfficientNet, ResNet
from mural_jax.models.layers import Layers, attend, flash
from mural_jax.models.text import Bert, Transformer
from mural_jax.models.vision import ViT
from mural_jax.types import UserError

LAYERS = Layers(width=16, depth=4, num_heads=2, dropout=0.1)


def text(layers: Layers, kind: type = Transformer, **more) -> nnx.Module:
    return kind(rngs=nnx.Rngs(0), vocab_size=30, layers=layers, max_length=8, **more)


def outputs_and_gradients(tower: nnx.Module, inputs: jax.Array) -> tuple:
    graphdef, params, statistics = functional.split(tower)

    @jax.jit
    def compute(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            model = functional.merge(graphdef, params, statistics)
            encoding = model(inputs, jax.random.split(jax.random.key(5), len(inputs)))
            return (encoding.pooled_BD**2).sum(), (encoding, functional.statistics(model))

        gradient, passed = jax.grad(loss, has_aux=True)(params)
        return gradient, *passed

    return compute(params)


def same(left: object, right: object, atol: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


@pytest.mark.parametrize('kind', [Transformer, Bert])
@pytest.mark.parametrize(
    'more', [{'unroll': 4}, {'remat': 'full'}, {'remat': 'dots'}, {'remat': 'offload'}]
)
def test_scanned_is_unrolled_and_remat_changes_nothing(kind: type, more: dict) -> None:
    inputs = jnp.array([[5, 9, 2, 0, 0], [1, 1, 4, 8, 7]])
    plain = outputs_and_gradients(text(LAYERS, kind), inputs)
    other = outputs_and_gradients(text(dataclasses.replace(LAYERS, **more), kind), inputs)
    same(plain, other)


@pytest.fixture
def two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EfficientNet of two stages: more would only compile longer."""
    monkeypatch.setattr(EfficientNet, 'STAGES', ((1, 3, 1, 1, 16), (3, 3, 2, 6, 24)))


@pytest.mark.usefixtures('two_stages')
@pytest.mark.parametrize('remat', ['full', 'dots'])
def test_remat_of_convolutions_changes_nothing(remat: str) -> None:
    """Batch statistics go the same way too."""
    image = jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 255).astype(jnp.uint8)
    size = dict(width_factor=0.2, depth_factor=1.0, drop_path=0.3)
    plain, other = (
        outputs_and_gradients(EfficientNet(rngs=nnx.Rngs(0), remat=r, **size), image)
        for r in ('none', remat)
    )
    same(plain, other)


def test_stages_are_their_blocks_in_order() -> None:
    """Scanned blocks of a ResNet, one by one; each keeps its own batch statistics."""
    tower = ResNet(rngs=nnx.Rngs(0), stages=(3, 1))
    stage = tower.stages[0]
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 64))
    graphdef, params, statistics = nnx.split(stage.blocks, nnx.Param, nnx.BatchStat)
    blocks = [
        nnx.merge(graphdef, *jax.tree.map(lambda leaf, i=i: leaf[i], (params, statistics)))
        for i in range(2)
    ]
    one_by_one = stage.first(x, None, 0.0)
    for block in blocks:
        one_by_one = block(one_by_one, None, 0.0)
    np.testing.assert_allclose(stage(x, None, [0.0] * 3), one_by_one, atol=1e-5)
    stage(x, jax.random.split(jax.random.key(1), 4), [0.0] * 3)
    means = nnx.state(stage.blocks, nnx.BatchStat)['reduce']['norm']['mean'][...]
    assert np.abs(means[0] - means[1]).max() > 1e-4


def test_attention_is_softmax_over_what_may_be_seen() -> None:
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 3, 4)) for i in range(3))
    mask = np.array([[True, True, False], [True, False, False]])
    found = attend(query, key, value, 2, jnp.array(mask), causal=True)
    expected = np.zeros((2, 3, 4))
    for b in range(2):
        for q in range(3):
            seen = [k for k in range(3) if mask[b, k] and k <= q]
            for head in (slice(0, 2), slice(2, 4)):
                scores = [float(query[b, q, head] @ key[b, k, head]) / 2**0.5 for k in seen]
                weights = np.exp(scores) / np.exp(scores).sum()
                expected[b, q, head] = sum(w * value[b, k, head] for w, k in zip(weights, seen))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('pool', ['mean', 'first', 'last', 'eot'])
@pytest.mark.parametrize('causal', [False, True])
def test_pools_see_no_padding(pool: str, causal: bool) -> None:
    tower = text(LAYERS, pool=pool, causal=causal, **({'eot_id': 9} if pool == 'eot' else {}))
    short = jnp.array([[7, 3, 9, 0], [9, 0, 0, 0]])
    # Behind the end of a text of CLIP's, anything is padding.
    longer = jnp.pad(short, ((0, 0), (0, 3)), constant_values=4 if pool == 'eot' else 0)
    np.testing.assert_allclose(tower(short).pooled_BD, tower(longer).pooled_BD, atol=1e-5)
    np.testing.assert_array_equal(tower(short).mask_BL, short != 0)


def test_attended_padding_counts() -> None:
    """SigLIP reads padding as text, so the last position is the text's."""
    tower = text(LAYERS, pool='last', attend_padding=True)
    one, other = (tower(jnp.array([[7, 3, end]])).pooled_BD for end in (0, 4))
    assert np.abs(one - other).max() > 1e-3


def test_an_end_without_its_pool_is_refused() -> None:
    with pytest.raises(UserError, match='eot_id'):
        text(LAYERS, pool='eot')


@pytest.mark.parametrize('pool', ['mean', 'class', 'map'])
def test_pools_of_pictures(pool: str) -> None:
    tower = ViT(rngs=nnx.Rngs(0), layers=LAYERS, image_size=16, patches=(8,), pool=pool)
    image = jax.random.randint(jax.random.key(0), (2, 16, 16, 3), 0, 255).astype(jnp.uint8)
    encoding = tower(image)
    assert encoding.pooled_BD.shape == (2, 16)
    assert encoding.tokens_BLD.shape == (2, 5 if pool == 'class' else 4, 16)


@pytest.mark.usefixtures('two_stages')
def test_stochastic_depth_skips_examples_in_training_alone() -> None:
    tower = EfficientNet(rngs=nnx.Rngs(0), width_factor=0.2, depth_factor=1.0, drop_path=0.9)
    image = jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 255).astype(jnp.uint8)
    one, other = (tower(image, jax.random.split(jax.random.key(k), 4)).pooled_BD for k in (1, 2))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(tower(image).pooled_BD, tower(image).pooled_BD)


def test_operations_are_counted_through_loops() -> None:
    """12 turns of a product of 8x16 with 16x16, and a grouped convolution."""
    x, w = jnp.ones((8, 16)), jnp.ones((12, 16, 16))
    counted = cost.flops(lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], x, w)
    assert sum(counted.values()) == 12 * 2 * 8 * 16 * 16
    image, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 1, 4))

    def depthwise(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), 'SAME', feature_group_count=4,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )  # fmt: skip

    assert sum(cost.flops(depthwise, image, kernel).values()) == 2 * 6 * 6 * 4 * 9


def test_batch_norm_counts_over_all_devices() -> None:
    """Eight devices with an eighth of the batch each give what one gives with all of it."""
    image = jax.random.randint(jax.random.key(0), (16, 32, 32, 3), 0, 255).astype(jnp.uint8)
    tower = EfficientNet(rngs=nnx.Rngs(0), width_factor=0.2, depth_factor=1.0, drop_path=0.0)
    graphdef, params, statistics = functional.split(tower)

    @jax.jit
    def encode(image: jax.Array) -> tuple:
        model = functional.merge(graphdef, params, statistics)
        return model(
            image, jax.random.split(jax.random.key(0), 16)
        ).pooled_BD, functional.statistics(model)

    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    # What differs is the order of sums, carried through 50 normalisations; processors differ in it.
    same(encode(jax.device_put(image, split)), encode(image), atol=1e-4)


@pytest.mark.parametrize('num_queries, length', [(1, 6), (1, 7), (6, 6), (7, 7)])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_the_shapes_of_cudnn_change_no_output_and_no_gradient(
    num_queries: int, length: int, causal: bool, masked: bool
) -> None:
    """Its own kernel needs a GPU; that odd lengths are padded and masks spread is checked here."""
    shapes = [(3, num_queries, 2, 4), (3, length, 2, 4), (3, length, 2, 4)]
    keys = jax.random.split(jax.random.key(0), 3)
    heads = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    real_BL = jnp.arange(length)[None] < jnp.array([[1], [4], [length]])
    mask = real_BL[:, None, None, :] if masked else None

    def plain(heads: list[jax.Array]) -> jax.Array:
        return jax.nn.dot_product_attention(*heads, mask=mask, is_causal=causal)

    def padded(heads: list[jax.Array]) -> jax.Array:
        return flash(heads, mask, causal, 'xla')

    weight = jax.random.normal(jax.random.key(1), shapes[0])
    np.testing.assert_allclose(plain(heads), padded(heads), rtol=1e-5, atol=1e-6)
    ours, theirs = (jax.grad(lambda x, f=f: (f(x) * weight).sum())(heads) for f in (padded, plain))
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
