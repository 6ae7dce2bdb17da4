"""Convolutional image towers: EfficientNet and ResNet."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.config.changes import MEANS
from mural_jax.distributed.mesh import gather
from mural_jax.models.layers import (
    DEFAULT_COMPUTE,
    Compute,
    draw_bernoulli,
    look_up,
    scan_blocks,
    split_keys,
    stack_blocks,
)
from mural_jax.models.vision import PIXEL_STATISTICS, normalise_pixels
from mural_jax.types import Array, Encoding, UserError

# He et al. 2015: keeps the variance of the gradients through a ReLU.
KERNEL_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')
PADDINGS = ('same', 'symmetric')


class ConvSettings(NamedTuple):
    """Settings that all convolutions of a network share.

    Attributes:
      momentum: Momentum of the running batch statistics.
      eps: Epsilon of the batch norms.
      padding: 'same' as in TensorFlow (where uneven, one more at the end), or 'symmetric' as in
        PyTorch.
    """

    momentum: float
    eps: float
    padding: str


class ConvNorm(nnx.Module):
    """A convolution without bias and its batch norm, [B, H, W, C] -> [B, H', W', D].

    In training the batch statistics are those of the global batch, on any number of devices.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel_size: int,
        stride: int,
        settings: ConvSettings,
        compute: Compute,
        rngs: nnx.Rngs,
        depthwise: bool = False,
        zero: bool = False,
    ):
        """`zero` makes the scale of the batch norm start at zero."""
        self.stride, self.dtype = stride, compute.dtype
        symmetric = [((kernel_size - 1) // 2,) * 2] * 2
        self.padding = 'SAME' if settings.padding == 'same' else symmetric
        self.groups = channels if depthwise else 1
        shape = (kernel_size, kernel_size, channels // self.groups, width)
        # The initialiser takes the outputs of all groups for the fan-out of an input channel, but
        # the channel reaches those of its own group only.
        kernel = KERNEL_INIT(rngs.params(), shape) * math.sqrt(self.groups)
        self.kernel = nnx.Param(kernel)
        scale_init = nnx.initializers.zeros if zero else nnx.initializers.ones
        self.norm = nnx.BatchNorm(
            width,
            momentum=settings.momentum,
            epsilon=settings.eps,
            # The fast formula, E[x^2] - E[x]^2, loses precision where the mean is large.
            use_fast_variance=False,
            scale_init=scale_init,
            rngs=rngs,
        )

    def __call__(self, x_BHWC: Array, training: bool) -> Array:
        # Under FSDP the compiler would otherwise gather the examples instead of the kernel.
        kernel = gather(self.kernel[...].astype(self.dtype))
        x_BHWC = jax.lax.conv_general_dilated(
            x_BHWC.astype(self.dtype),
            kernel,
            (self.stride,) * 2,
            self.padding,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=self.groups,
        )
        # The norm computes in float32.
        return self.norm(x_BHWC, use_running_average=not training).astype(self.dtype)


class SqueezeExcite(nnx.Module):
    """Scales each channel by a gate that sees the whole image (Hu et al. 2018, arXiv:1709.01507).

    x * sigmoid(expand(silu(reduce(mean of x over H and W)))).
    """

    def __init__(self, channels: int, squeezed: int, dtype: Any, rngs: nnx.Rngs):
        self.reduce = nnx.Linear(channels, squeezed, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(squeezed, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: Array) -> Array:
        mean_B11C = x_BHWC.mean((1, 2), keepdims=True)
        return x_BHWC * jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean_B11C))))


class InvertedBottleneck(nnx.Module):
    """EfficientNet's block (MBConv): expand, depthwise, squeeze and excite, project."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int,
        expansion: int,
        settings: ConvSettings,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        hidden = channels * expansion
        # The input can be added only if its shape does not change.
        self.has_residual = stride == 1 and channels == width
        if expansion > 1:
            self.expand = ConvNorm(channels, hidden, 1, 1, settings, compute, rngs)
        self.depthwise = ConvNorm(
            hidden, hidden, kernel, stride, settings, compute, rngs, depthwise=True
        )
        # The paper's code squeezes to a quarter of the block's input, not of the expanded channels.
        self.excite = SqueezeExcite(hidden, max(1, channels // 4), compute.dtype, rngs)
        self.project = ConvNorm(hidden, width, 1, 1, settings, compute, rngs)

    def __call__(self, x_BHWC: Array, key_B: Array | None, rate: Array | float) -> Array:
        """`rate` is the share of examples that skip the block in training."""
        training, entry_BHWC = key_B is not None, x_BHWC
        if hasattr(self, 'expand'):
            x_BHWC = jax.nn.silu(self.expand(x_BHWC, training))
        x_BHWC = self.excite(jax.nn.silu(self.depthwise(x_BHWC, training)))
        x_BHWC = self.project(x_BHWC, training)
        return entry_BHWC + _skip_block(x_BHWC, rate, key_B) if self.has_residual else x_BHWC


def _skip_block(x_BHWC: Array, rate: Array | float, key_B: Array | None) -> Array:
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): zeroes a branch for whole examples.

    The branch of the other examples is divided by 1 - rate, so its expectation does not change.
    """
    if key_B is None:
        return x_BHWC
    kept_B111 = draw_bernoulli(key_B, 1 - rate, (1, 1, 1))
    return jnp.where(kept_B111, x_BHWC / (1 - rate), 0).astype(x_BHWC.dtype)


