"""Pure functions that encode images and texts, for Model and for the exported programs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.inference.description import ModelDescription
from mural_jax.models.functional import Params, merge
from mural_jax.types import Array

# (parameters, batch statistics, inputs) -> unit vectors.
Encode = Callable[[Params, Params, Any], Array]


def build_encode_functions(
    graphdef: Any, description: ModelDescription, space: str
) -> dict[str, Encode]:
    """Returns an Encode function for each tower of a space, which gives float32 [B, D].

    'image' takes uint8 [B, H, H, 3], 'text' takes int32 [B, L].
    """

    def encode(tower: str, params: Params, statistics: Params, inputs: Array) -> Array:
        if tower == 'image' and description.regions:
            inputs = split_patches(inputs, description.regions)
        model = merge(graphdef, params, statistics)
        return model.represent(space, tower, model.encode(tower, inputs))

    return {tower: partial(encode, tower) for tower in description.spaces[space].sides}


def split_patches(image_BHWC: Array, settings: RegionSettings) -> Array:
    """Returns the patches of images with their places, float32 [B, R, F + geometry].

    It is what the streams do with TensorFlow for `by='patches'` (data/fields/crops.py). The size of
    an image must be a multiple of `settings.side`.
    """
    batch, size = image_BHWC.shape[:2]  # The batch may be a symbolic dimension.
    side = settings.side
    cells = size // side
    split = image_BHWC.reshape(batch, cells, side, cells, side, 3).swapaxes(2, 3)
    feature_BRF = split.reshape(batch, cells**2, -1).astype(jnp.float32) / 127.5 - 1
    # Boxes as (left, top, right, bottom), as fractions of the image.
    row_R, column_R = np.divmod(np.arange(cells**2), cells)
    box_R4 = np.stack([column_R, row_R, column_R + 1, row_R + 1], -1) / np.float32(cells)
    width_R2 = box_R4[:, 2:] - box_R4[:, :2]
    # Five numbers describe a box by its corners and its area, six by corners, width and height.
    sizes = width_R2.prod(1, keepdims=True) if settings.geometry == 5 else width_R2
    geometry_RG = np.concatenate([box_R4, sizes], axis=1)
    geometry_BRG = jnp.broadcast_to(geometry_RG[None], (batch, *geometry_RG.shape))
    return jnp.concatenate([feature_BRF, geometry_BRG], axis=-1)[:, : settings.most]
