"""Prediction of hidden parts against passes of one model, and the area under the ROC curve."""

import dataclasses

import numpy as np
import pytest
from evaluation.joint_pairs import SIZE, JointPairs, make_pairs

from mural_jax.evaluation.evaluators.base import Evaluation
from mural_jax.evaluation.evaluators.hidden import HiddenParts, auc
from mural_jax.models import functional
from mural_jax.objectives.prediction import NONE


@pytest.fixture(scope='module')
def pairs() -> JointPairs:
    return make_pairs()


@pytest.fixture(scope='module')
def evaluation(pairs: JointPairs) -> Evaluation:
    return HiddenParts(stream='pairs', dataset='a/b', split='test')(pairs.data, [])


def test_masked_examples_do_not_count(evaluation: Evaluation) -> None:
    assert evaluation.size == SIZE - 1


@pytest.mark.parametrize(('metric', 'factor'), [('words', 1), ('words_without_picture', 0)])
def test_words_are_counted_with_and_without_regions(
    metric: str, factor: int, pairs: JointPairs, evaluation: Evaluation
) -> None:
    model = functional.merge(*pairs.data.embedder.model)
    batch = {name: value[:-1] for name, value in pairs.batch.items()}
    pair = batch['text'], factor * batch['regions']
    logit_BMV = model.words(model.encode('joint', pair), batch['word_place'])
    right = np.argmax(logit_BMV, -1) == batch['word_target']
    row = evaluation.results['all']
    np.testing.assert_allclose(row[metric], 100 * right.mean(), atol=2)


def test_match_auc_is_a_chance(evaluation: Evaluation) -> None:
    assert 0 <= evaluation.results['all']['match_auc'] <= 1


def test_nothing_hidden_scores_zero(pairs: JointPairs) -> None:
    batch = pairs.batch | {'word_target': np.full((SIZE, 2), NONE, np.int32)}
    data = dataclasses.replace(pairs.data, fixed_batches=[(batch, np.arange(SIZE) < SIZE)])
    row = HiddenParts(stream='pairs', dataset='a/b', split='test')(data, []).results['all']
    assert row['words'] == 0


def test_auc_is_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 40), rng.integers(0, 4, 30)
    above = (positive[:, None] > negative[None]).mean()
    tied = (positive[:, None] == negative[None]).mean()
    np.testing.assert_allclose(auc(positive, negative), above + tied / 2)


def test_auc_without_negatives_is_nan() -> None:
    assert np.isnan(auc(np.ones(3), np.ones(0)))
