"""Images as a stream's settings ask for them: decoded, cut to squares, changed at random."""

import dataclasses

import numpy as np
import tensorflow as tf

from mural_jax.data.fields import images
from mural_jax.data.fields.image_settings import Augment, ImageSettings

WHITE = 255.0


def make_images(
    settings: ImageSettings, encoded_B: tf.Tensor, side_B2: tf.Tensor, random_BU: tf.Tensor
) -> tf.Tensor:
    """uint8 [B, size, size, 3]: encoded images, cut and augmented.

    `side_B2` is the height and width of each image in pixels; `random_BU` holds NUM_IMAGE_RANDOM
    numbers in [0, 1) for each image.
    """
    image_BSSC = cut_images(settings, encoded_B, side_B2, random_BU)
    return augment_images(settings, image_BSSC, random_BU)


def cut_images(
    settings: ImageSettings, encoded_B: tf.Tensor, side_B2: tf.Tensor, random_BU: tf.Tensor
) -> tf.Tensor:
    """uint8 [B, S, S, 3]: a random part of each image, or the whole image where `area` is 0."""
    if not settings.area:
        return images.decode_images(encoded_B, settings.resize)
    mirrored_B = random_BU[:, Augment.MIRROR] < settings.augment.mirror
    random_B4 = random_BU[:, Augment.NUM_RANDOM :]
    return images.decode_parts(
        encoded_B, side_B2, settings.size, settings.area, random_B4, mirrored_B
    )


def augment_images(
    settings: ImageSettings, image_BSSC: tf.Tensor, random_BU: tf.Tensor
) -> tf.Tensor:
    """uint8 [B, size, size, 3]: the images that `cut_images` returned, augmented."""
    changes = settings.augment
    if settings.area:
        # `cut_images` has mirrored random parts already.
        changes = dataclasses.replace(changes, mirror=0.0)
    return augment(changes, image_BSSC, random_BU[:, : Augment.NUM_RANDOM], settings.size)


def augment(settings: Augment, image_BHWC: tf.Tensor, random_BU: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 [B, size, size, 3] from square images, uint8 [B, H, H, 3].

    `random_BU` is [B, NUM_RANDOM].
    """
    signed_BU = random_BU * 2 - 1
    if settings.shift or settings.zoom or settings.rotate:
        # One interpolation does the mirroring too: two would blur twice.
        image_BHWC = _move(settings, image_BHWC, signed_BU)
    elif settings.mirror:
        mirrored_B = random_BU[:, Augment.MIRROR] < settings.mirror
        image_BHWC = images.mirror_images(image_BHWC, mirrored_B)
    if image_BHWC.shape[1] != size:
        middle_B2 = tf.fill(tf.shape(random_BU[:, :2]), 0.5)
        place_B2 = random_BU[:, 8:10] if settings.crop else middle_B2
        image_BHWC = images.crop_squares(image_BHWC, size, place_B2)
    return _recolour(settings.colour, image_BHWC, signed_BU) if settings.colour else image_BHWC


def _move(settings: Augment, image_BHWC: tf.Tensor, signed_BU: tf.Tensor) -> tf.Tensor:
    """The images shifted, scaled and turned about their middle; uncovered pixels are white."""
    side = tf.cast(tf.shape(image_BHWC)[1], tf.float32)
    turn_B = signed_BU[:, 0] * settings.rotate * (np.pi / 180)
    scale_B = 1 + signed_BU[:, 1] * settings.zoom
    cos_B, sin_B = tf.cos(turn_B) * scale_B, tf.sin(turn_B) * scale_B
    middle = (side - 1) / 2
    # Rows of the projective matrix that maps a pixel of the result to one of the source.
    right_B = middle - middle * cos_B + middle * sin_B + signed_BU[:, 2] * settings.shift * side
    down_B = middle - middle * sin_B - middle * cos_B + signed_BU[:, 3] * settings.shift * side
    mirrored_B = (signed_BU[:, Augment.MIRROR] + 1) / 2 < settings.mirror
    right_B = tf.where(mirrored_B, side - 1 - right_B, right_B)
    flip_B = tf.where(mirrored_B, -1.0, 1.0)
    zero_B = tf.zeros_like(turn_B)
    across_B, skew_B = cos_B * flip_B, -sin_B * flip_B
    matrix_B8 = tf.stack([across_B, skew_B, right_B, sin_B, cos_B, down_B, zero_B, zero_B], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image_BHWC,
        transforms=matrix_B8,
        output_shape=tf.shape(image_BHWC)[1:3],
        interpolation='BILINEAR',
        fill_mode='CONSTANT',
        fill_value=WHITE,
    )


def _recolour(colour: float, image_BHWC: tf.Tensor, signed_BU: tf.Tensor) -> tf.Tensor:
    """The images with other brightness, saturation and contrast.

    Contrast changes about white, so that a white background stays white.
    """
    change_B3 = 1 + colour * signed_BU[:, 4:7]
    bright_B11, contrast_B11, saturation_B11 = (change_B3[:, i, None, None] for i in range(3))
    bright_B11 = tf.minimum(bright_B11, 1.0)
    # All three are linear in the channels, so one 3x3 matrix and one offset do them at once.
    grey_33 = tf.fill([1, 3, 3], 1 / 3)
    mix_B33 = grey_33 + saturation_B11 * (tf.eye(3)[None] - grey_33)
    offset_B11 = WHITE * (1 - contrast_B11) * bright_B11
    shape = tf.shape(image_BHWC)
    flat_BPC = tf.cast(tf.reshape(image_BHWC, [shape[0], -1, 3]), tf.float32)
    # 0.5 rounds, since the cast to uint8 cuts the fraction off.
    flat_BPC = tf.matmul(flat_BPC, mix_B33 * contrast_B11 * bright_B11) + offset_B11 + 0.5
    return tf.reshape(tf.saturate_cast(flat_BPC, tf.uint8), shape)
