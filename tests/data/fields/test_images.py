"""Images are cropped where they should be, and mirrored to the pixel."""

import numpy as np
import pytest
import tensorflow as tf

from mural_jax.data.fields import images
from mural_jax.data.fields.augmentation import augment
from mural_jax.data.fields.image_settings import Augment

SIDE, SIZE = 9, 4
# The first two channels of a pixel are its row and its column.
PLACE_HWC = np.stack(
    [*np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing='ij'), np.zeros((SIDE, SIDE), int)], -1
).astype(np.uint8)


def test_crops_are_at_the_given_places() -> None:
    image_BHWC = tf.constant(np.stack([PLACE_HWC] * 3))
    place_B2 = tf.constant([[0.0, 0.0], [0.999, 0.5], [0.5, 0.0]])
    cut_BHWC = images.crop_squares(image_BHWC, SIZE, place_B2)
    assert cut_BHWC.shape == (3, SIZE, SIZE, 3)
    # There is room for six first rows and columns, 0 to 5.
    assert cut_BHWC.numpy()[:, 0, 0, :2].tolist() == [[0, 0], [5, 3], [3, 0]]
    np.testing.assert_array_equal(cut_BHWC[1], PLACE_HWC[5:9, 3:7])


def cut_corners(settings: Augment) -> set[tuple[int, ...]]:
    """The places of the first pixels of 64 augmented images."""
    image_BHWC = tf.constant(np.stack([PLACE_HWC] * 64))
    random_BU = tf.random.stateless_uniform([64, Augment.NUM_RANDOM], seed=[0, 0])
    cut_BHWC = augment(settings, image_BHWC, random_BU, SIZE).numpy()
    return {tuple(corner) for corner in cut_BHWC[:, 0, 0, :2].tolist()}


def test_augmentation_without_crop_takes_the_middle() -> None:
    assert cut_corners(Augment(crop=False)) == {(3, 3)}


def test_augmentation_with_crop_takes_random_places() -> None:
    assert len(cut_corners(Augment(crop=True))) > 20


def test_crop_middle_takes_the_middle() -> None:
    cut_BHWC = images.crop_middle(tf.constant(PLACE_HWC[None]), 5)
    np.testing.assert_array_equal(cut_BHWC[0], PLACE_HWC[2:7, 2:7])


def test_image_of_the_final_size_is_not_cut() -> None:
    image_BHWC = tf.constant(PLACE_HWC[None])
    random_BU = tf.fill([1, Augment.NUM_RANDOM], 0.5)
    same_BHWC = augment(Augment(crop=True), image_BHWC, random_BU, SIDE)
    np.testing.assert_array_equal(same_BHWC, image_BHWC)


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_mirrored_images_are_mirrored_to_the_pixel(share: float) -> None:
    image_BHWC = tf.constant(np.stack([PLACE_HWC + number for number in range(16)]))
    random_BU = tf.random.stateless_uniform([16, Augment.NUM_RANDOM], seed=[0, 0])
    found_BHWC = augment(Augment(mirror=share), image_BHWC, random_BU, SIDE).numpy()
    for found_HWC, image_HWC, random_U in zip(found_BHWC, image_BHWC.numpy(), random_BU.numpy()):
        mirrored = random_U[Augment.MIRROR] < share
        np.testing.assert_array_equal(found_HWC, image_HWC[:, ::-1] if mirrored else image_HWC)
