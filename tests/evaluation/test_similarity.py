"""Correlation with ratings: against scipy, the sampling by its definition, CxC's three layouts."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.datasets import encoded, picture
from scipy import stats

from mural_jax.config import build
from mural_jax.config.load import load_config
from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.sets.checks import Limits
from mural_jax.data.sources.crisscrossed import CrissCrossed
from mural_jax.data.sources.published import Karpathy
from mural_jax.evaluation import scores
from mural_jax.evaluation.evaluators.ratings import Similarity, read_ratings
from mural_jax.evaluation.metrics import correlation
from mural_jax.evaluation.metrics.correlation import Rated, agreement, numbered, sampled, spearman
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.runs.run import EVALUATORS
from mural_jax.types import UserError

COUNT = 8  # pictures, two captions each
SENTENCE = 'COCO_val2014:sentid:'
HEADER = ',agg_score,sampling_method\n'


def name(number: int) -> str:
    return f'COCO_val2014_{number:012d}.jpg'


def said(sentence: int) -> str:
    return f'Caption {sentence}.'


def vector(content: Any) -> np.ndarray:
    """A direction of its own for each content."""
    seed = int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:8], 'big')
    vector_D = np.random.default_rng(seed).normal(size=6)
    return (vector_D / np.linalg.norm(vector_D)).astype(np.float32)


class Embedder:
    """By content, and counts what it embeds."""

    def __init__(self) -> None:
        self.pictures = 0

    def images(self, task: str, items: Items) -> np.ndarray:
        self.pictures += len(items.png)
        image_NHWC = items.decode(0, len(items.png))
        assert image_NHWC.shape == (len(items.png), 32, 32, 3)
        return np.stack([vector(png) for png in items.png])

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        assert len(set(texts)) == len(texts)
        return np.stack([vector(text) for text in texts])


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CxC's files as they are published, of eight pictures, and data sets of them."""
    path = tmp_path_factory.mktemp('cxc')
    (path / 'val2014').mkdir()
    for number in range(COUNT):
        (path / 'val2014' / name(number)).write_bytes(encoded(picture(number), 'JPEG'))
    entries = [
        {'filepath': 'val2014', 'filename': name(number), 'split': 'test', 'sentids': [2 * number],
         'sentences': [{'sentid': s, 'raw': said(s)} for s in (2 * number, 2 * number + 1)]}
        for number in range(COUNT)
    ]  # fmt: skip
    (path / 'coco.json').write_text(json.dumps({'images': entries}))
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in range(COUNT) for b in range(COUNT) if a != b and rng.random() < 0.5]
    # As in the published file, a pair of pictures may be there the other way round.
    pairs = sorted({*pairs, (0, 1), (1, 0)})
    kinds: dict[str, Any] = {
        'sts': ('caption1,caption2', lambda x: f'{SENTENCE}{2 * x}',
                lambda y: f'{SENTENCE}{2 * y + 1}'),
        'sis': ('image1,image2', name, name),
        'sits': ('caption,image', lambda x: f'{SENTENCE}{x}', name),
    }  # fmt: skip
    for kind, (header, left, right) in kinds.items():
        rows = [f'{left(a)},{right(b)},{rng.uniform(0, 5):.2f},method\n' for a, b in pairs]
        (path / f'{kind}_test.csv').write_text(f'{header}{HEADER}{"".join(rows)}')
    images, data = (str(path / 'val2014'),), path / 'data'
    captions = str(path / 'coco.json')
    for kind, more in {'sts': {}, 'sits': {'images': images}}.items():
        file = (str(path / f'{kind}_test.csv'),)
        reader = CrissCrossed(ratings=file, captions=captions, **more)
        ingest(reader, f'cxc_{kind}', data, Limits(), 0.0)
    ingest(Karpathy(captions=captions, images=images), 'coco', data, Limits(), 0.0)
    return path


def sources(folder: Path) -> Sources:
    return Sources(Embedder(), folder / 'data', 32, 32, None, lambda _: None)  # type: ignore


def by_hand(folder: Path, kind: str, left: Any, right: Any) -> float:
    rows = [line.split(',') for line in (folder / f'{kind}_test.csv').read_text().split()[1:]]
    cosines = [left(row[0]) @ right(row[1]) for row in rows]
    return 100 * stats.spearmanr(cosines, [float(row[2]) for row in rows]).statistic


