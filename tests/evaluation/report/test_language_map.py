"""Places of languages in the plane."""

import numpy as np
import pytest

from mural_jax.evaluation.report.language_map import place_languages, principal_components

LANGUAGES = list('abcdef')


@pytest.fixture(scope='module')
def vector_LND() -> np.ndarray:
    """The same texts in two families of three languages, each shifted by its own vector."""
    rng = np.random.default_rng(0)
    text_ND = rng.normal(size=(1, 20, 16))
    family_LD = np.repeat(rng.normal(size=(2, 16)), 3, axis=0)
    vectors = text_ND + family_LD[:, None] + 0.01 * rng.normal(size=(6, 20, 16))
    vectors[0, 3] = np.nan
    return vectors


def test_languages_of_a_family_lie_together(vector_LND: np.ndarray) -> None:
    placed = place_languages(vector_LND, LANGUAGES)
    assert placed is not None and placed.languages == LANGUAGES
    assert placed.image_count == 19  # One image has no text in the first language.
    x_L = placed.xy_L2[:, 0]
    assert np.ptp(x_L[:3]) < 0.1 * abs(x_L[:3].mean() - x_L[3:].mean())
    assert placed.share_2[0] > 0.99


def test_few_images_have_no_map(vector_LND: np.ndarray) -> None:
    assert place_languages(vector_LND[:, :5], LANGUAGES) is None


def test_missing_texts_have_no_map(vector_LND: np.ndarray) -> None:
    assert place_languages(vector_LND * np.nan, LANGUAGES) is None


def test_components_are_eigenvectors_of_covariance() -> None:
    rng = np.random.default_rng(1)
    point_LD = rng.normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    xy_L2, share_2 = principal_components(point_LD)
    values, vectors = np.linalg.eigh(np.cov(point_LD.T))
    expected = (point_LD - point_LD.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(xy_L2), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(share_2, values[::-1][:2] / values.sum())
