"""Pictures in batches: decoding, and augmentation by given random numbers."""

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

WHITE = 255.0
SIDE_BY_SIDE = max(4, os.cpu_count() or 1)  # pictures of a batch that are decoded at a time
RATIOS = (1, 2, 4)  # at which a JPEG may be decoded smaller than it is


def decode_images(encoded_B: tf.Tensor, size: int) -> tf.Tensor:
    """PNG, JPEG, GIF, BMP or WebP -> uint8 [B, size, size, 3], resized where the side differs.

    JPEG by the accurate transform, which gives what Pillow and browsers give, bit for bit. The fast
    one, TensorFlow's default, is one of 255 off on average: of a model of photos that moved
    embeddings to a cosine of 0.991.
    """

    def one(encoded: tf.Tensor) -> tf.Tensor:
        image_HWC = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE'),
            lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
        )
        image_HWC = tf.ensure_shape(image_HWC, [None, None, 3])
        fits = tf.reduce_all(tf.shape(image_HWC)[:2] == size)
        image_HWC = tf.cond(fits, lambda: image_HWC, lambda: _resized(image_HWC, size))
        return tf.ensure_shape(image_HWC, [size, size, 3])

    return tf.map_fn(one, encoded_B, fn_output_signature=tf.uint8, parallel_iterations=SIDE_BY_SIDE)


def _resized(image_HWC: tf.Tensor, size: int) -> tf.Tensor:
    resized_SSC = tf.image.resize(image_HWC, [size, size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized_SSC), 0, 255), tf.uint8)


def decode_parts(
    encoded_B: tf.Tensor,
    side_B2: tf.Tensor,
    size: int,
    lowest: float,
    random_B4: tf.Tensor,
    mirrored_B: tf.Tensor,
) -> tf.Tensor:
    """A random part of each picture, mirrored or not, uint8 [B, size, size, 3].

    `side_B2` is height and width in pixels. The part has `lowest` to all of the area and 3/4 to
    4/3 of the aspect of the picture (the ranges of Inception crops, Szegedy et al. 2015), and is
    cut to fit. Of a JPEG only the part is decoded, at a half or a quarter of its size where that
    is still enough: that costs a fraction, and averages what a resize would skip.
    """
    window_B4 = draw_windows(side_B2, lowest, random_B4)
    halvings_B = tf.reduce_min(window_B4[:, 2:], axis=1) // size
    way_B = tf.where(halvings_B >= 4, 2, tf.where(halvings_B >= 2, 1, 0))
    jpeg_B = tf.strings.substr(encoded_B, 0, 3) == b'\xff\xd8\xff'
    # What does not depend on pixels is worked out here for all, since each operation in the loop
    # costs as much as some of the decoding.
    way_B = tf.where(jpeg_B, way_B, len(RATIOS))
    ratio_B = tf.gather(tf.constant([*RATIOS, 1]), way_B)
    window_B4 = tf.maximum(window_B4 // ratio_B[:, None], [0, 0, 1, 1])

    def one(given: tuple[tf.Tensor, ...]) -> tf.Tensor:
        encoded, window_4, way, mirrored = given

        def jpeg(ratio: int) -> Callable[[], tf.Tensor]:
            # Colours are enlarged plainly, which moves a pixel by 0.4 of 255 and saves a tenth.
            return lambda: tf.io.decode_and_crop_jpeg(
                encoded, window_4, channels=3, ratio=ratio, fancy_upscaling=False
            )

        ways = [*map(jpeg, RATIOS), lambda: _part(encoded, window_4)]
        part_HWC = tf.switch_case(way, ways)
        # What tf.image.resize does, without its checks.
        resized_1SSC = tf.raw_ops.ResizeBilinear(
            images=part_HWC[None], size=[size, size], half_pixel_centers=True
        )
        image_SSC = tf.cast(resized_1SSC[0] + 0.5, tf.uint8)
        image_SSC.set_shape([size, size, 3])
        return tf.cond(mirrored, lambda: tf.reverse(image_SSC, [1]), lambda: image_SSC)

    given = (encoded_B, window_B4, way_B, mirrored_B)
    image_BSSC = tf.map_fn(
        one, given, fn_output_signature=tf.uint8, parallel_iterations=SIDE_BY_SIDE
    )
    return tf.ensure_shape(image_BSSC, [None, size, size, 3])


def draw_windows(side_B2: tf.Tensor, lowest: float, random_B4: tf.Tensor) -> tf.Tensor:
    """(top, left, height, width) in pictures of sides (height, width), int32 [B, 4]."""
    side_B2 = tf.cast(side_B2, tf.float32)
    scale_B = tf.sqrt(lowest + random_B4[:, 0] * (1 - lowest))
    stretch_B = tf.exp((random_B4[:, 1] - 0.5) * float(np.log(4 / 3)))
    part_B2 = side_B2 * tf.stack([scale_B / stretch_B, scale_B * stretch_B], axis=1)
    part_B2 = tf.clip_by_value(tf.round(part_B2), 1.0, side_B2)
    corner_B2 = tf.floor(random_B4[:, 2:4] * (side_B2 - part_B2 + 1))
    return tf.cast(tf.concat([corner_B2, part_B2], axis=1), tf.int32)


def _part(encoded: tf.Tensor, window_4: tf.Tensor) -> tf.Tensor:
    image_HWC = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    top, left, height, width = tf.unstack(window_4)
    return image_HWC[top : top + height, left : left + width]


def decode_only(encoded_B: tf.Tensor) -> tf.Tensor:
    """Decodes pictures whole and gives their heights, int32 [B]: what decoding alone costs."""

    def one(encoded: tf.Tensor) -> tf.Tensor:
        return tf.shape(tf.io.decode_image(encoded, channels=3, expand_animations=False))[0]

    return tf.map_fn(one, encoded_B, fn_output_signature=tf.int32)


def decode_part_plainly(encoded: tf.Tensor, window_4: tf.Tensor, size: int) -> tf.Tensor:
    """A part of one picture in the plainest way, uint8 [size, size, 3]: a yardstick."""
    part_HWC = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_and_crop_jpeg(encoded, window_4, channels=3),
        lambda: _part(encoded, window_4),
    )
    part_HWC.set_shape([None, None, 3])
    return tf.cast(tf.image.resize(part_HWC, [size, size]) + 0.5, tf.uint8)