def text_of(sentid: str) -> np.ndarray:
    return vector(said(int(sentid.rpartition(':')[2])))


@pytest.fixture
def image_of(folder: Path) -> Any:
    items = sources(folder).items('captions/coco', 'test', '', images=True)
    found = dict(zip(items.ids, items.png))
    return lambda file: vector(found[file])


def test_two_captions(folder: Path) -> None:
    one = Similarity(dataset='translations/cxc_sts', split='test', task='t')
    scored = one(sources(folder), ['de'])
    (row,) = scored.results.values()
    assert set(scored.results) == {'en'} and row['pairs'] == scored.size
    assert row['spearman'] == pytest.approx(by_hand(folder, 'sts', text_of, text_of))


def test_a_picture_and_a_caption(folder: Path, image_of: Any) -> None:
    sides = ('image', 'caption')
    one = Similarity(dataset='captions/cxc_sits', split='test', task='t', sides=sides)
    read = sources(folder)
    row = one(read, []).results['en']
    assert row['spearman'] == pytest.approx(by_hand(folder, 'sits', text_of, image_of))
    assert read.embedder.pictures <= COUNT < row['pairs']  # each once
    other = dataclasses.replace(one, sides=sides[::-1])(read, []).results['en']
    assert other['spearman'] == pytest.approx(row['spearman'])  # another side is the query
    assert other['spearman_bootstrap_mean'] != row['spearman_bootstrap_mean']


def pictures(folder: Path, file: str = 'sis_test.csv', **more: Any) -> Similarity:
    options = {'dataset': 'captions/coco', 'split': 'test', 'sides': ('image', 'image')} | more
    return Similarity(task='t', ratings=str(folder / file), **options)


def test_two_pictures(folder: Path, image_of: Any) -> None:
    read = sources(folder)
    row = pictures(folder)(read, []).results['all']
    assert row['spearman'] == pytest.approx(by_hand(folder, 'sis', image_of, image_of))
    assert read.embedder.pictures == COUNT
    assert row['spearman_bootstrap_std'] > 0


def test_two_texts_of_a_table(tmp_path: Path) -> None:
    """STS-B's layout."""
    file = tmp_path / 'test.tsv'
    rng = np.random.default_rng(1)
    rows = [(f'One {i % 5}.', f'Other {i}.', float(rng.integers(0, 6))) for i in range(20)]
    lines = ['sentence1\tsentence2\tscore', *('\t'.join(map(str, row)) for row in rows)]
    file.write_text('\n'.join(lines))
    more: dict[str, Any] = dict(dataset='stsb', split='test', task='t', ratings=str(file))
    scored = Similarity(score='score', languages=('en',), **more)(sources(tmp_path), [])
    cosines = [vector(a) @ vector(b) for a, b, _ in rows]
    wanted = 100 * stats.spearmanr(cosines, [row[2] for row in rows]).statistic
    assert scored.results['en']['spearman'] == pytest.approx(wanted)
    with pytest.raises(UserError, match='says no language'):
        Similarity(score='score', **more)
    with pytest.raises(UserError, match="no column \\['agg_score'\\]"):
        Similarity(languages=('en',), **more)(sources(tmp_path), [])


def test_scores_are_written(folder: Path, tmp_path: Path) -> None:
    suite = load_config('evaluation:crisscrossed', [])
    evaluators = {
        name: build.build(EVALUATORS, node, name) for name, node in suite['evaluators'].items()
    }
    evaluators['similarity_sis'] = pictures(folder)
    found, _ = scores.score(
        evaluators, suite['languages'], sources(folder), tmp_path / '0.json'
    )  # fmt: skip
    again = scores.read_file(tmp_path / '0.json')
    assert again.results == found.results
    assert list(again.results['similarity_sis']) == ['all']
    assert again.protocol['similarity_sits']['compared'] == ['image', 'caption']


