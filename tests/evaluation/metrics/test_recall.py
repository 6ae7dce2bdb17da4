"""Recall in both directions, against rankings made by hand."""

import numpy as np
import pytest
from evaluation.oracles import random_units

from mural_jax.evaluation.metrics.bootstrap import mean_metrics
from mural_jax.evaluation.metrics.recall import (
    add_mean_recall,
    chance_mean_recall,
    group_by_owner,
    mean_over_languages,
    median_ranks,
    recall_both_ways,
)


@pytest.fixture(scope='module')
def collapsed() -> dict[str, float]:
    """The metrics of a model that embeds 20 images and texts as one and the same vector."""
    same_ND = np.ones((20, 3), np.float32)
    samples = recall_both_ways(same_ND, same_ND, np.arange(20), 'image', 'text')
    return add_mean_recall(mean_metrics(samples)) | median_ranks(samples)


def test_collapsed_model_has_recall_of_chance(collapsed: dict[str, float]) -> None:
    recalls = [collapsed[f'image_to_text_r{k}'] for k in (1, 5, 10)]
    assert recalls == pytest.approx([5, 25, 50])
    assert collapsed['mean_recall'] == pytest.approx(chance_mean_recall(20))


def test_rsum_is_sum_of_six_recalls(collapsed: dict[str, float]) -> None:
    assert collapsed['rsum'] == pytest.approx(6 * chance_mean_recall(20), rel=1e-6)


def test_collapsed_model_has_middle_ranks(collapsed: dict[str, float]) -> None:
    assert collapsed['image_to_text_median_rank'] == collapsed['text_to_image_mean_rank'] == 10.5


def test_chance_recall_is_at_most_100() -> None:
    assert chance_mean_recall(4) == pytest.approx((25 + 100 + 100) / 3)


def test_image_finds_any_of_its_captions_and_caption_finds_its_image() -> None:
    """Three images with two captions each."""
    image_ND = np.eye(3, dtype=np.float32)
    owner_M = np.array([0, 0, 1, 1, 2, 2])
    text_MD = image_ND[owner_M].copy()
    text_MD[0] = image_ND[1]  # says what the second image shows
    image, text = recall_both_ways(image_ND, text_MD, owner_M, 'image', 'text')
    assert list(image.values['image_to_text_r1']) == pytest.approx([100, 200 / 3, 100])
    # The wrong caption has its own image tied with another behind the second one.
    assert list(text.values['text_to_image_r1']) == [0, 100, 100, 100, 100, 100]
    assert text.values['text_to_image_mean_rank'][0] == 2.5
    assert list(text.item_N) == list(owner_M) and list(image.item_N) == [0, 1, 2]


def test_folds_equal_galleries_scored_alone() -> None:
    rng = np.random.default_rng(4)
    image_ND, owner_M = random_units(rng, 10, 5), np.repeat(np.arange(10), 2)
    text_MD = image_ND[owner_M] + 0.8 * random_units(rng, 20, 5)
    folded = recall_both_ways(image_ND, text_MD, owner_M, 'image', 'text', fold=4)
    for start in (0, 4):
        own = (owner_M >= start) & (owner_M < start + 4)
        alone = recall_both_ways(
            image_ND[start : start + 4], text_MD[own], owner_M[own] - start, 'image', 'text'
        )
        for part, whole in zip(alone, folded):
            chosen = (whole.item_N >= start) & (whole.item_N < start + 4)
            for name, value_N in part.values.items():
                np.testing.assert_allclose(whole.values[name][chosen], value_N)
    assert len(folded[0].item_N) == 8  # The last two fill no fold.


def test_items_are_grouped_by_owner() -> None:
    groups = group_by_owner(np.array([2, 0, 2, 3]), 4)
    assert [list(x) for x in groups] == [[1], [], [0, 2], [3]]


def test_mean_is_over_languages_with_results() -> None:
    results = {'be': {'mean_recall': 10.0}, 'ga': {'mean_recall': 30.0}}
    assert mean_over_languages(results, ['be', 'ga', 'en']) == {'mean_recall': 20.0}
    assert mean_over_languages(results, ['en']) == {}
