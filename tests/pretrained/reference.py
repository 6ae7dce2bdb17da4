"""Models of other libraries that our towers are compared with, and our towers with their weights.

A test module that imports this one is skipped if the extra `parity` is not installed.
"""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ALL
from flax import nnx

torch = pytest.importorskip('torch', reason="pip install 'mural-jax[parity]'")

# torchvision is built for CUDA and does not find its operators beside the CPU build of PyTorch.
# timm and open_clip import it but never call these two, so empty definitions are enough.
_OPERATORS = torch.library.Library('torchvision', 'FRAGMENT')
for _name in ('nms', 'qnms'):
    with contextlib.suppress(RuntimeError):  # A CPU build of torchvision defines them itself.
        _OPERATORS.define(f'{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

from safetensors.torch import save_file

from mural_jax.models import functional
from mural_jax.pretrained.files import read_arrays
from mural_jax.pretrained.place import PlacementReport, place_arrays
from mural_jax.types import Encoding

RNG = np.random.default_rng(0)
# Layers of the transformers compared: test_sizes counts those of the published sizes.
DEPTH = 12 if ALL else 2


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Returns the model in evaluation mode, with random values everywhere.

    Norms and statistics too: values that are 0 or 1 by default would hide mistakes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith('running_var'):
                value.copy_(1 + 0.3 * noise.abs())
            elif value.ndim < 2 or 'norm' in name.lower() or '.bn' in name:
                value.add_(0.1 * noise)
            elif 'embed' in name or 'position' in name or value.ndim == 3:
                value.copy_(0.1 * noise)
    return model.eval()


def transfer_weights(
    tower: nnx.Module, model: torch.nn.Module, role: str, folder: Path
) -> tuple[tuple, PlacementReport]:
    """Returns ((structure, parameters, statistics) with the weights of `model`, report).

    The weights are saved and read as by `init_from`. role: 'model', or the tower that is filled.
    """
    path = folder / 'model.safetensors'
    weights = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, path)
    graphdef, params, statistics = functional.split(tower)
    root = () if role == 'model' else ('towers', role)
    trees = [_nest(root, tree) for tree in (params, statistics)]
    ours = {_join_path(p): v for tree in trees for p, v in jax.tree.leaves_with_path(tree)}
    filled, report = place_arrays(read_arrays(path), ours, role, str(path), paired=['image_text'])
    assert role == 'model' or filled.keys() == ours.keys()
    params, statistics = (
        _get_subtree(
            root,
            jax.tree.map_with_path(lambda p, v: jnp.asarray(filled.get(_join_path(p), v)), tree),
        )
        for tree in trees
    )
    return (graphdef, params, statistics), report


def _nest(root: tuple, tree: dict) -> dict:
    for key in reversed(root):
        tree = {key: tree}
    return tree


def _get_subtree(root: tuple, tree: dict) -> dict:
    for key in root:
        tree = tree[key]
    return tree


def _join_path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def encode(split: tuple, inputs: np.ndarray, training: bool = False) -> Encoding:
    """Returns the encoding. With `training`, batch norms use the statistics of the batch."""

    @jax.jit
    def run(params: dict, statistics: dict) -> Encoding:
        model = functional.merge(split[0], params, statistics)
        keys = jax.random.split(jax.random.key(0), len(inputs))
        return model(inputs, keys if training else None)

    return run(*split[1:])


def make_images(size: int, count: int = 3) -> tuple[np.ndarray, torch.Tensor]:
    """Returns random images: uint8 [B, H, W, 3] for us, [-1, 1] [B, 3, H, W] for PyTorch."""
    image_BHWC = RNG.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    theirs = torch.tensor(image_BHWC.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    return image_BHWC, theirs.contiguous()


def assert_agree(ours: object, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Fails if the largest difference, over the largest value, is not below `tolerance`."""
    ours, expected = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == expected.shape
    error = np.abs(ours - expected).max() / np.abs(expected).max()
    assert error < tolerance, error


def assert_gradients_agree(
    ours: dict, model: torch.nn.Module, tower: nnx.Module, role: str, folder: Path
) -> None:
    """Fails if any array of the gradient differs by more than 1e-3 of its norm.

    Their gradients are placed like weights, which leads each to its array of ours. A shift before a
    batch norm changes nothing, nor does a shift of all keys: such a gradient is rounding alone, so
    norms below 1e-4 of the whole gradient count as that.
    """
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.zeros_like(value) if value.grad is None else value.grad)
    (_, theirs, _), _ = transfer_weights(tower, model, role, folder)
    whole = np.sqrt(sum(np.sum(np.square(value)) for value in jax.tree.leaves(theirs)))
    errors = {
        _join_path(path): np.linalg.norm(got - expected)
        / max(np.linalg.norm(expected), 1e-4 * whole)
        for (path, got), expected in zip(
            jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
        )
    }
    assert not {path: error for path, error in errors.items() if error > 1e-3}
