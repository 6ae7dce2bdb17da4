"""Visual words: clusters are found, kept, and every stream and evaluator reads the same ones."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data.test_hidden import opened

from mural_jax.data.fields.region_settings import Regions
from mural_jax.data.fitted import codebook
from mural_jax.data.fitted.codebook import Codebook
from mural_jax.data.streams.hidden import HiddenCaptions
from mural_jax.types import UserError

PATCHES = Regions(by='patches', most=36, side=16, codebook=8)


def test_clusters_are_found_and_a_region_gets_the_nearest() -> None:
    rng = np.random.default_rng(0)
    middle_KF = 10 * rng.normal(size=(5, 12))
    feature_NF = np.repeat(middle_KF, 40, axis=0) + 0.1 * rng.normal(size=(200, 12))
    centre_KF = codebook.fit(feature_NF.astype(np.float32), 5)
    assert centre_KF.dtype == np.float32
    away_KK = np.linalg.norm(centre_KF[:, None] - middle_KF[None], axis=-1)
    assert (away_KK.min(1) < 0.1).all()
    region_BRF = np.zeros((1, 4, 17), np.float32)
    region_BRF[0, :3, :12] = middle_KF[:3]
    region_BRF[0, :3, 12:] = [0, 0, 0.5, 0.5, 0.25]
    found = Codebook(centre_KF).classes(tf.constant(region_BRF), 12).numpy()
    assert found[0, 3] == -1
    np.testing.assert_array_equal(found[0, :3], away_KK.argmin(0)[:3])


def test_more_words_than_regions_are_refused() -> None:
    with pytest.raises(UserError, match='visual words are more than the 3 regions'):
        codebook.fit(np.zeros((3, 4), np.float32), 5)


@pytest.mark.parametrize('count', [-1, 1])
def test_a_codebook_has_two_words_or_more(count: int) -> None:
    with pytest.raises(UserError, match='codebook='):
        Regions(codebook=count)


def test_a_stream_predicts_visual_words(scenes_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='is not made'):
        opened(scenes_dir, HiddenCaptions, 20, regions=Regions(by='patches', side=12, codebook=9))
    spec = opened(scenes_dir, HiddenCaptions, 20, regions=dataclasses.replace(PATCHES, codebook=0))
    spec = dataclasses.replace(spec[0].spec, regions=PATCHES)
    (line,) = spec.complete(scenes_dir)
    path = codebook.path_of(spec, scenes_dir)
    assert str(path) in line
    before = path.read_bytes()
    path.unlink()
    spec.complete(scenes_dir)
    assert path.read_bytes() == before
    stream, _ = opened(scenes_dir, HiddenCaptions, 20, regions=PATCHES)
    batch = next(iter(stream.batches(0, 1)))
    target_BM = batch['region_target'][batch['match'] == 1]
    assert (target_BM >= 0).all() and target_BM.max() < 8 and len(np.unique(target_BM)) > 3
    assert (batch['region_target'][batch['match'] != 1] == -1).all()
    assert stream.mixture['data'].endswith(spec.codebook(scenes_dir).fingerprint)
