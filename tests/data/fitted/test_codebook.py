"""Visual words: clusters are found and stored, and a stream predicts them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data.batches import open_scenes, scene_stream

from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.fitted.catalog import ensure_fitted, load_fitted
from mural_jax.data.fitted.codebook import Codebook, fit_centres
from mural_jax.types import UserError

PATCHES = RegionSettings(by='patches', most=36, side=16, codebook=8)


def five_clusters() -> tuple[np.ndarray, np.ndarray]:
    """(5 cluster centres, 40 noisy features around each)."""
    rng = np.random.default_rng(0)
    middle_KF = 10 * rng.normal(size=(5, 12))
    feature_NF = np.repeat(middle_KF, 40, axis=0) + 0.1 * rng.normal(size=(200, 12))
    return middle_KF, feature_NF.astype(np.float32)


def test_fit_finds_the_clusters() -> None:
    middle_KF, feature_NF = five_clusters()
    centre_KF = fit_centres(feature_NF, 5)
    assert centre_KF.dtype == np.float32
    away_KK = np.linalg.norm(centre_KF[:, None] - middle_KF[None], axis=-1)
    assert (away_KK.min(1) < 0.1).all()


def test_class_of_a_region_is_its_nearest_centre() -> None:
    middle_KF, feature_NF = five_clusters()
    centre_KF = fit_centres(feature_NF, 5)
    region_BRF = np.zeros((1, 4, 17), np.float32)
    region_BRF[0, :3, :12] = middle_KF[:3]
    region_BRF[0, :3, 12:] = [0, 0, 0.5, 0.5, 0.25]
    found = Codebook(centre_KF).classify(tf.constant(region_BRF), 12).numpy()
    assert found[0, 3] == -1, 'there is no fourth region'
    away_KK = np.linalg.norm(centre_KF[:, None] - middle_KF[None], axis=-1)
    np.testing.assert_array_equal(found[0, :3], away_KK.argmin(0)[:3])


def test_more_words_than_regions_are_refused() -> None:
    with pytest.raises(UserError, match='visual words are more than the 3 regions'):
        fit_centres(np.zeros((3, 4), np.float32), 5)


def test_missing_codebook_is_named(scenes_dir: Path) -> None:
    never_made = dataclasses.replace(PATCHES, codebook=9)
    with pytest.raises(UserError, match='codebook of this stream is not made'):
        load_fitted(scene_stream(regions=never_made), scenes_dir)


@pytest.fixture(scope='module')
def codebook_path(scenes_dir: Path) -> Path:
    """The codebook of the stream with PATCHES, made."""
    return ensure_fitted(scene_stream(regions=PATCHES), scenes_dir)['codebook']


def test_codebook_is_the_same_when_made_again(scenes_dir: Path, codebook_path: Path) -> None:
    before = codebook_path.read_bytes()
    codebook_path.unlink()
    assert ensure_fitted(scene_stream(regions=PATCHES), scenes_dir) == {'codebook': codebook_path}
    assert codebook_path.read_bytes() == before


def test_targets_are_visual_words(scenes_dir: Path, codebook_path: Path) -> None:
    stream, _ = open_scenes(scenes_dir, regions=PATCHES)
    batch = next(iter(stream.batches(0, 1)))
    target_BM = batch['region_target'][batch['match'] == 1]
    assert (target_BM >= 0).all() and target_BM.max() < 8 and len(np.unique(target_BM)) > 3
    assert (batch['region_target'][batch['match'] != 1] == -1).all()


def test_codebook_is_part_of_the_data_of_a_checkpoint(
    scenes_dir: Path, codebook_path: Path
) -> None:
    stream, _ = open_scenes(scenes_dir, regions=PATCHES)
    codebook = load_fitted(stream.settings, scenes_dir)['codebook']
    assert stream.mixture['data'].endswith(f'+{codebook.fingerprint}')
