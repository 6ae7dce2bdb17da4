"""Regions of images: pixels in boxes, patches, stored features."""

import numpy as np
import pytest
import tensorflow as tf

from mural_jax.data.fields import crops
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.types import UserError


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def test_regions_are_the_pixels_in_their_boxes() -> None:
    image_BHWC = random_images(1)
    stored = {'boxes': tf.ragged.constant([[0.0, 0.5, 0.5, 1.0]], tf.float32)}
    settings = RegionSettings(most=2, side=4, geometry=6)
    found = crops.cut_regions(settings, tf.constant(image_BHWC), stored).numpy()
    wanted = image_BHWC[0, 4:8, 0:4].reshape(-1) / 127.5 - 1
    np.testing.assert_allclose(found[0, 0, :48], wanted, atol=1e-5)
    np.testing.assert_allclose(found[0, 0, 48:], [0, 0.5, 0.5, 1, 0.5, 0.5])
    assert not found[0, 1].any(), 'there is one region'


def test_missing_classes_are_no_class() -> None:
    stored = {'classes': tf.ragged.constant([[7]], tf.int64)}
    assert crops.read_classes(RegionSettings(most=2), stored).numpy().tolist() == [[7, -1]]


def test_patches_cover_the_image() -> None:
    image_BHWC = random_images(2)
    settings = RegionSettings(by='patches', most=4, side=4)
    found = crops.cut_regions(settings, tf.constant(image_BHWC), {}).numpy()
    wanted = image_BHWC[:, 4:8, 0:4].reshape(2, -1) / 127.5 - 1
    np.testing.assert_allclose(found[:, 2, :48], wanted, atol=1e-5)
    np.testing.assert_allclose(found[1, 2, 48:], [0, 0.5, 0.5, 1, 0.25])


def test_stored_features_are_taken_unchanged() -> None:
    stored = {
        'boxes': tf.ragged.constant([[0.0, 0, 1, 1], []], tf.float32),
        'features': tf.ragged.constant([[1.0, 2, 3], []], tf.float32),
    }
    settings = RegionSettings(by='features', most=2, side=0, size=3)
    found = crops.cut_regions(settings, tf.zeros((2, 8, 8, 3), tf.uint8), stored).numpy()
    np.testing.assert_array_equal(found[0, 0], [1, 2, 3, 0, 0, 1, 1, 1])
    assert not found[1].any() and not found[0, 1].any()


@pytest.mark.parametrize(
    'wrong',
    [
        {'by': 'crops'},
        {'most': 0},
        {'geometry': 4},
        {'size': 3},
        {'by': 'features'},
        {'codebook': -1},
        {'codebook': 1},
    ],
)
def test_impossible_region_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match='regions'):
        RegionSettings(**wrong)
