"""The gradient of a step: the same however the batch is cut, over devices and over microbatches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mural_jax.distributed.mesh import MeshShape, batch_sharding, tree_sharding
from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.heads import Linear
from mural_jax.models.layers import Layers
from mural_jax.models.text import Transformer
from mural_jax.models.vision import ViT
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.tasks.base import embed, total_loss
from mural_jax.tasks.contrast import Contrast
from mural_jax.training.gradients import Loss, accumulate_gradient, compute_gradient

SIZE = 32
LAYERS = Layers(width=16, depth=1, num_heads=2, mlp_ratio=2.0, dropout=0.2)
KINDS = {
    'softmax': lambda **by: Softmax(margin=0.1, label_smoothing=0.1, **by),
    'sigmoid': lambda **by: Sigmoid(**by),
}


def tasks(**by: Any) -> dict[str, Contrast]:
    """Each objective on each stream; those of one stream share its passes."""
    views = {
        'captions': (('image', 'image'), ('text', 'text')),
        'pairs': (('source', 'text'), ('target', 'text')),
    }
    return {
        f'{kind}_{stream}': Contrast(
            stream,
            view,
            make(**by),
            weight=1.0 if stream == 'captions' else 0.5,
            temperature=0.2,
            bias=-2.0 if kind == 'sigmoid' else None,
        )
        for kind, make in KINDS.items()
        for stream, view in views.items()
    }


@functools.cache
def model() -> tuple[Any, Any, Any]:
    """A tower of each kind; without batch norms the examples do not look at each other."""
    rngs = nnx.Rngs(0)
    towers = {
        'image': ViT(rngs=rngs, layers=LAYERS, image_size=8, patches=(4,)),
        'text': Transformer(rngs=rngs, vocab_size=40, layers=LAYERS, max_length=6),
    }
    names = tasks()
    heads = {
        name: {tower: Linear(width=16, embedding=12, rngs=rngs) for tower in task.towers}
        for name, task in names.items()
    }
    bias = {name: task.bias for name, task in names.items() if task.bias is not None}
    return functional.split(
        DualEncoder(towers=towers, heads=heads, temperature=dict.fromkeys(names, 0.2), bias=bias)
    )


def batches() -> dict[str, dict[str, np.ndarray]]:
    """Some examples share an id, also with one that another device or microbatch has."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60, (SIZE, 2)).astype(np.int32)
    index = np.arange(SIZE, dtype=np.int32)
    text, source, target = rng.integers(1, 40, (3, SIZE, 6)).astype(np.int32)
    image = rng.integers(0, 255, (SIZE, 8, 8, 3)).astype(np.uint8)
    return {
        'captions': {'image': image, 'text': text, 'ids': ids, 'index': index},
        'pairs': {'source': source, 'target': target, 'ids': ids[::-1].copy(), 'index': index},
    }


@functools.cache
def plain() -> tuple[Any, Any]:
    """(gradient, loss) as anybody would write it: one device, all at once, float32."""
    graphdef, params, statistics = model()

    def loss(params: Any) -> jax.Array:
        built = functional.merge(graphdef, params, statistics)
        embedded = embed(built, tasks(), batches(), jax.random.key(7))
        return total_loss(built, tasks(), embedded, batches())[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return jax.device_get(gradient), float(value)


def cut(count: int, mesh: dict[str, int], microbatches: int, **by: Any) -> tuple:
    """The same by what training uses, on `count` devices."""
    graphdef, params, statistics = model()
    built = MeshShape(**mesh).build(jax.devices()[:count])
    params = jax.device_put(params, tree_sharding(params, (), built))
    placed = jax.device_put(batches(), batch_sharding(built))

    @jax.jit
    def gradient(params: Any, batches: Any) -> tuple:
        key = jax.random.key(7)
        loss = Loss(graphdef, tasks(**by), frozenset(), frozenset(), statistics, key)
        if microbatches == 1:
            return compute_gradient(loss, params, batches)[:2]
        return accumulate_gradient(loss, params, batches, microbatches, ())[:2]

    with jax.set_mesh(built):
        found, logs = gradient(params, placed)
    return jax.device_get(found), float(logs['loss'])


def assert_equal(found: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
    """The loss, and each array in its norm, within a relative tolerance."""
    assert found[1] == pytest.approx(expected[1], rel=tolerance)
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(found[0]), jax.tree.leaves(expected[0]), strict=True
    ):
        error = np.linalg.norm(np.float64(ours) - theirs)
        assert error <= tolerance * np.linalg.norm(theirs) + 1e-12, jax.tree_util.keystr(path)


@pytest.mark.parametrize('by', ['gathered', 'ring'])
@pytest.mark.parametrize('count', [1, 2, 8])
@pytest.mark.parametrize('microbatches', [1, 4])
def test_however_it_is_cut_it_is_the_same(by: str, count: int, microbatches: int) -> None:
    """Softmax and sigmoid, with dropout on, and with pairs that are ignored across devices and
    microbatches."""
    assert_equal(cut(count, {'data': count}, microbatches, by=by, tile=2), plain())


@pytest.mark.parametrize('mesh', [{'data': 1, 'fsdp': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}])
def test_whatever_the_mesh(mesh: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mural_jax.distributed.mesh.SMALLEST_SPLIT', 16)
    assert_equal(cut(8, mesh, 4, by='ring', tile=4), plain())


def test_dropout_is_on() -> None:
    """Another key is another loss, or the tests above would not see the dropout."""
    graphdef, params, statistics = model()
    built = functional.merge(graphdef, params, statistics)
    one, other = (
        embed(built, tasks(), batches(), jax.random.key(k))['softmax_captions']['image']
        for k in (7, 8)
    )
    assert float(jnp.abs(one - other).max()) > 1e-2