def crop_squares(image_BHWC: tf.Tensor, size: int, place_B2: tf.Tensor) -> tf.Tensor:
    """Squares [B, size, size, 3] of square pictures; places in [0, 1), 0.5 for the middle."""
    room = tf.cast(tf.shape(image_BHWC)[1] - size, tf.float32)
    first_B2 = tf.cast(tf.floor(place_B2 * (room + 1)), tf.int32)
    index_B2S = first_B2[:, :, None] + tf.range(size)[None, None]
    rows_BSWC = tf.gather(image_BHWC, index_B2S[:, 0], axis=1, batch_dims=1)
    return tf.gather(rows_BSWC, index_B2S[:, 1], axis=2, batch_dims=1)


def crop_middle(image_BHWC: tf.Tensor, size: int) -> tf.Tensor:
    """The square in the middle, [B, size, size, 3]."""
    first = (image_BHWC.shape[1] - size) // 2
    return image_BHWC[:, first : first + size, first : first + size]


def mirror_images(image_BHWC: tf.Tensor, wanted_B: tf.Tensor) -> tf.Tensor:
    """The pictures, the wanted ones mirrored left to right."""
    # Parted and put together again: a choice by tf.where takes ten times as long. And reversing
    # has a fast way for three dimensions alone.
    side_B = tf.cast(wanted_B, tf.int32)
    as_is, turned = tf.dynamic_partition(image_BHWC, side_B, 2)
    places = tf.dynamic_partition(tf.range(tf.shape(side_B)[0]), side_B, 2)
    rows_RWC = tf.reverse(tf.reshape(turned, [-1, *image_BHWC.shape[2:]]), [1])
    turned = tf.reshape(rows_RWC, tf.shape(turned))
    mixed_BHWC = tf.dynamic_stitch(places, [as_is, turned])
    return tf.ensure_shape(mixed_BHWC, image_BHWC.shape)
