"""Probes against their definitions and against scikit-learn itself."""

import builtins
import types

import numpy as np
import pytest

from mural_jax.evaluation.evaluators import probes
from mural_jax.evaluation.evaluators.probes import Knn, LinearProbe, best_c, held_out
from mural_jax.evaluation.split_data import Items
from mural_jax.types import UserError

CLASSES, DIM = 7, 6


def split(rng: np.random.Generator, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre_CD = np.random.default_rng(9).normal(size=(20, DIM))
    vector_ND = centre_CD[label_N] + 0.8 * rng.normal(size=(len(label_N), DIM))
    return label_N, (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype('f4')


def sources(train: np.ndarray | None = None, test: np.ndarray | None = None):
    """Two splits of pictures around a centre for each class, numbered 3, 5, 7, ..."""
    rng = np.random.default_rng(0)
    number_C = 3 + 2 * np.arange(CLASSES)
    splits = {
        'train': split(rng, np.repeat(number_C, 20) if train is None else train),
        'val': split(rng, np.repeat(number_C, 6) if test is None else test),
    }

    def items(dataset: str, name: str, text: str, *, images: bool) -> Items:
        label_N = splits[name][0]
        size = len(label_N)
        return Items([name] * size, [{}] * size, label_N, np.zeros(size), [b''] * size, print)

    def images(task: str, items: Items) -> np.ndarray:
        return splits[items.ids[0]][1]

    return types.SimpleNamespace(
        items=items, embedder=types.SimpleNamespace(images=images), splits=splits
    )


def knn(**options) -> Knn:
    return Knn(dataset='a/b', split='val', task='pairs', **options)


def linear(**options) -> LinearProbe:
    return LinearProbe(dataset='a/b', split='val', task='pairs', **options)


@pytest.mark.parametrize('scores', [1 << 25, 140 * 4])
@pytest.mark.parametrize(('k', 'temperature'), [(1, 0.07), (20, 0.07), (140, 0.5), (9, 1e-4)])
def test_neighbours_vote(
    k: int, temperature: float, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, 'SCORES', scores)
    given = sources()
    scored = knn(k=k, temperature=temperature)(given, ['en'])
    (train_M, item_MD), (test_N, query_ND) = given.splits['train'], given.splits['val']
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
    (own,) = scored.samples['all']
    np.testing.assert_allclose(own.values['top1'], hits)
    assert scored.results['all'] == {'top1': pytest.approx(np.mean(hits))}
    assert scored.size == len(test_N) and 40 < np.mean(hits) < 100


def test_equal_votes_are_shared() -> None:
    given = sources(train=np.array([3, 5]), test=np.array([3]))
    given.splits['train'][1][:] = given.splits['val'][1]
    assert knn(k=2)(given, []).results['all']['top1'] == pytest.approx(50)


def test_the_linear_probe_is_scikit_learns() -> None:
    regression = pytest.importorskip('sklearn.linear_model').LogisticRegression
    given = sources()
    scored = linear()(given, [])
    (train_M, item_MD), (test_N, query_ND) = given.splits['train'], given.splits['val']
    held_M = held_out(train_M)

    def accuracy(c: float) -> float:
        model = regression(C=c, max_iter=5000).fit(item_MD[~held_M].astype(float), train_M[~held_M])
        return model.score(item_MD[held_M].astype(float), train_M[held_M])

    row = scored.results['all']
    assert row['c'] == pytest.approx(best_c(accuracy))
    model = regression(C=row['c'], max_iter=1000).fit(item_MD.astype(float), train_M)
    logits = model.decision_function(query_ND.astype(float))
    order = np.argsort(-logits, axis=1)
    for k in (1, 5):
        hits = [100.0 * (label in model.classes_[own[:k]]) for label, own in zip(test_N, order)]
        np.testing.assert_allclose(scored.samples['all'][0].values[f'top{k}'], hits)
    assert row['top1'] == pytest.approx(100 * model.score(query_ND.astype(float), test_N))
    assert 1 <= row['iterations'] <= 1000 and row['top1'] > 60


def test_two_classes_are_ranked_too() -> None:
    pytest.importorskip('sklearn')
    given = sources(np.repeat([3, 9], 30), np.repeat([3, 9], 10))
    row = linear()(given, []).results['all']
    assert row['top1'] > 80 and row['top5'] == 100


@pytest.mark.parametrize('peak', [-6.0, -0.375, 1.25, 6.0])
def test_the_search_ends_at_the_peak(peak: float) -> None:
    tried = []

    def accuracy(c: float) -> float:
        tried.append(c)
        return -abs(np.log10(c) - peak)

    assert best_c(accuracy) == pytest.approx(10**peak)
    assert len(tried) <= 7 + 2 * 4 and min(tried) >= 1e-6 and max(tried) <= 1e6
    assert best_c(lambda c: 0.5) == pytest.approx(1e-6)


def test_one_in_five_of_each_class_is_held_out() -> None:
    label_N = np.random.default_rng(0).permutation(np.repeat([4, 8, 9], [23, 5, 4]))
    held_N = held_out(label_N)
    assert [held_N[label_N == x].sum() for x in (4, 8, 9)] == [4, 1, 0]
    np.testing.assert_array_equal(held_N, held_out(label_N))


@pytest.mark.parametrize('probe', [linear, knn])
@pytest.mark.parametrize(
    ('train', 'test', 'said'),
    [
        (np.full(9, -1), None, r'a/b:train has no picture with a class'),
        (None, np.zeros(0, int), r'a/b:val has no picture with a class'),
        (np.repeat([3, 5], 20), np.array([3, 9, 11]), r'no picture of 2 classes of val, such as 9'),
        (np.full(30, 3), np.array([3]), r'has one class'),
    ],
)
def test_splits_that_teach_nothing_are_refused(probe, train, test, said: str) -> None:
    if probe is linear:
        pytest.importorskip('sklearn')
    with pytest.raises(UserError, match=said):
        probe()(sources(train, test), [])


def test_bad_options_are_refused() -> None:
    with pytest.raises(UserError, match=r'k=0 and temperature=0.07'):
        knn(k=0)
    with pytest.raises(UserError, match=r"train_split='val' is what is scored"):
        knn(train_split='val')
    with pytest.raises(UserError, match=r'k=200 is more than the 140 pictures'):
        knn(k=200)(sources(), [])


def test_few_examples_cannot_choose() -> None:
    pytest.importorskip('sklearn')
    with pytest.raises(UserError, match=r'fewer than 5 pictures of each class'):
        linear()(sources(np.repeat([3, 5], 4), np.array([3])), [])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def missing(name: str, *rest, **more):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, '__import__', missing)
    with pytest.raises(UserError, match=r"pip install 'mural-jax\[evaluation\]'"):
        linear()(sources(), [])
