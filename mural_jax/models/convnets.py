"""Convolutional image towers: EfficientNet and ResNet."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.distributed.mesh import gather
from mural_jax.models.layers import (
    DEFAULT,
    Compute,
    bernoulli,
    choose,
    run_stacked,
    split_keys,
    stacked,
)
from mural_jax.models.vision import PIXELS, normalise
from mural_jax.types import Array, Encoding, UserError

# He et al. 2015: keeps the variance of what a rectifier lets through, by outputs.
KERNEL_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')
PADDINGS = ('same', 'symmetric')


class Conv(nnx.Module):
    """A convolution without bias and its batch norm, [B, H, W, C] -> [B, H', W', D].

    padding: 'same' as TensorFlow has it (more at the end where it is uneven), or 'symmetric' as
    PyTorch has it. Batch norm counts over the global batch, also where it is split over devices.
    """

    def __init__(
        self, channels: int, width: int, kernel_size: int, stride: int, norm: 'Norm',
        compute: Compute, rngs: nnx.Rngs, depthwise: bool = False, zero: bool = False,
    ):  # fmt: skip
        self.stride, self.dtype = stride, compute.dtype
        self.padding = 'SAME' if norm.padding == 'same' else [((kernel_size - 1) // 2,) * 2] * 2
        self.groups = channels if depthwise else 1
        shape = (kernel_size, kernel_size, channels // self.groups, width)
        # The initialiser counts all outputs, but a filter of a group reaches one of them only.
        kernel = KERNEL_INIT(rngs.params(), shape) * math.sqrt(self.groups)
        self.kernel = nnx.Param(kernel)
        scale_init = nnx.initializers.zeros if zero else nnx.initializers.ones
        self.norm = nnx.BatchNorm(
            width, momentum=norm.momentum, epsilon=norm.eps, use_fast_variance=False,
            scale_init=scale_init, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x_BHWC: Array, training: bool) -> Array:
        # Under FSDP a compiler would else gather the examples instead of the kernel.
        kernel = gather(self.kernel[...].astype(self.dtype))
        x_BHWC = jax.lax.conv_general_dilated(
            x_BHWC.astype(self.dtype), kernel, (self.stride,) * 2,
            self.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=self.groups,
        )  # fmt: skip
        return self.norm(x_BHWC, use_running_average=not training).astype(self.dtype)


class Norm(NamedTuple):
    """What batch norms and paddings of a network have in common."""

    momentum: float
    eps: float
    padding: str


class SqueezeExcite(nnx.Module):
    """Scales channels by what the whole picture says (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int, dtype: Any, rngs: nnx.Rngs):
        self.reduce = nnx.Linear(channels, squeezed, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(squeezed, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: Array) -> Array:
        mean_B11C = x_BHWC.mean((1, 2), keepdims=True)
        return x_BHWC * jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean_B11C))))


