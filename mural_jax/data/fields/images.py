"""Images in batches: decoded, cropped, mirrored."""

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

PARALLEL_IMAGES = max(4, os.cpu_count() or 1)  # images of a batch that are decoded in parallel
RATIOS = (1, 2, 4)  # factors by which a JPEG can be decoded smaller than it is
LARGEST_STRETCH = 4 / 3  # aspect of a random part, relative to its image, at most; 3/4 at least


def decode_images(encoded_B: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 [B, size, size, 3] from PNG, JPEG, GIF, BMP or WebP; resized where the size differs.

    JPEG is decoded with the accurate transform, which gives what Pillow and browsers give, bit for
    bit. TensorFlow's default, the fast transform, is off by one of 255 on average: that moved the
    embeddings of a model of photos to a cosine of 0.991.
    """

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image_HWC = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE'),
            lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
        )
        image_HWC = tf.ensure_shape(image_HWC, [None, None, 3])
        fits = tf.reduce_all(tf.shape(image_HWC)[:2] == size)
        image_HWC = tf.cond(fits, lambda: image_HWC, lambda: _resize(image_HWC, size))
        return tf.ensure_shape(image_HWC, [size, size, 3])

    return tf.map_fn(
        decode, encoded_B, fn_output_signature=tf.uint8, parallel_iterations=PARALLEL_IMAGES
    )


def decode_parts(
    encoded_B: tf.Tensor,
    side_B2: tf.Tensor,
    size: int,
    lowest: float,
    random_B4: tf.Tensor,
    mirrored_B: tf.Tensor,
) -> tf.Tensor:
    """uint8 [B, size, size, 3]: a random part of each image, mirrored where `mirrored_B` says so.

    `side_B2` is the height and width of each image in pixels. A part has between `lowest` and all
    of the image's area, and between 3/4 and 4/3 of its aspect (the ranges of Inception crops,
    Szegedy et al. 2015); it is cut off at the borders of the image. Only the part of a JPEG is
    decoded, at a half or a quarter of its size where that is still enough: this costs a fraction,
    and averages pixels that a resize would skip.
    """
    window_B4 = draw_windows(side_B2, lowest, random_B4)
    halvings_B = tf.reduce_min(window_B4[:, 2:], axis=1) // size
    way_B = tf.where(halvings_B >= 4, 2, tf.where(halvings_B >= 2, 1, 0))
    jpeg_B = tf.strings.substr(encoded_B, 0, 3) == b'\xff\xd8\xff'
    # What does not depend on pixels is computed here, for the whole batch: in the loop over images
    # each operation costs as much as some of the decoding.
    way_B = tf.where(jpeg_B, way_B, len(RATIOS))
    ratio_B = tf.gather(tf.constant([*RATIOS, 1]), way_B)
    window_B4 = tf.maximum(window_B4 // ratio_B[:, None], [0, 0, 1, 1])

    def decode(given: tuple[tf.Tensor, ...]) -> tf.Tensor:
        encoded, window_4, way, mirrored = given

        def decode_jpeg(ratio: int) -> Callable[[], tf.Tensor]:
            # Without fancy upscaling of colours a pixel moves by 0.4 of 255, and decoding takes a
            # tenth less time.
            return lambda: tf.io.decode_and_crop_jpeg(
                encoded, window_4, channels=3, ratio=ratio, fancy_upscaling=False
            )

        ways = [*map(decode_jpeg, RATIOS), lambda: _decode_part(encoded, window_4)]
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
        decode, given, fn_output_signature=tf.uint8, parallel_iterations=PARALLEL_IMAGES
    )
    return tf.ensure_shape(image_BSSC, [None, size, size, 3])


def draw_windows(side_B2: tf.Tensor, lowest: float, random_B4: tf.Tensor) -> tf.Tensor:
    """int32 [B, 4]: (top, left, height, width) of a random part of each image, in pixels.

    `side_B2` is the height and width of each image, `lowest` the smallest share of its area.
    """
    side_B2 = tf.cast(side_B2, tf.float32)
    scale_B = tf.sqrt(lowest + random_B4[:, 0] * (1 - lowest))
    # Height and width change by opposite factors, so the aspect changes by the square of one.
    stretch_B = tf.exp((random_B4[:, 1] - 0.5) * float(np.log(LARGEST_STRETCH)))
    part_B2 = side_B2 * tf.stack([scale_B / stretch_B, scale_B * stretch_B], axis=1)
    part_B2 = tf.clip_by_value(tf.round(part_B2), 1.0, side_B2)
    corner_B2 = tf.floor(random_B4[:, 2:4] * (side_B2 - part_B2 + 1))
    return tf.cast(tf.concat([corner_B2, part_B2], axis=1), tf.int32)


def decode_only(encoded_B: tf.Tensor) -> tf.Tensor:
    """int32 [B]: heights of images, decoded whole. Measures what decoding alone costs."""

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        return tf.shape(tf.io.decode_image(encoded, channels=3, expand_animations=False))[0]

    return tf.map_fn(decode, encoded_B, fn_output_signature=tf.int32)


def decode_part_plainly(encoded: tf.Tensor, window_4: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 [size, size, 3]: a part of one image, decoded in the plainest way, to compare with."""
    part_HWC = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_and_crop_jpeg(encoded, window_4, channels=3),
        lambda: _decode_part(encoded, window_4),
    )
    part_HWC.set_shape([None, None, 3])
    return tf.cast(tf.image.resize(part_HWC, [size, size]) + 0.5, tf.uint8)


