"""Scores equal those of CLIP_benchmark and MTEB for the same embeddings (`agreement.py`)."""

import json
from typing import Any

import numpy as np
import pytest
from evaluation.agreement import RANKS, SCORES, Arrays, make_sets, split_pairs

from mural_jax.evaluation.metrics.bootstrap import mean_metrics
from mural_jax.evaluation.metrics.ranking import rank_queries
from mural_jax.evaluation.metrics.recall import recall_both_ways

THEIRS = json.loads(SCORES.read_text(encoding='utf-8'))['scores']
Compared = tuple[Arrays, dict[str, float], dict[str, float]]


@pytest.fixture(scope='module', params=THEIRS)
def compared(request: Any) -> Compared:
    """(embeddings, the scores of CLIP_benchmark, those of MTEB)."""
    theirs = THEIRS[request.param]
    return make_sets()[request.param], theirs['clip_benchmark'], theirs['mteb']


def near(value: float) -> Any:
    """In percent; MTEB rounds to five digits, and ours are means of float32."""
    return pytest.approx(100 * value, abs=1e-3)


def test_recalls_equal_clip_benchmark_and_mteb(compared: Compared) -> None:
    arrays, clip_benchmark, mteb = compared
    ours = mean_metrics(
        recall_both_ways(arrays['image'], arrays['text'], arrays['owner'], 'image', 'text')
    )
    for k in RANKS:
        assert ours[f'text_to_image_r{k}'] == near(clip_benchmark[f'image_retrieval_recall_{k}'])
        assert ours[f'image_to_text_r{k}'] == near(clip_benchmark[f'text_retrieval_recall_{k}'])
        assert ours[f'text_to_image_r{k}'] == near(mteb[f'images_HitRate@{k}'])
        assert ours[f'image_to_text_r{k}'] == near(mteb[f'texts_HitRate@{k}'])
    assert 0 < ours['text_to_image_r1'] < ours['text_to_image_r10'] < 100


def test_classification_accuracy_equals_clip_benchmark(compared: Compared) -> None:
    arrays, clip_benchmark, _ = compared
    ranks = rank_queries(arrays['text'], arrays['image'], list(arrays['owner'][:, None]))
    for k in (1, 5):
        assert 100 * ranks.hit_rate(k).mean() == near(clip_benchmark[f'top{k}'])


def test_bitext_accuracy_equals_mteb(compared: Compared) -> None:
    arrays, _, mteb = compared
    one_ND, other_ND = split_pairs(arrays)
    own = list(np.arange(len(one_ND))[:, None])
    assert 100 * rank_queries(one_ND, other_ND, own).hit_rate(1).mean() == near(mteb['there'])
    assert 100 * rank_queries(other_ND, one_ND, own).hit_rate(1).mean() == near(mteb['back'])
