"""Cutting pictures: at random places in training, in the middle in evaluation."""

import numpy as np
import pytest
import tensorflow as tf

from mural_jax.data.fields import images
from mural_jax.data.fields.images import Augment
from mural_jax.data.streams.base import Source
from mural_jax.data.streams.captions import Captions
from mural_jax.types import UserError

SIDE, SIZE = 9, 4
# Every pixel says where it is.
PLACE_HWC = np.stack(
    [*np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing='ij'), np.zeros((SIDE, SIDE), int)], -1
).astype(np.uint8)


def test_a_crop_is_where_it_is_asked_for() -> None:
    image_BHWC = tf.constant(np.stack([PLACE_HWC] * 3))
    cut_BHWC = images.crop(image_BHWC, SIZE, tf.constant([[0.0, 0.0], [0.999, 0.5], [0.5, 0.0]]))
    assert cut_BHWC.shape == (3, SIZE, SIZE, 3)
    # Six places: 0 to 5.
    assert cut_BHWC.numpy()[:, 0, 0, :2].tolist() == [[0, 0], [5, 3], [3, 0]]
    np.testing.assert_array_equal(cut_BHWC[1], PLACE_HWC[5:9, 3:7])


@pytest.mark.parametrize('crop', [False, True])
def test_random_places_only_where_asked(crop: bool) -> None:
    image_BHWC = tf.constant(np.stack([PLACE_HWC] * 64))
    random_BU = tf.random.stateless_uniform([64, Augment.NUM_RANDOM], seed=[0, 0])
    cut_BHWC = Augment(crop=crop)(image_BHWC, random_BU, SIZE).numpy()
    corners = {tuple(corner) for corner in cut_BHWC[:, 0, 0, :2].tolist()}
    assert len(corners) > 20 if crop else corners == {(3, 3)}


def test_evaluation_takes_the_middle() -> None:
    cut_BHWC = images.crop_middle(tf.constant(PLACE_HWC[None]), 5)
    np.testing.assert_array_equal(cut_BHWC[0], PLACE_HWC[2:7, 2:7])


def test_nothing_is_cut_where_there_is_no_room() -> None:
    image_BHWC = tf.constant(PLACE_HWC[None])
    same_BHWC = Augment(crop=True)(image_BHWC, tf.fill([1, Augment.NUM_RANDOM], 0.5), SIDE)
    np.testing.assert_array_equal(same_BHWC, image_BHWC)
    with pytest.raises(UserError, match='smaller than image_size'):
        Captions({'x': Source('captions/x')}, ('en',), 4, image_size=64, resize=32)


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_mirrored_pictures_are_mirrored_to_the_pixel(share: float) -> None:
    image_BHWC = tf.constant(np.stack([PLACE_HWC + number for number in range(16)]))
    random_BU = tf.random.stateless_uniform([16, Augment.NUM_RANDOM], seed=[0, 0])
    found_BHWC = Augment(mirror=share)(image_BHWC, random_BU, SIDE).numpy()
    for found_HWC, image_HWC, random_U in zip(found_BHWC, image_BHWC.numpy(), random_BU.numpy()):
        wanted = random_U[Augment.MIRROR] < share
        np.testing.assert_array_equal(found_HWC, image_HWC[:, ::-1] if wanted else image_HWC)