class Bottleneck(nnx.Module):
    """ResNet's block of 1x1, 3x3 and 1x1 convolutions, with the stride at the 3x3 (v1.5)."""

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        settings: ConvSettings,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        inner = width // 4
        self.reduce = ConvNorm(channels, inner, 1, 1, settings, compute, rngs)
        self.spatial = ConvNorm(inner, inner, 3, stride, settings, compute, rngs)
        # A zero scale makes the block start as the identity (Goyal et al. 2017, arXiv:1706.02677).
        self.expand = ConvNorm(inner, width, 1, 1, settings, compute, rngs, zero=True)
        if stride > 1 or channels != width:
            self.shortcut = ConvNorm(channels, width, 1, stride, settings, compute, rngs)

    def __call__(self, x_BHWC: Array, key_B: Array | None, rate: Array | float) -> Array:
        """`rate` has no effect: ResNet trains without stochastic depth."""
        training, entry_BHWC = key_B is not None, x_BHWC
        x_BHWC = jax.nn.relu(self.reduce(x_BHWC, training))
        x_BHWC = jax.nn.relu(self.spatial(x_BHWC, training))
        x_BHWC = self.expand(x_BHWC, training)
        if hasattr(self, 'shortcut'):
            entry_BHWC = self.shortcut(entry_BHWC, training)
        return jax.nn.relu(entry_BHWC + x_BHWC)


class ConvStage(nnx.Module):
    """One block that changes the shape, then `count` identical blocks in one compiled loop."""

    def __init__(
        self, build_first: Callable, build_rest: Callable, count: int, remat: str, rngs: nnx.Rngs
    ):
        """`build_first` and `build_rest` build a block from `rngs`; `remat` is for the loop."""
        self.remat, self.count = remat, count
        self.first = build_first(rngs)
        if count:
            self.blocks = stack_blocks(count, build_rest, rngs)

    def __call__(self, x_BHWC: Array, key_B: Array | None, rates: list[float]) -> Array:
        """`rates` are the stochastic-depth rates, one for each of the 1 + count blocks."""
        first_key_B, rest_key_B = split_keys(key_B, 2)
        x_BHWC = self.first(x_BHWC, first_key_B, rates[0])
        if not self.count:
            return x_BHWC
        keys = None if rest_key_B is None else split_keys(rest_key_B, self.count)
        # As data of the loop, different rates do not need different code.
        each = (keys, jnp.array(rates[1:], jnp.float32))
        return scan_blocks(
            self.blocks, lambda block, x, own: block(x, *own), x_BHWC, each, self.remat
        )


class EfficientNet(nnx.Module):
    """EfficientNet (Tan & Le 2019, arXiv:1905.11946), scaled in width and depth.

    width_factor: Channels as a multiple of B0's.
    depth_factor: Blocks of each stage as a multiple of B0's.
    drop_path: Stochastic depth in training: block i of n, counted from 0, is skipped by a share
      drop_path * i / n of the examples.
    head: Whether a 1x1 convolution to 1280 * width_factor channels comes before pooling. ALIGN
      pools without it (Jia et al. 2021).
    padding: 'same' (the paper and the `tf_` weights of timm) or 'symmetric'.
    norm_eps, norm_momentum: Epsilon and momentum of the batch norms.
    pixels: A key of PIXEL_STATISTICS.
    remat: What the backward pass recomputes inside the repeated blocks, as in `Layers`.
    """

    # (blocks, kernel, stride, expansion, channels) of B0's stages: table 1 of the paper.
    STAGES = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    STEM, HEAD = 32, 1280

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        width_factor: float = 1.0,
        depth_factor: float = 1.0,
        drop_path: float = 0.2,
        head: bool = True,
        padding: str = 'same',
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.99,
        pixels: str = 'imagenet',
        remat: Annotated[str, MEANS] = 'none',
        compute: Compute = DEFAULT_COMPUTE,
    ):
        _check_settings(padding, pixels)
        self.drop_path, self.pixels = drop_path, pixels
        settings = ConvSettings(norm_momentum, norm_eps, padding)
        channels = round_channels(self.STEM * width_factor)
        self.stem = ConvNorm(3, channels, 3, 2, settings, compute, rngs)
        stages = []
        for blocks, kernel, stride, expansion, base in self.STAGES:
            width = round_channels(base * width_factor)
            first, rest = (
                partial(
                    InvertedBottleneck, inputs, width, kernel, step, expansion, settings, compute
                )
                for inputs, step in ((channels, stride), (width, 1))
            )
            # The first block of a stage may change stride and channels. The others are identical,
            # so one compiled loop can run them.
            count = math.ceil(blocks * depth_factor) - 1
            stages.append(ConvStage(first, rest, count, remat, rngs))
            channels = width
        self.stages = nnx.List(stages)
        self.width = round_channels(self.HEAD * width_factor) if head else channels
        if head:
            self.head = ConvNorm(channels, self.width, 1, 1, settings, compute, rngs)

    def __call__(self, image_BHWC: Array, key_B: Array | None = None) -> Encoding:
        """uint8 [B, H, W, 3] -> Encoding whose tokens are the places of the last feature map.

        With `key_B` the pass is a training pass: it skips blocks and updates batch statistics.
        """
        training = key_B is not None
        with jax.named_scope('stem'):
            x_BHWC = normalise_pixels(image_BHWC, self.pixels)
            x_BHWC = jax.nn.silu(self.stem(x_BHWC, training))
        total = sum(1 + stage.count for stage in self.stages)
        # The rate grows linearly over the blocks of all stages (Huang et al. 2016).
        rates = [self.drop_path * number / total for number in range(total)]
        for stage, stage_key_B in zip(self.stages, split_keys(key_B, len(self.stages))):
            with jax.named_scope('stages'):
                x_BHWC = stage(x_BHWC, stage_key_B, rates[: 1 + stage.count])
            rates = rates[1 + stage.count :]
        if hasattr(self, 'head'):
            with jax.named_scope('head'):
                x_BHWC = jax.nn.silu(self.head(x_BHWC, training))
        return pool_places(x_BHWC)


