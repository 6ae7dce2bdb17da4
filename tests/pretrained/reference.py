"""The libraries that our towers are compared with, and how their weights come over.

Skips the tests of a module that imports it where the extra `parity` is not installed.
"""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip('torch', reason="pip install 'mural-jax[parity]'")

# torchvision is built for CUDA and does not find its operators beside the CPU build of PyTorch;
# timm and open_clip import it and never call them.
_OPERATORS = torch.library.Library('torchvision', 'FRAGMENT')
for _name in ('nms', 'qnms'):
    with contextlib.suppress(RuntimeError):  # Where they are there.
        _OPERATORS.define(f'{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

from safetensors.torch import save_file

from mural_jax.models import functional
from mural_jax.pretrained.files import read
from mural_jax.pretrained.place import Report, place
from mural_jax.types import Encoding

RNG = np.random.default_rng(0)


def scramble(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random values everywhere, norms and statistics too, so that nothing is 0 or 1 by default."""
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


def brought_over(
    tower: nnx.Module, model: torch.nn.Module, role: str, folder: Path
) -> tuple[tuple, Report]:
    """((structure, parameters, statistics) with the weights of `model`, saved and read; report)."""
    path = folder / 'model.safetensors'
    weights = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, path)
    graphdef, params, statistics = functional.split(tower)
    root = () if role == 'model' else ('towers', role)
    trees = [_under(root, tree) for tree in (params, statistics)]
    ours = {_name(p): v for tree in trees for p, v in jax.tree.leaves_with_path(tree)}
    filled, report = place(read(path), ours, role, str(path), paired=['image_text'])
    assert role == 'model' or filled.keys() == ours.keys()
    params, statistics = (
        _inside(
            root, jax.tree.map_with_path(lambda p, v: jnp.asarray(filled.get(_name(p), v)), tree)
        )
        for tree in trees
    )
    return (graphdef, params, statistics), report


def _under(root: tuple, tree: dict) -> dict:
    for key in reversed(root):
        tree = {key: tree}
    return tree


def _inside(root: tuple, tree: dict) -> dict:
    for key in root:
        tree = tree[key]
    return tree


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def run(split: tuple, inputs: np.ndarray, training: bool = False) -> Encoding:
    """The encoding, with batch norms of the batch where `training`."""

    @jax.jit
    def encode(params: dict, statistics: dict) -> Encoding:
        model = functional.merge(split[0], params, statistics)
        keys = jax.random.split(jax.random.key(0), len(inputs))
        return model(inputs, keys if training else None)

    return encode(*split[1:])


def pictures(size: int, count: int = 3) -> tuple[np.ndarray, torch.Tensor]:
    """uint8 [B, H, W, 3] for us, and [-1, 1] [B, 3, H, W] for PyTorch."""
    image_BHWC = RNG.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    theirs = torch.tensor(image_BHWC.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    return image_BHWC, theirs.contiguous()


def agree(ours: object, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference over the largest value."""
    ours, right = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == right.shape
    error = np.abs(ours - right).max() / np.abs(right).max()
    assert error < tolerance, error


def same_gradients(
    ours: dict, model: torch.nn.Module, tower: nnx.Module, role: str, folder: Path
) -> None:
    """To 1e-3, array by array. Their gradients come over like weights, to where they belong.

    A shift in front of a batch norm changes nothing, nor does one of all keys: such a gradient
    is rounding alone, so differences count from 1e-4 of the whole gradient on.
    """
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.zeros_like(value) if value.grad is None else value.grad)
    (_, theirs, _), _ = brought_over(tower, model, role, folder)
    whole = np.sqrt(sum(np.sum(np.square(value)) for value in jax.tree.leaves(theirs)))
    errors = {
        _name(path): np.linalg.norm(got - right) / max(np.linalg.norm(right), 1e-4 * whole)
        for (path, got), right in zip(
            jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
        )
    }
    assert not {path: error for path, error in errors.items() if error > 1e-3}
