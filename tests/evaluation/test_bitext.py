"""Evaluators of bitext on made sentences, against the definitions in float64 double loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.test_margin import DIM, margin_by_force, mined_by_force, units

from mural_jax.config import build
from mural_jax.config.load import load_config
from mural_jax.evaluation.evaluators.base import with_means
from mural_jax.evaluation.evaluators.bitext import Bitext, Mining
from mural_jax.evaluation.metrics import margin
from mural_jax.evaluation.metrics.bootstrap import means
from mural_jax.evaluation.scores import groups_of, intervals, read_file, score
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.runs.run import EVALUATORS
from mural_jax.types import UserError


class Lexicon:
    """Embeds a sentence by looking it up, and counts what it is asked."""

    def __init__(self, vectors: dict[str, np.ndarray]):
        self.vectors = vectors
        self.asked: list[str] = []

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        assert task == 'text_text'
        self.asked += texts
        return np.stack([self.vectors[text] for text in texts])


def sources(rows: list[dict[str, str]], vectors: dict[str, np.ndarray]) -> Sources:
    """Of rows {language: sentence}."""
    count = len(rows)
    items = Items(
        ids=[str(i) for i in range(count)],
        texts=[{language: [text] for language, text in row.items()} for row in rows],
        label_N=np.full(count, -1), score_N=np.full(count, np.nan), png=[],
        decode=lambda start, stop: None,
    )  # fmt: skip

    class Made(Sources):
        def items(self, dataset: str, split: str, text: str, *, images: bool) -> Items:
            assert (dataset, split, text, images) == ('translations/x', 'test', 'sentence', False)
            return items

    def none(folder: str) -> Sources:
        raise AssertionError(folder)

    return Made(Lexicon(vectors), Path(), 8, 8, None, none)


def made(
    counts: dict[str, int], noise: float = 0.8, seed: int = 0
) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    """English sentences, and so many of them translated into each language, near to them."""
    rng = np.random.default_rng(seed)
    english_ND = units(rng, max(counts.values()), DIM)
    rows, vectors = [], {}
    for i, vector_D in enumerate(english_ND):
        row = {'en': f'en {i}'} | {x: f'{x} {i}' for x, count in counts.items() if i < count}
        for language, text in row.items():
            near_D = vector_D + (language != 'en') * noise * units(rng, DIM)
            vectors[text] = (near_D / np.linalg.norm(near_D)).astype(np.float32)
        rows.append(row)
    return rows, vectors


def accuracy_by_force(query: list[np.ndarray], item: list[np.ndarray]) -> float:
    """Percent of queries whose nearest item has their own index; equal ones share."""
    right = 0.0
    for i, a in enumerate(query):
        scores = [float((a.astype(np.float64) * b.astype(np.float64)).sum()) for b in item]
        best = [j for j, value in enumerate(scores) if value == max(scores)]
        right += (i in best) / len(best)
    return 100 * right / len(query)


def bitext(**more: Any) -> Bitext:
    return Bitext(dataset='translations/x', split='test', task='text_text', **more)


def test_accuracy_is_that_of_each_languages_own_set() -> None:
    rows, vectors = made({'de': 60, 'ga': 25})
    given = sources(rows, vectors)
    scored = bitext(languages=('*',))(given, [])
    assert set(scored.results) == {'de', 'ga'} and scored.size == 60
    for language, count in (('de', 60), ('ga', 25)):
        text = [vectors[f'{language} {i}'] for i in range(count)]
        pivot = [vectors[f'en {i}'] for i in range(count)]
        there, back = accuracy_by_force(text, pivot), accuracy_by_force(pivot, text)
        assert 0 < there < 100
        row = scored.results[language]
        assert row['text_to_pivot_accuracy'] == pytest.approx(there, rel=1e-6)
        assert row['pivot_to_text_accuracy'] == pytest.approx(back, rel=1e-6)
        assert row['accuracy'] == pytest.approx((there + back) / 2, rel=1e-6)
        assert means(scored.samples[language]) == row
        np.testing.assert_array_equal(scored.samples[language][0].item_N, np.arange(count))
    assert len(given.embedder.asked) == 60 + 60 + 25  # English once


def test_a_sentence_that_stands_twice_shares() -> None:
    """As the mean over what an argmax may take; texts that are equal tie exactly."""
    rows, vectors = made({'de': 12}, noise=0.0)
    rows[5] = rows[5] | {'en': 'en 4'}  # de 5 is another sentence, its English that of de 4
    scored = bitext(languages=('de',))(sources(rows, vectors), [])
    row = scored.results['de']
    values = scored.samples['de'][0].values['text_to_pivot_accuracy']
    assert values[4] == 50 and values[5] < 100
    # English 4 is at de 4, twice: once right, once not.
    assert row['pivot_to_text_accuracy'] == pytest.approx(100 * 11 / 12, rel=1e-6)
    everything_alike = {text: np.ones(DIM, np.float32) for text in vectors}
    for by in margin.SCORE:
        alike = bitext(languages=('de',), score=by)(sources(rows, everything_alike), [])
        assert alike.results['de']['accuracy'] == pytest.approx(100 / 12, rel=1e-6)


@pytest.mark.parametrize('score', ['ratio', 'distance'])
def test_accuracy_by_a_margin(score: Any) -> None:
    rows, vectors = made({'de': 40}, noise=1.2)
    vectors = {text: abs(vector_D) for text, vector_D in vectors.items()}
    text_ND, pivot_ND = (np.stack([vectors[f'{x} {i}'] for i in range(40)]) for x in ('de', 'en'))
    row = bitext(languages=('de',), score=score)(sources(rows, vectors), []).results['de']
    own = np.arange(40)
    there = margin_by_force(text_ND, pivot_ND, 4, score).argmax(1) == own
    back = margin_by_force(pivot_ND, text_ND, 4, score).argmax(1) == own
    assert row['text_to_pivot_accuracy'] == pytest.approx(100 * there.mean(), rel=1e-6)
    assert row['pivot_to_text_accuracy'] == pytest.approx(100 * back.mean(), rel=1e-6)
    plain = bitext(languages=('de',))(sources(rows, vectors), []).results['de']
    assert row != plain


def test_several_pivots() -> None:
    rows, vectors = made({'de': 30, 'fr': 30, 'ga': 30})
    given = sources(rows, vectors)
    evaluator = bitext(languages=('*',), pivots=('en', 'fr'))
    scored = evaluator(given, [])
    assert set(scored.results) == {'de', 'ga'}
    alone = bitext(languages=('ga',), pivots=('fr',))(given, []).results['ga']
    row = scored.results['ga']
    assert row['text_to_fr_accuracy'] == alone['text_to_pivot_accuracy']
    assert row['fr_to_text_accuracy'] == alone['pivot_to_text_accuracy']
    assert row['accuracy'] == pytest.approx((row['en_accuracy'] + row['fr_accuracy']) / 2)
    # Means and intervals of groups hold them all.
    groups = groups_of(evaluator, {'few': ('ga', 'cy')}, scored.results)
    assert with_means(scored.results, groups)['mean_few'] == row
    drawn = intervals(scored.samples, scored.size, groups)
    assert drawn['mean_all'].keys() == row.keys()
    assert drawn['ga']['accuracy'][0] <= row['accuracy'] <= drawn['ga']['accuracy'][1]


def test_groups_that_change_have_their_own_means(tmp_path: Path) -> None:
    """Of scores that are there; nothing is embedded again."""
    given = sources(*made({'de': 30, 'fr': 30, 'ga': 30}))
    path = tmp_path / '1.json'
    evaluators = {'x': bitext(languages=('de', 'fr', 'ga'))}
    said: list[str] = []
    for groups in ({'a': ('de', 'fr')}, {'a': ('de', 'ga'), 'b': ('fr',)}, {'a': ('de', 'fr')}):
        found, _ = score(evaluators, groups, given, path, said.append)
        fresh, _ = score(evaluators, groups, given, tmp_path / 'other' / '1.json', force=True)
        assert (found.results, found.intervals) == (fresh.results, fresh.intervals)
        assert read_file(path) == found
        assert {x for x in found.results['x'] if x.startswith('mean_')} == {
            'mean_all',
            *(f'mean_{name}' for name in groups),
        }
    assert [line.split(':')[1].split()[0] for line in said] == ['scored', 'the'] * 2


def test_all_languages_are_those_with_pairs() -> None:
    rows, vectors = made({'de': 10, 'ga': 10})
    rows = [{k: v for k, v in row.items() if k != 'ga'} for row in rows] + [{'ga': 'ga 0'}]
    given = sources(rows, vectors)
    assert set(bitext(languages=('*',))(given, []).results) == {'de'}
    with pytest.raises(UserError, match='no sentence in ga and en'):
        bitext(languages=('ga',))(given, [])


@pytest.mark.parametrize(
    ('options', 'languages', 'said'),
    [
        ({'pivots': ('eng',)}, ['de'], 'pivot eng; it has de, en'),
        ({'languages': ('gd',)}, [], 'no text in gd'),
        ({}, ['gd'], 'no sentence in gd and en'),
        ({}, ['en'], 'no language to score against en'),
    ],
)
def test_what_the_data_lacks_is_said(
    options: dict[str, Any], languages: list[str], said: str
) -> None:
    rows, vectors = made({'de': 10})
    with pytest.raises(UserError, match=said):
        bitext(**options)(sources(rows, vectors), languages)


@pytest.mark.parametrize(
    ('kind', 'options', 'said'),
    [
        (Bitext, {'score': 'euclid'}, 'cosine, ratio, distance'),
        (Bitext, {'k': 0}, 'at least 1'),
        (Bitext, {'pivots': ()}, 'pivots is empty'),
        (Bitext, {'every': -1}, 'number of steps'),
        (Mining, {'strategy': 'both'}, 'max, intersection'),
        (Mining, {'threshold': '1.06'}, 'must be a number'),
    ],
)
def test_options_are_checked(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(dataset='translations/x', split='test', task='text_text', **options)


def two_sets(seed: int = 4) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    """30 pairs among 50 German and 65 English sentences."""
    rows, vectors = made({'de': 85}, noise=0.4, seed=seed)
    split = [row if i < 30 else {'de': row['de']} if i < 50 else {'en': row['en']}
             for i, row in enumerate(rows)]  # fmt: skip
    return split, {text: abs(vector_D) for text, vector_D in vectors.items()}


def mining(**more: Any) -> Mining:
    more = {'languages': ('de',)} | more
    return Mining(dataset='translations/x', split='test', task='text_text', **more)


@pytest.mark.parametrize('strategy', margin.STRATEGY)
def test_mining_finds_the_pairs_among_two_sets(strategy: Any) -> None:
    rows, vectors = two_sets()
    left_ND = np.stack([vectors[f'de {i}'] for i in range(50)])
    right = [*range(30), *range(50, 85)]
    right_MD = np.stack([vectors[f'en {i}'] for i in right])
    forward = margin_by_force(left_ND, right_MD, 4, 'ratio')
    backward = margin_by_force(right_MD, left_ND, 4, 'ratio').T
    pairs = mined_by_force(forward, backward, strategy)
    scores = np.maximum(forward, backward)
    for threshold in (None, 1.05, 1.2):
        scored = mining(strategy=strategy, threshold=threshold)(sources(rows, vectors), [])
        row = scored.results['de']
        taken = {pair for pair in pairs if scores[pair] >= row['threshold']}
        hits = sum(right[j] == i for i, j in taken)
        assert row['precision'] == pytest.approx(100 * hits / max(len(taken), 1))
        assert row['recall'] == pytest.approx(100 * hits / 30)
        assert row['f1'] == pytest.approx(200 * hits / (len(taken) + 30))
        assert means(scored.samples['de'])['recall'] == pytest.approx(row['recall'], rel=1e-6)
        if threshold is None:
            best = row['f1']
        assert row['f1'] <= best
    assert best > 50


def test_nothing_taken_is_nothing_found() -> None:
    row = mining(threshold=9.0)(sources(*two_sets()), []).results['de']
    assert row == {'f1': 0, 'precision': 0, 'recall': 0, 'threshold': 9}


def test_sentences_that_repeat_are_mined_once() -> None:
    rows, vectors = two_sets()
    once = mining()(sources(rows, vectors), []).results['de']
    given = sources(rows + rows[:3] + rows[40:45], vectors)
    assert mining()(given, []).results['de'] == once
    assert len(given.embedder.asked) == 50 + 65


def test_protocols_say_what_was_done() -> None:
    said = bitext(score='ratio', k=5).protocol()
    assert '5 nearest' in said['score'] and 'arXiv:1811.01136' in said['score']
    assert bitext().protocol()['score'] == 'cosine' and '1/t' in bitext().protocol()['ties']
    assert 'this very set' in mining().protocol()['threshold']
    assert mining(threshold=1.06).protocol()['threshold'] == 1.06


@pytest.mark.parametrize('suite', ['flores', 'tatoeba'])
def test_suites_build(suite: str) -> None:
    flags = [f'--config.evaluators.{suite}.{x}' for x in ('task=image_text', 'score=ratio')]
    loaded = load_config(f'evaluation:{suite}', flags)
    assert set(loaded) == {'evaluators', 'languages'}
    (node,) = loaded['evaluators'].values()
    evaluator = build.build(EVALUATORS, node, 'evaluators')
    assert evaluator.languages == ('*',) and evaluator.needs() == {'tasks': 'image_text'}
    assert evaluator.score == 'ratio'
    every = {field for group in loaded['languages'].values() for field in group}
    assert not every & set(evaluator.pivots)


def test_a_suite_that_is_not_there() -> None:
    with pytest.raises(UserError, match='flores, tatoeba'):
        load_config('evaluation:bucc', [])