@pytest.mark.parametrize('levels', [3, 1000])
def test_spearman_is_that_of_scipy(levels: int) -> None:
    """With and without ties."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, levels, 60), rng.integers(0, levels, 60)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert np.isnan(spearman(a, np.zeros(60)))


def test_a_sample_is_half_of_the_queries_with_a_pair_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    query_P = numbered(rng.integers(0, 9, 60).tolist())
    place_P = np.arange(60.0)  # tells which pair it is
    drawn = []
    monkeypatch.setattr(correlation, 'spearman', lambda a, b: drawn.append(a.astype(int)) or 0.5)
    sampled(place_P, place_P, query_P, draws=400)
    for pair_H in drawn:
        assert len(pair_H) == 4 and len({query_P[pair] for pair in pair_H}) == 4
    # A pair of a query with n of them comes in one of n draws that have the query, half of all.
    counts = np.bincount(np.concatenate(drawn), minlength=60)
    wanted = 400 * 4 / 9 / np.bincount(query_P)[query_P]
    assert np.abs(counts - wanted).max() < 5 * np.sqrt(wanted.max())


def test_the_spread_is_that_of_as_many_pairs() -> None:
    """Normal pairs with correlation r: about (1 - r^2) / sqrt(n) of the n that are drawn."""
    rng = np.random.default_rng(4)
    cosine_P = rng.normal(size=4000)
    rating_P = 0.7 * cosine_P + np.sqrt(1 - 0.49) * rng.normal(size=4000)
    query_P = np.repeat(np.arange(800), 5)
    drawn = sampled(cosine_P, rating_P, query_P)
    assert drawn.mean() == pytest.approx(spearman(cosine_P, rating_P), abs=0.01)
    assert 0.7 < drawn.std() / ((1 - 0.49) / np.sqrt(400)) < 1.4
    np.testing.assert_array_equal(drawn, sampled(cosine_P, rating_P, query_P))


def units(count: int) -> np.ndarray:
    return np.stack([vector(number) for number in range(count)])


@pytest.mark.parametrize(
    ('rating', 'left', 'message'),
    [
        ([1, 2], units(2), 'has 2 rated pairs; 3'),
        ([1, np.nan, 2], units(3), '1 of 3 examples of here have no rating'),
        ([2, 2, 2], units(3), 'All ratings of here are 2'),
        ([1, 2, 3], units(1)[[0, 0, 0]], 'same similarity'),
    ],
)
def test_what_cannot_correlate_is_refused(rating: list, left: np.ndarray, message: str) -> None:
    right_PD = np.tile(vector('x'), (len(rating), 1))
    with pytest.raises(UserError, match=message):
        agreement(Rated(left, right_PD, np.array(rating, float), np.arange(len(rating))), 'here')


def test_few_queries_have_no_sample() -> None:
    rated = Rated(units(3), np.tile(vector('x'), (3, 1)), np.arange(3.0), np.arange(3))
    assert set(agreement(rated, 'here')) == {'spearman', 'pairs'}


def test_mistakes_in_tables_are_told(folder: Path, tmp_path: Path) -> None:
    text = (folder / 'sis_test.csv').read_text()
    first = text.split()[1]
    for wrong, message in (
        (text + first, r'rates 1 pairs more than once'),
        (text + f'{name(2)},{name(2)},nan,x', r'a number as agg_score'),
        (text + f'{name(2)},,3,x', r'image1, image2 and a number'),
        (text + f'{name(2)},other.jpg,3,x', r'1 pictures .* are not in captions/coco:test'),
    ):
        (tmp_path / 'wrong.csv').write_text(wrong)
        with pytest.raises(UserError, match=message):
            pictures(folder, str(tmp_path / 'wrong.csv'))(sources(folder), [])
    with pytest.raises(UserError, match='no column'):
        read_ratings(str(folder / 'sts_test.csv'), ('image1', 'image2'), 'agg_score')


def test_ratings_that_were_read_twice_are_told(folder: Path) -> None:
    read = sources(folder)
    sets = {
        'translations/cxc_sts': ('sentence1', 'sentence2'),
        'captions/cxc_sits': ('image', 'caption'),
    }
    for dataset, sides in sets.items():
        one = Similarity(dataset=dataset, split='test', task='t', sides=sides)
        kind, pictured = sides[-1], 'image' in sides
        items = read.items(one.dataset, 'test', kind, images=pictured)
        texts = [[texts['en'] for texts in items.names]]
        one._check(items.ids, texts, pictured)
        with pytest.raises(UserError, match='more than once'):
            one._check(items.ids * 2, [texts[0] * 2], pictured)


def test_sides_that_do_not_go_together() -> None:
    for sides, ratings in (
        (('image', 'image'), ''), (('image', 'caption'), 'x.csv'), (('caption',), ''),
    ):  # fmt: skip
        with pytest.raises(UserError):
            Similarity(dataset='a/b', split='test', task='t', sides=sides, ratings=ratings)
