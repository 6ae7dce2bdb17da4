"""Agreement with ratings: the three layouts of Crisscrossed Captions, and tables of pairs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.datasets import draw_image, encode_image
from evaluation.oracles import direction_of
from scipy import stats

from mural_jax.config import build
from mural_jax.config.load import load_config
from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sources.crisscrossed import CrissCrossed
from mural_jax.data.sources.published import Karpathy
from mural_jax.evaluation import scores
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.evaluation.evaluators.ratings import (
    RatedSimilarity,
    read_ratings,
    require_unique_pairs,
)
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError

COUNT = 8  # images, two captions each
SENTENCE = 'COCO_val2014:sentid:'
HEADER = ',agg_score,sampling_method\n'


def file_name(number: int) -> str:
    return f'COCO_val2014_{number:012d}.jpg'


def caption(sentence: int) -> str:
    return f'Caption {sentence}.'


class CountingEmbedder:
    """Embeds by content, and counts the images it embeds."""

    def __init__(self) -> None:
        self.image_count = 0

    def embed_images(self, space: str, examples: SplitExamples) -> np.ndarray:
        self.image_count += len(examples.pngs)
        image_NHWC = examples.decode(0, len(examples.pngs))
        assert image_NHWC.shape == (len(examples.pngs), 32, 32, 3)
        return np.stack([direction_of(png) for png in examples.pngs])

    def embed_texts(self, space: str, texts: list[str]) -> np.ndarray:
        assert len(set(texts)) == len(texts)
        return np.stack([direction_of(text) for text in texts])


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CxC's files as they are published, for eight images, and data sets made of them."""
    path = tmp_path_factory.mktemp('cxc')
    (path / 'val2014').mkdir()
    for number in range(COUNT):
        content = encode_image(draw_image(number), 'JPEG')
        (path / 'val2014' / file_name(number)).write_bytes(content)
    entries = [
        {
            'filepath': 'val2014',
            'filename': file_name(number),
            'split': 'test',
            'sentids': [2 * number],
            'sentences': [{'sentid': s, 'raw': caption(s)} for s in (2 * number, 2 * number + 1)],
        }
        for number in range(COUNT)
    ]
    (path / 'coco.json').write_text(json.dumps({'images': entries}))
    write_ratings(path)
    images, data = (str(path / 'val2014'),), path / 'data'
    captions = str(path / 'coco.json')
    for kind, more in {'sts': {}, 'sits': {'images': images}}.items():
        ratings = (str(path / f'{kind}_test.csv'),)
        reader = CrissCrossed(ratings=ratings, captions=captions, **more)
        ingest(reader, f'cxc_{kind}', data, RecordLimits(), 0.0)
    ingest(Karpathy(captions=captions, images=images), 'coco', data, RecordLimits(), 0.0)
    return path


def write_ratings(path: Path) -> None:
    """Writes sts_test.csv, sis_test.csv and sits_test.csv."""
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in range(COUNT) for b in range(COUNT) if a != b and rng.random() < 0.5]
    # As in the published file, a pair of images may stand in both orders.
    pairs = sorted({*pairs, (0, 1), (1, 0)})
    kinds: dict[str, Any] = {
        'sts': (
            'caption1,caption2',
            lambda x: f'{SENTENCE}{2 * x}',
            lambda y: f'{SENTENCE}{2 * y + 1}',
        ),
        'sis': ('image1,image2', file_name, file_name),
        'sits': ('caption,image', lambda x: f'{SENTENCE}{x}', file_name),
    }
    for kind, (header, left, right) in kinds.items():
        rows = [f'{left(a)},{right(b)},{rng.uniform(0, 5):.2f},method\n' for a, b in pairs]
        (path / f'{kind}_test.csv').write_text(f'{header}{HEADER}{"".join(rows)}')


def open_data(folder: Path) -> SplitData:
    return SplitData(CountingEmbedder(), folder / 'data', 32, 32, None, lambda _: None)  # type: ignore


def correlate_file(folder: Path, kind: str, left: Any, right: Any) -> float:
    """The correlation of a published file; `left` and `right` embed its columns."""
    rows = [line.split(',') for line in (folder / f'{kind}_test.csv').read_text().split()[1:]]
    cosines = [left(row[0]) @ right(row[1]) for row in rows]
    return 100 * stats.spearmanr(cosines, [float(row[2]) for row in rows]).statistic


def embed_sentence(sentid: str) -> np.ndarray:
    return direction_of(caption(int(sentid.rpartition(':')[2])))


@pytest.fixture
def embed_file(folder: Path) -> Any:
    examples = open_data(folder).read_examples('captions/coco', 'test', '', images=True)
    content = dict(zip(examples.ids, examples.pngs))
    return lambda file: direction_of(content[file])


def rate_images(folder: Path, file: str = 'sis_test.csv', **more: Any) -> RatedSimilarity:
    options = {'dataset': 'captions/coco', 'split': 'test', 'sides': ('image', 'image')} | more
    return RatedSimilarity(space='t', ratings=str(folder / file), **options)


SITS = RatedSimilarity(
    dataset='captions/cxc_sits', split='test', space='t', sides=('image', 'caption')
)


def test_two_captions_of_an_example_are_compared(folder: Path) -> None:
    evaluator = RatedSimilarity(dataset='translations/cxc_sts', split='test', space='t')
    evaluation = evaluator(open_data(folder), ['de'])
    (row,) = evaluation.results.values()
    assert set(evaluation.results) == {'en'} and row['pairs'] == evaluation.size
    expected = correlate_file(folder, 'sts', embed_sentence, embed_sentence)
    assert row['spearman'] == pytest.approx(expected)


