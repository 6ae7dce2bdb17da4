"""Parts of a picture as the visual words of one stream: features, geometry and a class each."""

import numpy as np
import tensorflow as tf

from mural_jax.data.fields.region_settings import RegionSettings

NO_CLASS = -1


def cut_regions(
    settings: RegionSettings, image_BHWC: tf.Tensor, parsed: dict[str, tf.Tensor]
) -> tf.Tensor:
    """uint8 [B, H, H, 3] and ragged boxes, features -> float32 [B, most, F + geometry].

    Pixels are scaled to [-1, 1]. Where a picture has fewer regions all is zero.
    """
    box_BR4 = _boxes(settings, image_BHWC, parsed)
    width_BR, height_BR = box_BR4[..., 2] - box_BR4[..., 0], box_BR4[..., 3] - box_BR4[..., 1]
    sizes = [width_BR * height_BR] if settings.geometry == 5 else [width_BR, height_BR]
    geometry_BRG = tf.concat([box_BR4, tf.stack(sizes, axis=-1)], axis=-1)
    if settings.by == 'features':
        feature_BRF = _dense(parsed['features'], settings.most, settings.size)
    else:
        feature_BRF = _pixels(settings, image_BHWC, box_BR4)
    real_BR1 = tf.cast(width_BR[..., None] > 0, tf.float32)
    region_BRF = tf.concat([feature_BRF, geometry_BRG], axis=-1) * real_BR1
    return tf.ensure_shape(
        region_BRF, [None, settings.most, settings.feature_size + settings.geometry]
    )


def read_classes(settings: RegionSettings, parsed: dict[str, tf.Tensor]) -> tf.Tensor:
    """The class of each region, int32 [B, most], NO_CLASS where there is none."""
    classes_BR = parsed['classes'].to_tensor(NO_CLASS)[:, : settings.most]
    lacking = settings.most - tf.shape(classes_BR)[1]
    filled_BR = tf.pad(classes_BR, [[0, 0], [0, lacking]], constant_values=NO_CLASS)
    return tf.cast(tf.ensure_shape(filled_BR, [None, settings.most]), tf.int32)


def region_mask(region_BRF: tf.Tensor, feature_size: int) -> tf.Tensor:
    """Which places hold a region, bool [B, R]."""
    return region_BRF[..., feature_size + 2] > region_BRF[..., feature_size]


def swap_half_of_regions(
    settings: RegionSettings, region_BRF: tf.Tensor, other_BRF: tf.Tensor, random_BR: tf.Tensor
) -> tf.Tensor:
    """The regions with half of each picture's own, rounded down and at least one, replaced.

    Which ones `random_BR` in [0, 1) says; in their places are the first of the other picture's,
    none where that has fewer.
    """
    real_BR = region_mask(region_BRF, settings.feature_size)
    count_B1 = tf.reduce_sum(tf.cast(real_BR, tf.int32), axis=1, keepdims=True)
    # The place of each region in the order of its random number.
    order_BR = tf.argsort(tf.argsort(tf.where(real_BR, random_BR, 2.0), axis=1), axis=1)
    swapped_BR = order_BR < tf.minimum(tf.maximum(count_B1 // 2, 1), count_B1)
    taken_BRF = tf.gather(other_BRF, order_BR, batch_dims=1)
    return tf.where(swapped_BR[..., None], taken_BRF, region_BRF)


def _boxes(
    settings: RegionSettings, image_BHWC: tf.Tensor, parsed: dict[str, tf.Tensor]
) -> tf.Tensor:
    """float32 [B, most, 4], zeros where there is none."""
    if settings.by != 'patches':
        return _dense(parsed['boxes'], settings.most, 4)
    cells = image_BHWC.shape[1] // settings.side
    row_RR, column_RR = tf.meshgrid(tf.range(cells), tf.range(cells), indexing='ij')
    row_R, column_R = tf.reshape(row_RR, [-1]), tf.reshape(column_RR, [-1])
    corners_R4 = tf.cast(tf.stack([column_R, row_R, column_R + 1, row_R + 1], -1), tf.float32)
    return tf.tile(corners_R4[None, : settings.most] / cells, [tf.shape(image_BHWC)[0], 1, 1])


def _pixels(settings: RegionSettings, image_BHWC: tf.Tensor, box_BR4: tf.Tensor) -> tf.Tensor:
    """What is in the boxes, float32 [B, most, side * side * 3] in [-1, 1]."""
    batch, side = tf.shape(image_BHWC)[0], float(image_BHWC.shape[1])
    first_N2, end_N2 = tf.split(tf.reshape(box_BR4, [-1, 4]) * side, 2, axis=1)
    # Corners are the middles of pixels, (y, x), from 0 to 1.
    corner_N4 = tf.concat([first_N2[:, ::-1], end_N2[:, ::-1] - 1], axis=1) / (side - 1)
    crop_NSSC = tf.image.crop_and_resize(
        tf.cast(image_BHWC, tf.float32),
        corner_N4,
        tf.repeat(tf.range(batch), settings.most),
        [settings.side, settings.side],
    )
    return tf.reshape(crop_NSSC, [batch, settings.most, settings.feature_size]) / 127.5 - 1


def _dense(ragged: tf.RaggedTensor, most: int, width: int) -> tf.Tensor:
    """Ragged [B, R * width] -> [B, most, width], zeros where there is none."""
    flat = ragged.to_tensor()[:, : most * width]
    flat = tf.pad(flat, [[0, 0], [0, most * width - tf.shape(flat)[1]]])
    return tf.reshape(flat, [-1, most, width])


def swap_half_of_tags(own_B: tf.Tensor, other_B: tf.Tensor) -> tf.Tensor:
    """Tags, joined by commas: the first half of a picture's own and as many of another's."""

    def mix(own_B: np.ndarray, other_B: np.ndarray) -> np.ndarray:
        swap_half_of_regions = []
        for own, other in zip(own_B, other_B):
            names = own.split(b', ')
            kept = len(names) // 2
            swap_half_of_regions.append(
                b', '.join(names[:kept] + other.split(b', ')[: len(names) - kept])
            )
        return np.array(swap_half_of_regions, object)

    return tf.ensure_shape(tf.numpy_function(mix, [own_B, other_B], tf.string), own_B.shape)
