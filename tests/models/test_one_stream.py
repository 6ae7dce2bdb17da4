"""One stream: the same weights encode pairs, images alone and texts alone; predictions."""

import jax.numpy as jnp
import numpy as np
import pytest
from models.towers import TEXT_BL, build_one_stream, largest_difference, random_regions

from mural_jax.models.one_stream import OneStream
from mural_jax.types import Encoding

EMPTY_BL = jnp.zeros((2, 6), int)


@pytest.fixture(scope='module')
def model() -> OneStream:
    return build_one_stream()


@pytest.fixture(scope='module')
def joint(model: OneStream) -> Encoding:
    return model.encode('joint', (TEXT_BL, random_regions()))


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_pair_without_regions_is_encoded_like_its_text(pool: str) -> None:
    model = build_one_stream(pool)
    alone = model.encode('text', TEXT_BL)
    joint = model.encode('joint', (TEXT_BL, 0 * random_regions()))
    np.testing.assert_allclose(alone.pooled_BD, joint.pooled_BD, atol=1e-6)
    np.testing.assert_allclose(alone.tokens_BLD, joint.tokens_BLD[:, :6], atol=1e-5)
    assert not joint.mask_BL[:, 6:].any()


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_pair_without_words_is_encoded_like_its_image(pool: str) -> None:
    model = build_one_stream(pool)
    alone = model.encode('image', random_regions())
    joint = model.encode('joint', (EMPTY_BL, random_regions()))
    np.testing.assert_allclose(alone.pooled_BD, joint.pooled_BD, atol=1e-6)
    np.testing.assert_allclose(alone.tokens_BLD, joint.tokens_BLD[:, 6:], atol=1e-5)
    assert not joint.mask_BL[:, :6].any()


def test_image_changes_the_encoding_of_words(model: OneStream, joint: Encoding) -> None:
    alone = model.encode('text', TEXT_BL)
    assert largest_difference(joint.tokens_BLD[:, :4], alone.tokens_BLD[:, :4]) > 1e-3


def test_text_changes_the_encoding_of_regions(model: OneStream, joint: Encoding) -> None:
    alone = model.encode('image', random_regions())
    assert largest_difference(joint.tokens_BLD[:, 6:8], alone.tokens_BLD[:, :2]) > 1e-3


def test_words_are_predicted_at_the_given_places(model: OneStream, joint: Encoding) -> None:
    words = model.words(joint, jnp.array([[1, 2], [1, 0]]))
    assert words.shape == (2, 2, 20)
    swapped = model.words(joint, jnp.array([[2, 1], [0, 1]]))
    np.testing.assert_allclose(words, swapped[:, ::-1], atol=1e-6)


def test_predictions_have_one_score_for_each_class(model: OneStream, joint: Encoding) -> None:
    assert model.region_classes(joint, jnp.array([[1], [2]]), 4).shape == (2, 1, 7)
    assert model.matches(joint).shape == (2,)


def test_represented_vectors_have_length_one(model: OneStream) -> None:
    vectors = model.represent('pairs', 'text', model.encode('text', TEXT_BL))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
