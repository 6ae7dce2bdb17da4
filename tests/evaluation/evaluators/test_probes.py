"""Probes against their definitions and against scikit-learn itself."""

import builtins
import types
from typing import Any

import numpy as np
import pytest
from evaluation.fixed_data import FixedData, make_fixed

from mural_jax.evaluation.evaluators import probes
from mural_jax.evaluation.evaluators.probes import KnnProbe, LinearProbe, hold_out_mask, search_c
from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.types import UserError

CLASSES, DIM = 7, 6


def make_split(rng: np.random.Generator, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels, unit vectors around a centre for each class)."""
    centre_CD = np.random.default_rng(9).normal(size=(20, DIM))
    vector_ND = centre_CD[label_N] + 0.8 * rng.normal(size=(len(label_N), DIM))
    return label_N, (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype('f4')


Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def make_splits(train: np.ndarray | None = None, test: np.ndarray | None = None) -> Splits:
    """The splits train and val by their labels; without them 7 classes numbered 3, 5, 7, ..."""
    rng = np.random.default_rng(0)
    number_C = 3 + 2 * np.arange(CLASSES)
    return {
        'train': make_split(rng, np.repeat(number_C, 20) if train is None else train),
        'val': make_split(rng, np.repeat(number_C, 6) if test is None else test),
    }


def make_data(splits: Splits) -> FixedData:
    def read(split: str) -> SplitExamples:
        label_N = splits[split][0]
        size = len(label_N)
        return SplitExamples(
            [split] * size, [{}] * size, label_N, np.zeros(size), [b''] * size, print
        )

    def embed_images(space: str, examples: SplitExamples) -> np.ndarray:
        return splits[examples.ids[0]][1]

    return make_fixed(types.SimpleNamespace(embed_images=embed_images), read)


def knn(**options: Any) -> KnnProbe:
    return KnnProbe(dataset='a/b', split='val', space='pairs', **options)


def linear(**options: Any) -> LinearProbe:
    return LinearProbe(dataset='a/b', split='val', space='pairs', **options)


@pytest.mark.parametrize('scores', [1 << 25, 140 * 4])
@pytest.mark.parametrize(('k', 'temperature'), [(1, 0.07), (20, 0.07), (140, 0.5), (9, 1e-4)])
def test_knn_votes_equal_double_loop(
    k: int, temperature: float, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, 'BLOCK_SCORES', scores)
    splits = make_splits()
    evaluation = knn(k=k, temperature=temperature)(make_data(splits), ['en'])
    (train_M, item_MD), (test_N, query_ND) = splits['train'], splits['val']
    hits = []
    for query_D, label in zip(query_ND.astype(np.float64), test_N):
        cosines = sorted(
            ((float(query_D @ item_D), m) for m, item_D in enumerate(item_MD.astype(np.float64))),
            reverse=True,
        )[:k]
        votes: dict[int, float] = {}
        for cosine, m in cosines:
            weight = np.exp((cosine - cosines[0][0]) / temperature)
            votes[train_M[m]] = votes.get(train_M[m], 0) + weight
        hits.append(100.0 * (max(votes, key=lambda x: votes[x]) == label))
    (own,) = evaluation.samples['all']
    np.testing.assert_allclose(own.values['top1'], hits)
    assert evaluation.results['all'] == {'top1': pytest.approx(np.mean(hits))}
    assert evaluation.size == len(test_N) and 40 < np.mean(hits) < 100


def test_equal_votes_share_the_hit() -> None:
    splits = make_splits(train=np.array([3, 5]), test=np.array([3]))
    splits['train'][1][:] = splits['val'][1]
    assert knn(k=2)(make_data(splits), []).results['all']['top1'] == pytest.approx(50)


def test_linear_probe_equals_scikit_learn() -> None:
    regression = pytest.importorskip('sklearn.linear_model').LogisticRegression
    splits = make_splits()
    evaluation = linear()(make_data(splits), [])
    (train_M, item_MD), (test_N, query_ND) = splits['train'], splits['val']
    held_M = hold_out_mask(train_M)

    def accuracy(c: float) -> float:
        model = regression(C=c, max_iter=5000).fit(item_MD[~held_M].astype(float), train_M[~held_M])
        return model.score(item_MD[held_M].astype(float), train_M[held_M])

    row = evaluation.results['all']
    assert row['c'] == pytest.approx(search_c(accuracy))
    model = regression(C=row['c'], max_iter=1000).fit(item_MD.astype(float), train_M)
    logits = model.decision_function(query_ND.astype(float))
    order = np.argsort(-logits, axis=1)
    for k in (1, 5):
        hits = [100.0 * (label in model.classes_[own[:k]]) for label, own in zip(test_N, order)]
        np.testing.assert_allclose(evaluation.samples['all'][0].values[f'top{k}'], hits)
    assert row['top1'] == pytest.approx(100 * model.score(query_ND.astype(float), test_N))
    assert 1 <= row['iterations'] <= 1000 and row['top1'] > 60


def test_linear_probe_ranks_two_classes() -> None:
    pytest.importorskip('sklearn')
    splits = make_splits(np.repeat([3, 9], 30), np.repeat([3, 9], 10))
    row = linear()(make_data(splits), []).results['all']
    assert row['top1'] > 80 and row['top5'] == 100


@pytest.mark.parametrize('peak', [-6.0, -0.375, 1.25, 6.0])
def test_search_for_c_ends_at_the_peak(peak: float) -> None:
    tried = []

    def accuracy(c: float) -> float:
        tried.append(c)
        return -abs(np.log10(c) - peak)

    assert search_c(accuracy) == pytest.approx(10**peak)
    assert len(tried) <= 7 + 2 * 4 and min(tried) >= 1e-6 and max(tried) <= 1e6


def test_search_for_c_takes_smallest_of_equal_ones() -> None:
    assert search_c(lambda c: 0.5) == pytest.approx(1e-6)


def test_one_in_five_of_each_class_is_held_out() -> None:
    label_N = np.random.default_rng(0).permutation(np.repeat([4, 8, 9], [23, 5, 4]))
    held_N = hold_out_mask(label_N)
    assert [held_N[label_N == x].sum() for x in (4, 8, 9)] == [4, 1, 0]
    np.testing.assert_array_equal(held_N, hold_out_mask(label_N))


@pytest.mark.parametrize('make_probe', [linear, knn])
@pytest.mark.parametrize(
    ('train', 'test', 'message'),
    [
        (np.full(9, -1), None, r'a/b:train has no image with a class'),
        (None, np.zeros(0, int), r'a/b:val has no image with a class'),
        (np.repeat([3, 5], 20), np.array([3, 9, 11]), r'no image of 2 classes of val, such as 9'),
        (np.full(30, 3), np.array([3]), r'has one class'),
    ],
)
def test_splits_without_anything_to_learn_are_refused(
    make_probe: Any, train: np.ndarray | None, test: np.ndarray | None, message: str
) -> None:
    if make_probe is linear:
        pytest.importorskip('sklearn')
    with pytest.raises(UserError, match=message):
        make_probe()(make_data(make_splits(train, test)), [])


def test_k_and_temperature_must_be_positive() -> None:
    with pytest.raises(UserError, match=r'k=0 and temperature=0.07'):
        knn(k=0)


def test_training_on_the_scored_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"train_split='val' is the split that is scored"):
        knn(train_split='val')


def test_k_above_training_images_is_refused() -> None:
    with pytest.raises(UserError, match=r'k=200 is more than the 140 images'):
        knn(k=200)(make_data(make_splits()), [])


def test_too_few_examples_to_hold_out_are_refused() -> None:
    pytest.importorskip('sklearn')
    with pytest.raises(UserError, match=r'fewer than 5 images of each class'):
        linear()(make_data(make_splits(np.repeat([3, 5], 4), np.array([3]))), [])


def test_missing_scikit_learn_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def fail(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith('sklearn'):
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, '__import__', fail)
    with pytest.raises(UserError, match=r"pip install 'mural-jax\[evaluation\]'"):
        linear()(make_data(make_splits()), [])