class ResNet(nnx.Module):
    """ResNet with bottleneck blocks (He et al. 2016, arXiv:1512.03385), as in torchvision.

    stages: Blocks of each stage, (3, 4, 6, 3) for ResNet-50 and (3, 4, 23, 3) for ResNet-101.
    padding: 'symmetric' (torchvision) or 'same'.
    norm_eps, norm_momentum: Epsilon and momentum of the batch norms.
    pixels: A key of PIXEL_STATISTICS.
    remat: What the backward pass recomputes inside the repeated blocks, as in `Layers`.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        stages: tuple[int, ...] = (3, 4, 6, 3),
        padding: str = 'symmetric',
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.9,
        pixels: str = 'imagenet',
        remat: Annotated[str, MEANS] = 'none',
        compute: Compute = DEFAULT_COMPUTE,
    ):
        _check_settings(padding, pixels)
        self.pixels = pixels
        settings = ConvSettings(norm_momentum, norm_eps, padding)
        self.same = padding == 'same'
        channels = 64
        self.stem = ConvNorm(3, channels, 7, 2, settings, compute, rngs)
        built = []
        for number, blocks in enumerate(stages):
            # The max pooling before the first stage has already halved the resolution.
            width, stride = 256 << number, 1 if number == 0 else 2
            first, rest = (
                partial(Bottleneck, inputs, width, step, settings, compute)
                for inputs, step in ((channels, stride), (width, 1))
            )
            built.append(ConvStage(first, rest, blocks - 1, remat, rngs))
            channels = width
        self.stages = nnx.List(built)
        self.width = channels

    def __call__(self, image_BHWC: Array, key_B: Array | None = None) -> Encoding:
        """uint8 [B, H, W, 3] -> Encoding whose tokens are the places of the last feature map.

        With `key_B` the pass is a training pass: it updates batch statistics.
        """
        training = key_B is not None
        with jax.named_scope('stem'):
            x_BHWC = jax.nn.relu(self.stem(normalise_pixels(image_BHWC, self.pixels), training))
        # Zeros are as good as minus infinity for this maximum: nothing is negative after a ReLU.
        if not self.same:
            x_BHWC = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x_BHWC = nnx.max_pool(
            x_BHWC, window_shape=(3, 3), strides=(2, 2), padding='SAME' if self.same else 'VALID'
        )
        for stage, stage_key_B in zip(self.stages, split_keys(key_B, len(self.stages))):
            with jax.named_scope('stages'):
                x_BHWC = stage(x_BHWC, stage_key_B, [0.0] * (1 + stage.count))
        return pool_places(x_BHWC)


def pool_places(x_BHWC: Array) -> Encoding:
    """The Encoding of a feature map: its places as tokens, and their mean as the vector."""
    tokens_BLD = x_BHWC.reshape(x_BHWC.shape[0], -1, x_BHWC.shape[-1])
    pooled_BD = tokens_BLD.astype(jnp.float32).mean(1)
    return Encoding(pooled_BD, tokens_BLD, jnp.ones(tokens_BLD.shape[:2], bool))


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 that is at least 90% of `channels`, and at least 8.

    This is how the released code of EfficientNet scales channels.
    """
    multiple = max(8, int(channels + 4) // 8 * 8)
    return multiple + 8 if multiple < 0.9 * channels else multiple


def _check_settings(padding: str, pixels: str) -> None:
    look_up('pixels', pixels, PIXEL_STATISTICS)
    if padding not in PADDINGS:
        raise UserError(f'padding={padding!r} is not known; the known values are {PADDINGS}.')
