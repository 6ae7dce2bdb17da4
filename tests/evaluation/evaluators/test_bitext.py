"""Bitext evaluators on made-up sentences, against their definitions in float64 double loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.oracles import accuracy_by_force, margin_by_force, mine_by_force, random_units

from mural_jax.evaluation.evaluators.base import Evaluation, add_group_means
from mural_jax.evaluation.evaluators.bitext import BitextAccuracy, BitextMining
from mural_jax.evaluation.metrics import margin
from mural_jax.evaluation.metrics.bootstrap import mean_metrics
from mural_jax.evaluation.scores import choose_groups, compute_intervals, read_file, score
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError

DIM = 12
Rows = list[dict[str, str]]  # sentences of each example by language
Vectors = dict[str, np.ndarray]  # embeddings by sentence


class LookupEmbedder:
    """Embeds a sentence by looking it up, and records the sentences."""

    def __init__(self, vectors: Vectors):
        self.vectors = vectors
        self.embedded: list[str] = []

    def embed_texts(self, space: str, texts: list[str]) -> np.ndarray:
        assert space == 'text_text'
        self.embedded += texts
        return np.stack([self.vectors[text] for text in texts])


def make_data(rows: Rows, vectors: Vectors) -> SplitData:
    count = len(rows)
    examples = SplitExamples(
        ids=[str(i) for i in range(count)],
        texts=[{language: [text] for language, text in row.items()} for row in rows],
        label_N=np.full(count, -1),
        score_N=np.full(count, np.nan),
        pngs=[],
        decode=lambda start, stop: None,
    )

    class SentenceData(SplitData):
        def read_examples(
            self, dataset: str, split: str, text: str, *, images: bool
        ) -> SplitExamples:
            assert (dataset, split, text, images) == ('translations/x', 'test', 'sentence', False)
            return examples

    def refuse(workdir: str) -> SplitData:
        raise AssertionError(workdir)

    return SentenceData(LookupEmbedder(vectors), Path(), 8, 8, None, refuse)


def make_rows(counts: dict[str, int], noise: float = 0.8, seed: int = 0) -> tuple[Rows, Vectors]:
    """English sentences, and for each language so many translations with embeddings near them."""
    rng = np.random.default_rng(seed)
    english_ND = random_units(rng, max(counts.values()), DIM)
    rows, vectors = [], {}
    for i, vector_D in enumerate(english_ND):
        row = {'en': f'en {i}'} | {x: f'{x} {i}' for x, count in counts.items() if i < count}
        for language, text in row.items():
            near_D = vector_D + (language != 'en') * noise * random_units(rng, DIM)
            vectors[text] = (near_D / np.linalg.norm(near_D)).astype(np.float32)
        rows.append(row)
    return rows, vectors


def bitext(**options: Any) -> BitextAccuracy:
    return BitextAccuracy(dataset='translations/x', split='test', space='text_text', **options)


def mining(**options: Any) -> BitextMining:
    options = {'languages': ('de',)} | options
    return BitextMining(dataset='translations/x', split='test', space='text_text', **options)


COUNTS = {'de': 60, 'ga': 25}


@pytest.fixture(scope='module')
def two_languages() -> tuple[SplitData, Evaluation]:
    data = make_data(*make_rows(COUNTS))
    return data, bitext(languages=('*',))(data, [])


@pytest.mark.parametrize(('language', 'count'), COUNTS.items())
def test_accuracy_equals_double_loop_over_own_set(
    language: str, count: int, two_languages: tuple[SplitData, Evaluation]
) -> None:
    data, evaluation = two_languages
    vectors = data.embedder.vectors
    text = [vectors[f'{language} {i}'] for i in range(count)]
    pivot = [vectors[f'en {i}'] for i in range(count)]
    there, back = accuracy_by_force(text, pivot), accuracy_by_force(pivot, text)
    assert 0 < there < 100
    row = evaluation.results[language]
    assert row['text_to_pivot_accuracy'] == pytest.approx(there, rel=1e-6)
    assert row['pivot_to_text_accuracy'] == pytest.approx(back, rel=1e-6)
    assert row['accuracy'] == pytest.approx((there + back) / 2, rel=1e-6)
    assert mean_metrics(evaluation.samples[language]) == row
    np.testing.assert_array_equal(evaluation.samples[language][0].item_N, np.arange(count))


def test_pivot_is_embedded_once(two_languages: tuple[SplitData, Evaluation]) -> None:
    data, evaluation = two_languages
    assert set(evaluation.results) == set(COUNTS) and evaluation.size == 60
    assert len(data.embedder.embedded) == 60 + 60 + 25


def test_repeated_sentence_shares_its_hit() -> None:
    rows, vectors = make_rows({'de': 12}, noise=0.0)
    rows[5] = rows[5] | {'en': 'en 4'}  # de 5 is another sentence, its English is that of de 4
    evaluation = bitext(languages=('de',))(make_data(rows, vectors), [])
    values = evaluation.samples['de'][0].values['text_to_pivot_accuracy']
    assert values[4] == 50 and values[5] < 100
    # The sentence en 4 is nearest to de 4: right for example 4, wrong for example 5.
    accuracy = evaluation.results['de']['pivot_to_text_accuracy']
    assert accuracy == pytest.approx(100 * 11 / 12, rel=1e-6)


@pytest.mark.parametrize('kind', margin.SCORE_KINDS)
def test_collapsed_embeddings_have_accuracy_of_chance(kind: Any) -> None:
    rows, vectors = make_rows({'de': 12}, noise=0.0)
    collapsed = {text: np.ones(DIM, np.float32) for text in vectors}
    evaluation = bitext(languages=('de',), score=kind)(make_data(rows, collapsed), [])
    assert evaluation.results['de']['accuracy'] == pytest.approx(100 / 12, rel=1e-6)


@pytest.mark.parametrize('kind', ['ratio', 'distance'])
def test_accuracy_by_margin_equals_double_loop(kind: Any) -> None:
    rows, vectors = make_rows({'de': 40}, noise=1.2)
    vectors = {text: abs(vector_D) for text, vector_D in vectors.items()}
    text_ND, pivot_ND = (np.stack([vectors[f'{x} {i}'] for i in range(40)]) for x in ('de', 'en'))
    row = bitext(languages=('de',), score=kind)(make_data(rows, vectors), []).results['de']
    own = np.arange(40)
    there = margin_by_force(text_ND, pivot_ND, 4, kind).argmax(1) == own
    back = margin_by_force(pivot_ND, text_ND, 4, kind).argmax(1) == own
    assert row['text_to_pivot_accuracy'] == pytest.approx(100 * there.mean(), rel=1e-6)
    assert row['pivot_to_text_accuracy'] == pytest.approx(100 * back.mean(), rel=1e-6)
    assert row != bitext(languages=('de',))(make_data(rows, vectors), []).results['de']


TWO_PIVOTS = bitext(languages=('*',), pivots=('en', 'fr'))


@pytest.fixture(scope='module')
def two_pivots() -> tuple[SplitData, Evaluation]:
    data = make_data(*make_rows({'de': 30, 'fr': 30, 'ga': 30}))
    return data, TWO_PIVOTS(data, [])


def test_several_pivots_have_metrics_of_each(two_pivots: tuple[SplitData, Evaluation]) -> None:
    data, evaluation = two_pivots
    assert set(evaluation.results) == {'de', 'ga'}
    alone = bitext(languages=('ga',), pivots=('fr',))(data, []).results['ga']
    row = evaluation.results['ga']
    assert row['text_to_fr_accuracy'] == alone['text_to_pivot_accuracy']
    assert row['fr_to_text_accuracy'] == alone['pivot_to_text_accuracy']
    assert row['accuracy'] == pytest.approx((row['en_accuracy'] + row['fr_accuracy']) / 2)


def test_means_and_intervals_have_metrics_of_all_pivots(
    two_pivots: tuple[SplitData, Evaluation],
) -> None:
    _, evaluation = two_pivots
    groups = choose_groups(TWO_PIVOTS, {'few': ('ga', 'cy')}, evaluation.results)
    row = evaluation.results['ga']
    assert add_group_means(evaluation.results, groups)['mean_few'] == row
    intervals = compute_intervals(evaluation.samples, evaluation.size, groups)
    assert intervals['mean_all'].keys() == row.keys()
    low, high = intervals['ga']['accuracy']
    assert low <= row['accuracy'] <= high


def test_changed_groups_get_new_means_without_new_embeddings(tmp_path: Path) -> None:
    data = make_data(*make_rows({'de': 30, 'fr': 30, 'ga': 30}))
    path = tmp_path / '1.json'
    evaluators = {'x': bitext(languages=('de', 'fr', 'ga'))}
    lines: list[str] = []
    for groups in ({'a': ('de', 'fr')}, {'a': ('de', 'ga'), 'b': ('fr',)}, {'a': ('de', 'fr')}):
        scores, _ = score(evaluators, groups, data, path, lines.append)
        fresh, _ = score(evaluators, groups, data, tmp_path / 'other' / '1.json', force=True)
        assert (scores.results, scores.intervals) == (fresh.results, fresh.intervals)
        assert read_file(path) == scores
        means = {x for x in scores.results['x'] if x.startswith('mean_')}
        assert means == {'mean_all', *(f'mean_{name}' for name in groups)}
    skipped, regrouped = 'x: has scores', 'x: its means'
    assert [line[: len(skipped)].rstrip() for line in lines] == [skipped, regrouped] * 2


def test_all_languages_are_those_with_pairs() -> None:
    rows, vectors = make_rows({'de': 10, 'ga': 10})
    rows = [{k: v for k, v in row.items() if k != 'ga'} for row in rows] + [{'ga': 'ga 0'}]
    data = make_data(rows, vectors)
    assert set(bitext(languages=('*',))(data, []).results) == {'de'}
    with pytest.raises(UserError, match='no sentence in ga and en'):
        bitext(languages=('ga',))(data, [])


@pytest.mark.parametrize(
    ('options', 'languages', 'message'),
    [
        ({'pivots': ('eng',)}, ['de'], 'pivot eng; it has de, en'),
        ({'languages': ('gd',)}, [], 'no text in gd'),
        ({}, ['gd'], 'no sentence in gd and en'),
        ({}, ['en'], 'no language to score against en'),
    ],
)
def test_missing_language_is_named(
    options: dict[str, Any], languages: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bitext(**options)(make_data(*make_rows({'de': 10})), languages)


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        (BitextAccuracy, {'score': 'euclid'}, 'cosine, ratio, distance'),
        (BitextAccuracy, {'k': 0}, 'at least 1'),
        (BitextAccuracy, {'pivots': ()}, 'pivots is empty'),
        (BitextAccuracy, {'every': -1}, 'number of steps'),
        (BitextMining, {'strategy': 'both'}, 'max, intersection'),
        (BitextMining, {'threshold': '1.06'}, 'must be a number'),
    ],
)
def test_wrong_option_is_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(dataset='translations/x', split='test', space='text_text', **options)


def make_two_sets(seed: int = 4) -> tuple[Rows, Vectors]:
    """30 pairs among 50 German and 65 English sentences."""
    rows, vectors = make_rows({'de': 85}, noise=0.4, seed=seed)
    one_side = [{'de': row['de']} if i < 50 else {'en': row['en']} for i, row in enumerate(rows)]
    positive = {text: abs(vector_D) for text, vector_D in vectors.items()}
    return rows[:30] + one_side[30:], positive


@pytest.mark.parametrize('strategy', margin.STRATEGIES)
def test_mining_equals_double_loop(strategy: Any) -> None:
    rows, vectors = make_two_sets()
    left_ND = np.stack([vectors[f'de {i}'] for i in range(50)])
    right = [*range(30), *range(50, 85)]
    right_MD = np.stack([vectors[f'en {i}'] for i in right])
    forward = margin_by_force(left_ND, right_MD, 4, 'ratio')
    backward = margin_by_force(right_MD, left_ND, 4, 'ratio').T
    pairs = mine_by_force(forward, backward, strategy)
    scores = np.maximum(forward, backward)
    for threshold in (None, 1.05, 1.2):
        evaluator = mining(strategy=strategy, threshold=threshold)
        evaluation = evaluator(make_data(rows, vectors), [])
        row = evaluation.results['de']
        taken = {pair for pair in pairs if scores[pair] >= row['threshold']}
        hits = sum(right[j] == i for i, j in taken)
        assert row['precision'] == pytest.approx(100 * hits / max(len(taken), 1))
        assert row['recall'] == pytest.approx(100 * hits / 30)
        assert row['f1'] == pytest.approx(200 * hits / (len(taken) + 30))
        recall = mean_metrics(evaluation.samples['de'])['recall']
        assert recall == pytest.approx(row['recall'], rel=1e-6)
        if threshold is None:
            best = row['f1']
        assert row['f1'] <= best
    assert best > 50


def test_threshold_above_all_scores_mines_nothing() -> None:
    row = mining(threshold=9.0)(make_data(*make_two_sets()), []).results['de']
    assert row == {'f1': 0, 'precision': 0, 'recall': 0, 'threshold': 9}


def test_repeated_sentences_are_mined_once() -> None:
    rows, vectors = make_two_sets()
    once = mining()(make_data(rows, vectors), []).results['de']
    data = make_data(rows + rows[:3] + rows[40:45], vectors)
    assert mining()(data, []).results['de'] == once
    assert len(data.embedder.embedded) == 50 + 65


def test_protocol_describes_score_and_ties() -> None:
    protocol = bitext(score='ratio', k=5).protocol()
    assert '5 nearest' in protocol['score'] and 'arXiv:1811.01136' in protocol['score']
    assert bitext().protocol()['score'] == 'cosine' and '1/t' in bitext().protocol()['ties']


def test_protocol_says_how_threshold_was_chosen() -> None:
    assert 'this very set' in mining().protocol()['threshold']
    assert mining(threshold=1.06).protocol()['threshold'] == 1.06
