"""Scores are those that CLIP_benchmark and MTEB gave for the same embeddings (`agreement.py`)."""

import json
from typing import Any

import numpy as np
import pytest
from evaluation.agreement import RANKS, SCORES, Arrays, pairs, sets

from mural_jax.evaluation.metrics.bootstrap import means
from mural_jax.evaluation.metrics.ranking import ranks
from mural_jax.evaluation.metrics.recall import both_ways

THEIRS = json.loads(SCORES.read_text(encoding='utf-8'))['scores']


@pytest.fixture(scope='module', params=THEIRS)
def compared(request: Any) -> tuple[Arrays, dict[str, float], dict[str, float]]:
    theirs = THEIRS[request.param]
    return sets()[request.param], theirs['clip_benchmark'], theirs['mteb']


def near(value: float) -> Any:
    """Percent; MTEB rounds to five digits, and ours are means of float32."""
    return pytest.approx(100 * value, abs=1e-3)


def test_recalls(compared: Any) -> None:
    arrays, clip_benchmark, mteb = compared
    found = means(both_ways(arrays['image'], arrays['text'], arrays['owner'], 'image', 'text'))
    for k in RANKS:
        assert found[f'text_to_image_r{k}'] == near(clip_benchmark[f'image_retrieval_recall_{k}'])
        assert found[f'image_to_text_r{k}'] == near(clip_benchmark[f'text_retrieval_recall_{k}'])
        assert found[f'text_to_image_r{k}'] == near(mteb[f'images_HitRate@{k}'])
        assert found[f'image_to_text_r{k}'] == near(mteb[f'texts_HitRate@{k}'])
    assert 0 < found['text_to_image_r1'] < found['text_to_image_r10'] < 100


def test_classification(compared: Any) -> None:
    arrays, clip_benchmark, _ = compared
    found = ranks(arrays['text'], arrays['image'], list(arrays['owner'][:, None]))
    for k in (1, 5):
        assert 100 * found.found(k).mean() == near(clip_benchmark[f'top{k}'])


def test_bitext(compared: Any) -> None:
    arrays, _, mteb = compared
    one_ND, other_ND = pairs(arrays)
    own = list(np.arange(len(one_ND))[:, None])
    assert 100 * ranks(one_ND, other_ND, own).found(1).mean() == near(mteb['there'])
    assert 100 * ranks(other_ND, one_ND, own).found(1).mean() == near(mteb['back'])
