"""Recall and ranks against rankings made by hand and against a float64 double loop."""

import numpy as np
import pytest

from mural_jax.evaluation.metrics import ranking
from mural_jax.evaluation.metrics.bootstrap import means
from mural_jax.evaluation.metrics.ranking import Ranks, ranks, ranks_of_scores
from mural_jax.evaluation.metrics.recall import (
    both_ways,
    chance,
    combined,
    mean_over,
    medians,
    owned,
)
from mural_jax.types import UserError


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def by_force(query_QD: np.ndarray, item_ND: np.ndarray, right: list[np.ndarray]) -> Ranks:
    """One pair at a time, in float64."""
    rows = []
    for query_D, own in zip(query_QD.astype(np.float64), right):
        scores = [float((query_D * item_D).sum()) for item_D in item_ND.astype(np.float64)]
        best = max(scores[i] for i in own)
        tied = [i for i, score in enumerate(scores) if score == best]
        rows.append((sum(s > best for s in scores), len(tied), sum(i in own for i in tied)))
    return Ranks(*(np.array(column) for column in zip(*rows)))


def same(found: Ranks, wanted: Ranks) -> None:
    for ours, theirs in zip(found, wanted):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('scale', [1.0, 37.0])
def test_ranks_are_those_of_float64(scale: float) -> None:
    rng = np.random.default_rng(0)
    query_QD, item_ND = scale * units(rng, 60, 24), scale * units(rng, 90, 24)
    # So near to each other that float32 cannot tell them apart.
    item_ND[30:60] = item_ND[:30] * (1 + 1e-7)
    right = [np.unique(rng.integers(0, 90, rng.integers(1, 5))) for _ in range(60)]
    same(ranks(query_QD, item_ND, right), by_force(query_QD, item_ND, right))


def test_ties_are_found_whatever_their_number() -> None:
    rng = np.random.default_rng(1)
    item_ND = units(rng, 70, 8)
    item_ND[5:10] = item_ND[0]  # a few
    item_ND[20:] = item_ND[20]  # more than are looked at one by one
    query_QD = np.concatenate([item_ND[[0, 20, 3]], units(rng, 5, 8)])
    right = [np.array([0, 6]), np.array([25]), np.array([3])] + [np.array([i]) for i in range(5)]
    found = ranks(query_QD, item_ND, right)
    same(found, by_force(query_QD, item_ND, right))
    assert (found.tied_Q[0], found.right_Q[0], found.tied_Q[1]) == (6, 2, 50)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    query_QD, item_ND = units(rng, 50, 6), units(rng, 40, 6)
    right = [np.array([i % 40]) for i in range(50)]
    whole = ranks(query_QD, item_ND, right)
    monkeypatch.setattr(ranking, 'SCORES', 40 * 7)
    same(ranks(query_QD, item_ND, right), whole)


def test_scores_that_are_given_rank_alike() -> None:
    rng = np.random.default_rng(3)
    score_QN = rng.integers(0, 6, (20, 15)).astype(np.float32)
    right = [np.unique(rng.integers(0, 15, 3)) for _ in range(20)]
    found = ranks_of_scores(score_QN, right)
    for row, own in enumerate(right):
        best = score_QN[row, own].max()
        assert found.above_Q[row] == (score_QN[row] > best).sum()
        assert found.right_Q[row] == (score_QN[row, own] == best).sum()


def test_the_expected_recall_is_that_of_all_orders() -> None:
    """Two above, then five tied of which two are right: by counting orders of the five."""
    found = Ranks(np.array([2]), np.array([5]), np.array([2]))
    # C(3, m) of C(5, m) choices of the first m hold none.
    wanted = {1: 0, 2: 0, 3: 1 - 3 / 5, 4: 1 - 3 / 10, 5: 1 - 1 / 10, 6: 1, 10: 1}
    for k, value in wanted.items():
        assert found.found(k)[0] == pytest.approx(value)
    # Ranks 3 to 7; the first of two right ones among five stands at (5 + 1) / (2 + 1) on average.
    assert found.first()[0] == pytest.approx(4)


def test_all_alike_is_chance() -> None:
    same_ND = np.ones((20, 3), np.float32)
    scored = both_ways(same_ND, same_ND, np.arange(20), 'image', 'text')
    values = combined(means(scored)) | medians(scored)
    assert [values[f'image_to_text_r{k}'] for k in (1, 5, 10)] == pytest.approx([5, 25, 50])
    assert values['mean_recall'] == pytest.approx(chance(20))
    assert values['rsum'] == pytest.approx(6 * chance(20), rel=1e-6)
    assert values['image_to_text_median_rank'] == values['text_to_image_mean_rank'] == 10.5
    assert chance(4) == pytest.approx((25 + 100 + 100) / 3)


def test_several_captions_belong_to_one_picture() -> None:
    """Three pictures with two captions each; a caption finds its picture, a picture any of its."""
    image_ND = np.eye(3, dtype=np.float32)
    owner_M = np.array([0, 0, 1, 1, 2, 2])
    text_MD = image_ND[owner_M].copy()
    text_MD[0] = image_ND[1]  # says what the second picture shows
    scored = both_ways(image_ND, text_MD, owner_M, 'image', 'text')
    image, text = scored
    assert list(image.values['image_to_text_r1']) == pytest.approx([100, 200 / 3, 100])
    # The wrong caption finds its own picture among two that are as far away.
    assert list(text.values['text_to_image_r1']) == [0, 100, 100, 100, 100, 100]
    assert text.values['text_to_image_mean_rank'][0] == 2.5
    assert list(text.item_N) == list(owner_M) and list(image.item_N) == [0, 1, 2]


def test_folds_are_galleries_of_their_own() -> None:
    rng = np.random.default_rng(4)
    image_ND, owner_M = units(rng, 10, 5), np.repeat(np.arange(10), 2)
    text_MD = image_ND[owner_M] + 0.8 * units(rng, 20, 5)
    folded = both_ways(image_ND, text_MD, owner_M, 'image', 'text', fold=4)
    for start in (0, 4):
        own = (owner_M >= start) & (owner_M < start + 4)
        alone = both_ways(
            image_ND[start : start + 4], text_MD[own], owner_M[own] - start, 'image', 'text'
        )
        for part, whole in zip(alone, folded):
            chosen = (whole.item_N >= start) & (whole.item_N < start + 4)
            for name, value_N in part.values.items():
                np.testing.assert_allclose(whole.values[name][chosen], value_N)
    assert len(folded[0].item_N) == 8  # the last two fill no fold


def test_who_owns_what() -> None:
    found = owned(np.array([2, 0, 2, 3]), 4)
    assert [list(x) for x in found] == [[1], [], [0, 2], [3]]


@pytest.mark.parametrize(
    ('query', 'item', 'said'),
    [
        (np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), '3 dimensions and items 4'),
        (np.full((2, 3), np.nan, np.float32), np.ones((2, 3), np.float32), '2 of 2 embeddings'),
        (np.ones((0, 3), np.float32), np.ones((2, 3), np.float32), 'each needs one row'),
    ],
)
def test_what_cannot_be_compared_is_refused(query: np.ndarray, item: np.ndarray, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ranks(query, item, [np.array([0])] * len(query))


def test_the_mean_is_over_languages_that_were_scored() -> None:
    results = {'be': {'mean_recall': 10.0}, 'ga': {'mean_recall': 30.0}}
    assert mean_over(results, ['be', 'ga', 'en']) == {'mean_recall': 20.0}
    assert mean_over(results, ['en']) == {}
