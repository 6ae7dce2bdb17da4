"""Retrieval by joint passes: all pairs, the candidates of a dual encoder, images with tags."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from evaluation.joint_pairs import SIZE, JointPairs, make_pairs

from mural_jax.evaluation.evaluators.base import Evaluation
from mural_jax.evaluation.evaluators.cross_encoder import CrossEncoder, Reranking
from mural_jax.models import functional
from mural_jax.types import UserError

SCORED = SIZE - 1  # pairs with a text
Row = dict[str, float]


@pytest.fixture(scope='module')
def pairs() -> JointPairs:
    return make_pairs()


def evaluate(data: Any, **options: Any) -> Evaluation:
    return CrossEncoder(dataset='a/b', split='test', **options)(data, ['en'])


@pytest.fixture(scope='module')
def whole(pairs: JointPairs) -> Row:
    """The metrics of scoring all pairs."""
    return evaluate(pairs.data).results['en']


def score_one_by_one(pairs: JointPairs) -> np.ndarray:
    """The matching scores of all texts [row] with all images [column]."""
    model = functional.merge(*pairs.data.embedder.model)
    encode = jax.jit(lambda text, region: model.matches(model.encode('joint', (text, region))))
    text_NL, region_NRF = pairs.text_NL[1:], pairs.region_NRF[1:]
    return np.stack([encode(np.tile(text, (SCORED, 1)), region_NRF) for text in text_NL])


def test_every_pair_is_scored(pairs: JointPairs, whole: Row) -> None:
    score_NN = score_one_by_one(pairs)
    for name, matrix in (('text_to_image', score_NN), ('image_to_text', score_NN.T)):
        rank_N = (matrix > np.diag(matrix)[:, None]).sum(1)
        for k in (1, 5, 10):
            np.testing.assert_allclose(whole[f'{name}_r{k}'], 100 * (rank_N < k).mean(), atol=4)


def test_passes_and_seconds_are_counted(whole: Row) -> None:
    assert whole['passes'] == SCORED * SCORED and whole['seconds_to_score'] > 0


def test_reranking_all_items_equals_scoring_all_pairs(pairs: JointPairs, whole: Row) -> None:
    reranked = evaluate(pairs.data, rerank=Reranking(SCORED, 'pairs')).results['en']
    for name, value in whole.items():
        if '_r' in name or name == 'mean_recall':
            np.testing.assert_allclose(reranked[name], value)


def test_reranking_needs_fewer_passes(pairs: JointPairs) -> None:
    row = evaluate(pairs.data, rerank=Reranking(10, 'pairs')).results['en']
    assert 10 * SCORED + 2 * SCORED <= row['passes'] < SCORED * SCORED


def test_images_may_have_tags(pairs: JointPairs) -> None:
    tags_NL, region_NRF = np.roll(pairs.text_NL, 3, axis=0), pairs.region_NRF
    visual = (tags_NL, region_NRF)
    examples = pairs.examples._replace(
        decode=lambda start, stop: jax.tree.map(lambda array: array[start:stop], visual)
    )
    tagged = dataclasses.replace(pairs.data, read=lambda split: examples)
    row = evaluate(tagged, gallery=12).results['en']
    assert row['passes'] == 12 * 12
    model = functional.merge(*pairs.data.embedder.model)
    own = slice(1, 13)
    score_NN = np.stack(
        [
            model.matches(
                model.encode('joint', (np.tile(text, (12, 1)), (tags_NL[own], region_NRF[own])))
            )
            for text in pairs.text_NL[own]
        ]
    )
    right = (score_NN > np.diag(score_NN)[:, None]).sum(1) == 0
    np.testing.assert_allclose(row['text_to_image_r1'], 100 * right.mean(), atol=9)


def test_tags_change_embeddings(pairs: JointPairs) -> None:
    both = (np.roll(pairs.text_NL, 3, axis=0), pairs.region_NRF)
    with_tags, without = (
        pairs.data.embedder.embed_decoded('pairs', visual) for visual in (both, pairs.region_NRF)
    )
    np.testing.assert_allclose(np.linalg.norm(with_tags, axis=1), 1, atol=1e-5)
    assert not np.allclose(with_tags, without, atol=1e-3)


def test_fewer_candidates_than_largest_k_are_refused() -> None:
    with pytest.raises(UserError, match=r'rerank.k=9 is smaller than 10'):
        Reranking(9)


def test_other_run_during_training_is_refused() -> None:
    with pytest.raises(UserError, match='every=2 and rerank.workdir=.*mural evaluate'):
        CrossEncoder(dataset='a/b', split='test', every=2, rerank=Reranking(10, workdir='run'))