def test_image_and_caption_are_compared(folder: Path, embed_file: Any) -> None:
    data = open_data(folder)
    row = SITS(data, []).results['en']
    expected = correlate_file(folder, 'sits', embed_sentence, embed_file)
    assert row['spearman'] == pytest.approx(expected)
    assert data.embedder.image_count <= COUNT < row['pairs']  # Each image once.


def test_first_side_is_the_query_of_the_bootstrap(folder: Path) -> None:
    row = SITS(open_data(folder), []).results['en']
    swapped = dataclasses.replace(SITS, sides=('caption', 'image'))
    other = swapped(open_data(folder), []).results['en']
    assert other['spearman'] == pytest.approx(row['spearman'])
    assert other['spearman_bootstrap_mean'] != row['spearman_bootstrap_mean']


def test_two_images_of_a_table_are_compared(folder: Path, embed_file: Any) -> None:
    data = open_data(folder)
    row = rate_images(folder)(data, []).results['all']
    expected = correlate_file(folder, 'sis', embed_file, embed_file)
    assert row['spearman'] == pytest.approx(expected)
    assert data.embedder.image_count == COUNT
    assert row['spearman_bootstrap_std'] > 0


@pytest.fixture
def text_table(tmp_path: Path) -> tuple[list[tuple[str, str, float]], dict[str, Any]]:
    """(rows, options of an evaluator) of a table in STS-B's layout."""
    rng = np.random.default_rng(1)
    rows = [(f'One {i % 5}.', f'Other {i}.', float(rng.integers(0, 6))) for i in range(20)]
    lines = ['sentence1\tsentence2\tscore', *('\t'.join(map(str, row)) for row in rows)]
    file = tmp_path / 'test.tsv'
    file.write_text('\n'.join(lines))
    return rows, dict(dataset='stsb', split='test', space='t', ratings=str(file))


def test_two_texts_of_a_table_are_compared(text_table: Any, tmp_path: Path) -> None:
    rows, options = text_table
    evaluator = RatedSimilarity(score='score', languages=('en',), **options)
    results = evaluator(open_data(tmp_path), []).results
    cosines = [direction_of(a) @ direction_of(b) for a, b, _ in rows]
    expected = 100 * stats.spearmanr(cosines, [row[2] for row in rows]).statistic
    assert results['en']['spearman'] == pytest.approx(expected)


def test_table_of_texts_needs_one_language(text_table: Any) -> None:
    _, options = text_table
    with pytest.raises(UserError, match='does not state its language'):
        RatedSimilarity(score='score', **options)


def test_missing_column_of_ratings_is_named(text_table: Any, tmp_path: Path) -> None:
    _, options = text_table
    with pytest.raises(UserError, match="no column \\['agg_score'\\]"):
        RatedSimilarity(languages=('en',), **options)(open_data(tmp_path), [])


def test_suite_is_scored_and_read_back(folder: Path, tmp_path: Path) -> None:
    suite = load_config('evaluation:crisscrossed', [])
    evaluators = {
        name: build.build(EVALUATORS, node, name) for name, node in suite['evaluators'].items()
    }
    evaluators['similarity_sis'] = rate_images(folder)
    path = tmp_path / '0.json'
    written, _ = scores.score(evaluators, suite['languages'], open_data(folder), path)
    read = scores.read_file(path)
    assert read.results == written.results
    assert list(read.results['similarity_sis']) == ['all']
    assert read.protocol['similarity_sits']['compared'] == ['image', 'caption']
    assert read.headline('similarity_sts') == 'spearman'


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{first}', r'rates 1 pairs more than once'),
        ('{two},{two},nan,x', r'a number as agg_score'),
        ('{two},,3,x', r'image1, image2 and a number'),
        ('{two},other.jpg,3,x', r'1 images .* are not in captions/coco:test'),
    ],
)
def test_wrong_row_is_named(line: str, message: str, folder: Path, tmp_path: Path) -> None:
    text = (folder / 'sis_test.csv').read_text()
    wrong = text + line.format(first=text.split()[1], two=file_name(2))
    (tmp_path / 'wrong.csv').write_text(wrong)
    with pytest.raises(UserError, match=message):
        rate_images(folder, str(tmp_path / 'wrong.csv'))(open_data(folder), [])


def test_table_of_other_pairs_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match='no column'):
        read_ratings(str(folder / 'sts_test.csv'), ('image1', 'image2'), 'agg_score')


@pytest.mark.parametrize(
    ('dataset', 'kind', 'has_image'),
    [('translations/cxc_sts', 'sentence2', False), ('captions/cxc_sits', 'caption', True)],
)
def test_data_with_every_pair_twice_is_refused(
    dataset: str, kind: str, has_image: bool, folder: Path
) -> None:
    examples = open_data(folder).read_examples(dataset, 'test', kind, images=has_image)
    texts = [texts['en'] for texts in examples.first_texts]
    require_unique_pairs(examples.ids, [texts], has_image, 'here')
    with pytest.raises(UserError, match='here rates .* more than once'):
        require_unique_pairs(examples.ids * 2, [texts * 2], has_image, 'here')


@pytest.mark.parametrize(
    ('sides', 'ratings'),
    [(('image', 'image'), ''), (('image', 'caption'), 'x.csv'), (('caption',), '')],
)
def test_sides_that_do_not_fit_are_refused(sides: tuple[str, ...], ratings: str) -> None:
    with pytest.raises(UserError):
        RatedSimilarity(dataset='a/b', split='test', space='t', sides=sides, ratings=ratings)