def crop_squares(image_BHWC: tf.Tensor, size: int, place_B2: tf.Tensor) -> tf.Tensor:
    """[B, size, size, 3]: squares cut out of square images.

    `place_B2` in [0, 1) says where, down and across; 0.5 is the middle.
    """
    room = tf.cast(tf.shape(image_BHWC)[1] - size, tf.float32)
    first_B2 = tf.cast(tf.floor(place_B2 * (room + 1)), tf.int32)
    index_B2S = first_B2[:, :, None] + tf.range(size)[None, None]
    rows_BSWC = tf.gather(image_BHWC, index_B2S[:, 0], axis=1, batch_dims=1)
    return tf.gather(rows_BSWC, index_B2S[:, 1], axis=2, batch_dims=1)


def crop_middle(image_BHWC: tf.Tensor, size: int) -> tf.Tensor:
    """[B, size, size, 3]: the square in the middle of square images."""
    first = (image_BHWC.shape[1] - size) // 2
    return image_BHWC[:, first : first + size, first : first + size]


def mirror_images(image_BHWC: tf.Tensor, mirrored_B: tf.Tensor) -> tf.Tensor:
    """The images, mirrored left to right where `mirrored_B` says so."""
    # Partition, reverse, stitch together: a choice by tf.where takes ten times as long.
    side_B = tf.cast(mirrored_B, tf.int32)
    as_is, turned = tf.dynamic_partition(image_BHWC, side_B, 2)
    places = tf.dynamic_partition(tf.range(tf.shape(side_B)[0]), side_B, 2)
    # tf.reverse is fast for three dimensions only.
    rows_RWC = tf.reverse(tf.reshape(turned, [-1, *image_BHWC.shape[2:]]), [1])
    turned = tf.reshape(rows_RWC, tf.shape(turned))
    mixed_BHWC = tf.dynamic_stitch(places, [as_is, turned])
    return tf.ensure_shape(mixed_BHWC, image_BHWC.shape)


def _resize(image_HWC: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 [size, size, 3]."""
    resized_SSC = tf.image.resize(image_HWC, [size, size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized_SSC), 0, 255), tf.uint8)


def _decode_part(encoded: tf.Tensor, window_4: tf.Tensor) -> tf.Tensor:
    """A part of an image of any format, which is decoded whole."""
    image_HWC = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    top, left, height, width = tf.unstack(window_4)
    return image_HWC[top : top + height, left : left + width]