class Inverted(nnx.Module):
    """EfficientNet's block: expand, depthwise, squeeze and excite, project (MBConv)."""

    def __init__(
        self, channels: int, width: int, kernel: int, stride: int, expansion: int, norm: Norm,
        compute: Compute, rngs: nnx.Rngs,
    ):  # fmt: skip
        hidden = channels * expansion
        self.adds = stride == 1 and channels == width
        if expansion > 1:
            self.expand = Conv(channels, hidden, 1, 1, norm, compute, rngs)
        self.depthwise = Conv(hidden, hidden, kernel, stride, norm, compute, rngs, depthwise=True)
        # A quarter of the block's input, not of what it was expanded to.
        self.excite = SqueezeExcite(hidden, max(1, channels // 4), compute.dtype, rngs)
        self.project = Conv(hidden, width, 1, 1, norm, compute, rngs)

    def __call__(self, x_BHWC: Array, key_B: Array | None, rate: Array | float) -> Array:
        """`rate` is the share of examples whose block is skipped in training."""
        training, entry_BHWC = key_B is not None, x_BHWC
        if hasattr(self, 'expand'):
            x_BHWC = jax.nn.silu(self.expand(x_BHWC, training))
        x_BHWC = self.excite(jax.nn.silu(self.depthwise(x_BHWC, training)))
        x_BHWC = self.project(x_BHWC, training)
        return entry_BHWC + _drop_path(x_BHWC, rate, key_B) if self.adds else x_BHWC


def _drop_path(x_BHWC: Array, rate: Array | float, key_B: Array | None) -> Array:
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382), by example."""
    if key_B is None:
        return x_BHWC
    kept_B111 = bernoulli(key_B, 1 - rate, (1, 1, 1))
    return jnp.where(kept_B111, x_BHWC / (1 - rate), 0).astype(x_BHWC.dtype)


class Bottleneck(nnx.Module):
    """ResNet's block of 1x1, 3x3 and 1x1 convolutions; the stride is at the 3x3 (v1.5)."""

    def __init__(
        self, channels: int, width: int, stride: int, norm: Norm, compute: Compute, rngs: nnx.Rngs
    ):  # fmt: skip
        inner = width // 4
        self.reduce = Conv(channels, inner, 1, 1, norm, compute, rngs)
        self.spatial = Conv(inner, inner, 3, stride, norm, compute, rngs)
        # The block starts as identity (Goyal et al. 2017, arXiv:1706.02677).
        self.expand = Conv(inner, width, 1, 1, norm, compute, rngs, zero=True)
        if stride > 1 or channels != width:
            self.shortcut = Conv(channels, width, 1, stride, norm, compute, rngs)

    def __call__(self, x_BHWC: Array, key_B: Array | None, rate: Array | float) -> Array:
        training, entry_BHWC = key_B is not None, x_BHWC
        x_BHWC = jax.nn.relu(self.reduce(x_BHWC, training))
        x_BHWC = jax.nn.relu(self.spatial(x_BHWC, training))
        x_BHWC = self.expand(x_BHWC, training)
        if hasattr(self, 'shortcut'):
            entry_BHWC = self.shortcut(entry_BHWC, training)
        return jax.nn.relu(entry_BHWC + x_BHWC)


class Stage(nnx.Module):
    """A block that changes the shape, and equal ones that do not, compiled once."""

    def __init__(self, first: Any, rest: Any, count: int, remat: str, rngs: nnx.Rngs):
        """`first` and `rest` build a block with given `rngs`; `count` is of `rest`."""
        self.remat, self.count = remat, count
        self.first = first(rngs)
        if count:
            self.blocks = stacked(count, rest, rngs)

    def __call__(self, x_BHWC: Array, key_B: Array | None, rates: list[float]) -> Array:
        """`rates` are those of stochastic depth, one a block."""
        first, second = split_keys(key_B, 2)
        x_BHWC = self.first(x_BHWC, first, rates[0])
        if not self.count:
            return x_BHWC
        keys = None if second is None else split_keys(second, self.count)
        each = (keys, jnp.array(rates[1:], jnp.float32))
        return run_stacked(
            self.blocks, lambda block, x, own: block(x, *own), x_BHWC, each, self.remat
        )


class EfficientNet(nnx.Module):
    """EfficientNet (Tan & Le 2019, arXiv:1905.11946), scaled in width and in depth.

    width_factor, depth_factor: of channels and of blocks over those of B0.
    drop_path: the share of examples whose last block is skipped, blocks before it in proportion.
    head: the 1x1 convolution to 1280 * width_factor channels before pooling; ALIGN pools without
    it (Jia et al. 2021). padding: 'same' (the paper's, `tf_` weights of timm) or 'symmetric'.
    remat: what the backward pass computes again inside blocks that repeat.
    """

    # (blocks, kernel, stride, expansion, channels) of B0's stages: table 1 of the paper.
    STAGES = (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
    )  # fmt: skip
    STEM, HEAD = 32, 1280

    def __init__(
        self, *, rngs: nnx.Rngs, width_factor: float = 1.0, depth_factor: float = 1.0,
        drop_path: float = 0.2, head: bool = True, padding: str = 'same', norm_eps: float = 1e-3,
        norm_momentum: float = 0.99, pixels: str = 'imagenet', remat: str = 'none',
        compute: Compute = DEFAULT,
    ):  # fmt: skip
        _check(padding, pixels)
        self.drop_path, self.pixels = drop_path, pixels
        norm = Norm(norm_momentum, norm_eps, padding)
        channels = rounded(self.STEM * width_factor)
        self.stem = Conv(3, channels, 3, 2, norm, compute, rngs)
        stages = []
        for blocks, kernel, stride, expansion, base in self.STAGES:
            width = rounded(base * width_factor)
            first, rest = (
                partial(Inverted, inputs, width, kernel, step, expansion, norm, compute)
                for inputs, step in ((channels, stride), (width, 1))
            )
            count = math.ceil(blocks * depth_factor) - 1
            stages.append(Stage(first, rest, count, remat, rngs))
            channels = width
        self.stages = nnx.List(stages)
        self.width = rounded(self.HEAD * width_factor) if head else channels
        if head:
            self.head = Conv(channels, self.width, 1, 1, norm, compute, rngs)

    def __call__(self, image_BHWC: Array, key_B: Array | None = None) -> Encoding:
        """uint8 [B, H, W, 3] -> Encoding; `key_B` mean training: batch statistics, skipping."""
        training = key_B is not None
        with jax.named_scope('stem'):
            x_BHWC = normalise(image_BHWC, self.pixels)
            x_BHWC = jax.nn.silu(self.stem(x_BHWC, training))
        total = sum(1 + stage.count for stage in self.stages)
        rates = [self.drop_path * number / total for number in range(total)]
        for stage, own in zip(self.stages, split_keys(key_B, len(self.stages))):
            with jax.named_scope('stages'):
                x_BHWC = stage(x_BHWC, own, rates[: 1 + stage.count])
            rates = rates[1 + stage.count :]
        if hasattr(self, 'head'):
            with jax.named_scope('head'):
                x_BHWC = jax.nn.silu(self.head(x_BHWC, training))
        return pooled(x_BHWC)


class ResNet(nnx.Module):
    """ResNet with bottlenecks (He et al. 2016, arXiv:1512.03385), in torchvision's form.

    stages: blocks of each stage, (3, 4, 6, 3) for ResNet-50, (3, 4, 23, 3) for ResNet-101.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, stages: tuple[int, ...] = (3, 4, 6, 3),
        padding: str = 'symmetric', norm_eps: float = 1e-5, norm_momentum: float = 0.9,
        pixels: str = 'imagenet', remat: str = 'none', compute: Compute = DEFAULT,
    ):  # fmt: skip
        _check(padding, pixels)
        self.pixels = pixels
        norm = Norm(norm_momentum, norm_eps, padding)
        self.same = padding == 'same'
        channels = 64
        self.stem = Conv(3, channels, 7, 2, norm, compute, rngs)
        built = []
        for number, blocks in enumerate(stages):
            width, stride = 256 << number, 1 if number == 0 else 2
            first, rest = (
                partial(Bottleneck, inputs, width, step, norm, compute)
                for inputs, step in ((channels, stride), (width, 1))
            )
            built.append(Stage(first, rest, blocks - 1, remat, rngs))
            channels = width
        self.stages = nnx.List(built)
        self.width = channels

    def __call__(self, image_BHWC: Array, key_B: Array | None = None) -> Encoding:
        """uint8 [B, H, W, 3] -> Encoding; `key_B` mean training: batch statistics."""
        with jax.named_scope('stem'):
            x_BHWC = jax.nn.relu(self.stem(normalise(image_BHWC, self.pixels), key_B is not None))
        if not self.same:  # By zeros: behind the ReLU nothing is below them.
            x_BHWC = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x_BHWC = nnx.max_pool(
            x_BHWC, window_shape=(3, 3), strides=(2, 2), padding='SAME' if self.same else 'VALID'
        )
        for stage, own in zip(self.stages, split_keys(key_B, len(self.stages))):
            with jax.named_scope('stages'):
                x_BHWC = stage(x_BHWC, own, [0.0] * (1 + stage.count))
        return pooled(x_BHWC)


def pooled(x_BHWC: Array) -> Encoding:
    """The mean over places, and the places as tokens."""
    tokens_BLD = x_BHWC.reshape(x_BHWC.shape[0], -1, x_BHWC.shape[-1])
    pooled_BD = tokens_BLD.astype(jnp.float32).mean(1)
    return Encoding(pooled_BD, tokens_BLD, jnp.ones(tokens_BLD.shape[:2], bool))


def rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not 10% less: how the paper's code scales channels."""
    whole = max(8, int(channels + 4) // 8 * 8)
    return whole + 8 if whole < 0.9 * channels else whole


def _check(padding: str, pixels: str) -> None:
    choose('pixels', pixels, PIXELS)
    if padding not in PADDINGS:
        raise UserError(f'padding={padding!r} is not known; there are {PADDINGS}.')
