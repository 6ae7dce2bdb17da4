"""Parts of an image as the visual words of a one-stream model: features, geometry and classes."""

import numpy as np
import tensorflow as tf

from mural_jax.data.fields.region_settings import RegionSettings

NO_CLASS = -1  # the class of a region that has none, or of a place without a region


def cut_regions(
    settings: RegionSettings, image_BHWC: tf.Tensor, stored: dict[str, tf.Tensor]
) -> tf.Tensor:
    """float32 [B, R, F + geometry]: the regions of images, zeros where an image has fewer than R.

    Pixels are scaled to [-1, 1]. `image_BHWC` are square images, uint8; `stored` holds the ragged
    columns `boxes` and `features` [B, ?], as far as the settings use them.
    """
    box_BR4 = _read_boxes(settings, image_BHWC, stored)
    width_BR, height_BR = box_BR4[..., 2] - box_BR4[..., 0], box_BR4[..., 3] - box_BR4[..., 1]
    sizes = [width_BR * height_BR] if settings.geometry == 5 else [width_BR, height_BR]
    geometry_BRG = tf.concat([box_BR4, tf.stack(sizes, axis=-1)], axis=-1)
    if settings.by == 'features':
        feature_BRF = _pad_ragged(stored['features'], settings.most, settings.size)
    else:
        feature_BRF = _cut_pixels(settings, image_BHWC, box_BR4)
    # A place without a region has an empty box, and would show some pixel of the image.
    real_BR1 = tf.cast(width_BR[..., None] > 0, tf.float32)
    region_BRF = tf.concat([feature_BRF, geometry_BRG], axis=-1) * real_BR1
    return tf.ensure_shape(
        region_BRF, [None, settings.most, settings.feature_size + settings.geometry]
    )


def read_classes(settings: RegionSettings, stored: dict[str, tf.Tensor]) -> tf.Tensor:
    """int32 [B, R]: the stored class of each region, NO_CLASS where there is none."""
    classes_BR = stored['classes'].to_tensor(NO_CLASS)[:, : settings.most]
    lacking = settings.most - tf.shape(classes_BR)[1]
    filled_BR = tf.pad(classes_BR, [[0, 0], [0, lacking]], constant_values=NO_CLASS)
    return tf.cast(tf.ensure_shape(filled_BR, [None, settings.most]), tf.int32)


def region_mask(region_BRF: tf.Tensor, feature_size: int) -> tf.Tensor:
    """bool [B, R]: which places hold a region, seen by the width of its box."""
    return region_BRF[..., feature_size + 2] > region_BRF[..., feature_size]


def swap_half_of_regions(
    settings: RegionSettings, region_BRF: tf.Tensor, other_BRF: tf.Tensor, random_BR: tf.Tensor
) -> tf.Tensor:
    """The regions of each image, half of them replaced by the first ones of another image.

    Half is rounded down, but at least one region. Those with the smallest numbers in `random_BR`
    are replaced; where the other image has too few regions, zeros take their places.
    """
    real_BR = region_mask(region_BRF, settings.feature_size)
    count_B1 = tf.reduce_sum(tf.cast(real_BR, tf.int32), axis=1, keepdims=True)
    # The rank of each region's random number; places without a region come last.
    order_BR = tf.argsort(tf.argsort(tf.where(real_BR, random_BR, 2.0), axis=1), axis=1)
    swapped_BR = order_BR < tf.minimum(tf.maximum(count_B1 // 2, 1), count_B1)
    taken_BRF = tf.gather(other_BRF, order_BR, batch_dims=1)
    return tf.where(swapped_BR[..., None], taken_BRF, region_BRF)


def swap_half_of_tags(own_B: tf.Tensor, other_B: tf.Tensor) -> tf.Tensor:
    """string [B]: the first half of an image's tags, and as many of another's as are missing.

    Tags are joined by commas.
    """

    def swap(own_B: np.ndarray, other_B: np.ndarray) -> np.ndarray:
        joined = []
        for own, other in zip(own_B, other_B):
            names = own.split(b', ')
            half = len(names) // 2
            joined.append(b', '.join(names[:half] + other.split(b', ')[: len(names) - half]))
        return np.array(joined, object)

    return tf.ensure_shape(tf.numpy_function(swap, [own_B, other_B], tf.string), own_B.shape)


def _read_boxes(
    settings: RegionSettings, image_BHWC: tf.Tensor, stored: dict[str, tf.Tensor]
) -> tf.Tensor:
    """float32 [B, R, 4]: left, top, right, bottom as shares of the image; zeros for no region."""
    if settings.by != 'patches':
        return _pad_ragged(stored['boxes'], settings.most, 4)
    cells = image_BHWC.shape[1] // settings.side
    row_RR, column_RR = tf.meshgrid(tf.range(cells), tf.range(cells), indexing='ij')
    row_R, column_R = tf.reshape(row_RR, [-1]), tf.reshape(column_RR, [-1])
    corners_R4 = tf.cast(tf.stack([column_R, row_R, column_R + 1, row_R + 1], -1), tf.float32)
    return tf.tile(corners_R4[None, : settings.most] / cells, [tf.shape(image_BHWC)[0], 1, 1])


def _cut_pixels(settings: RegionSettings, image_BHWC: tf.Tensor, box_BR4: tf.Tensor) -> tf.Tensor:
    """float32 [B, R, side * side * 3] in [-1, 1]: the pixels in the boxes, resized."""
    batch, side = tf.shape(image_BHWC)[0], float(image_BHWC.shape[1])
    first_N2, end_N2 = tf.split(tf.reshape(box_BR4, [-1, 4]) * side, 2, axis=1)
    # crop_and_resize takes (y, x) of the middles of the corner pixels, 0 and 1 being the first
    # and the last pixel of the image.
    corner_N4 = tf.concat([first_N2[:, ::-1], end_N2[:, ::-1] - 1], axis=1) / (side - 1)
    crop_NSSC = tf.image.crop_and_resize(
        tf.cast(image_BHWC, tf.float32),
        corner_N4,
        tf.repeat(tf.range(batch), settings.most),
        [settings.side, settings.side],
    )
    return tf.reshape(crop_NSSC, [batch, settings.most, settings.feature_size]) / 127.5 - 1


def _pad_ragged(ragged: tf.RaggedTensor, most: int, width: int) -> tf.Tensor:
    """[B, most, width] from ragged [B, R * width], with zeros where there is nothing."""
    flat = ragged.to_tensor()[:, : most * width]
    flat = tf.pad(flat, [[0, 0], [0, most * width - tf.shape(flat)[1]]])
    return tf.reshape(flat, [-1, most, width])
