"""The page about streams: its counts are those of the data, its batches those of training."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from data.datasets import draw_image, encode_image, write_captions

from mural_jax.config.load import load_config
from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.pages import contents, histograms, inspect
from mural_jax.data.reading.pool import Pool
from mural_jax.data.reading.selection import ensure_filters
from mural_jax.data.reading.stream import open_stream
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.filter_settings import Filters
from mural_jax.data.sets.records import Records
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.data.tokenizer import Tokenizer, Vocabulary, train_vocabulary
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run

TEXTS = ['a red fruit', 'ein roter Apfel', 'une pomme rouge', 'un fruto rojo', 'red apple'] * 9


@pytest.fixture(scope='module')
def run() -> Run:
    return Run.of(load_config('emoji:tiny', []))


@pytest.fixture(scope='module')
def tokenizer(data_dir: Path, run: Run) -> Tokenizer:
    return Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)


@pytest.fixture(scope='module')
def page(
    data_dir: Path, run: Run, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> str:
    out = tmp_path_factory.mktemp('page') / 'data.html'
    assert inspect.write_page(run.streams, data_dir, tokenizer, run.seed, out) == out
    return out.read_text(encoding='utf-8')


def test_counts_equal_those_of_the_records(data_dir: Path, run: Run) -> None:
    spec = run.streams['captions']
    (source,) = contents.describe_sources(spec, Pool(spec, data_dir))
    records = Records('emoji_cldr/pictures', 'train', data_dir)
    count: dict[str, int] = {}
    for example in records.examples(image=False):
        for language, kinds in example['texts'].items():
            count[language] = count.get(language, 0) + sum(map(len, kinds.values()))
    assert {row.language: row.all_texts for row in source.languages} == count
    assert [row.all_texts for row in source.languages] == sorted(count.values(), reverse=True)
    assert source.records == len(records) - source.bad


def test_shares_equal_those_of_the_draws(data_dir: Path, run: Run) -> None:
    for spec in run.streams.values():
        pool = Pool(spec, data_dir)
        rows = [row for source in contents.describe_sources(spec, pool) for row in source.languages]
        np.testing.assert_allclose(sum(row.share for row in rows), 1.0)
        np.testing.assert_allclose(sum(row.before for row in rows), 1.0)
        drawn = {row.language for row in rows if row.share}
        assert drawn == {label.split('/')[1] for label in pool.labels}


def test_page_needs_no_network(page: str) -> None:
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_page_shows_both_streams(page: str) -> None:
    assert all(f'id="{name}"' in page for name in ('captions', 'translations'))
    assert page.count('<img') > 24 + 2 * 16
    assert re.search(r'lang="ar" dir="auto">[^<]*[\u0600-\u06ff]', page)


def test_batches_equal_those_of_training(
    data_dir: Path, run: Run, tokenizer: Tokenizer, page: str
) -> None:
    # `mural train` gives this seed to the second stream of a config.
    stream = open_stream(run.streams['translations'], data_dir, tokenizer, run.seed * 1009 + 1)
    for batch in stream.batches(0, 2):
        for row in (0, 15):
            assert ' '.join(map(str, batch['ids'][row])) in page
            assert html.escape(tokenizer.decode(batch['source'][row])) in html.unescape(page)


def test_caption_counts_cut_texts() -> None:
    lengths = np.array([3, 4, 5, 6])
    assert histograms.draw_token_histogram(lengths, 4).caption.startswith('50.0% of 4 texts')


def test_captions_count_small_and_elongated_images(data_dir: Path) -> None:
    records = Records('emoji_cldr/pictures', 'train', data_dir)
    side, ratio = histograms.draw_image_histograms([records], 65)
    assert side.caption.startswith('100.0% of')
    assert ratio.caption.startswith('0.0%')


@pytest.mark.parametrize(
    ('kind', 'ids'),
    [
        ('sentencepiece', {'pad_id': 0, 'unk_id': 1, 'bos_id': 2, 'eos_id': 3}),
        ('xlm_r', {'unk_id': 0, 'bos_id': 1, 'eos_id': 2}),
        ('siglip', {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}),
    ],
)
def test_tokens_are_decoded_to_text(kind: str, ids: dict[str, int], tmp_path: Path) -> None:
    import sentencepiece

    prefix = tmp_path / 'published'
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(prefix),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    special = {'bos': True, 'eos': True} if kind == 'sentencepiece' else {}
    tokenizer = Tokenizer.load(
        prefix.with_suffix('.model'), Vocabulary(vocab_size=99, kind=kind, **special)
    )
    assert [tokenizer.decode(row) for row in tokenizer(['red apple', 'un fruto rojo'], 40)] == [
        'red apple',
        'un fruto rojo',
    ]


def test_byte_tokens_are_decoded_to_characters() -> None:
    tokenizer = train_vocabulary(TEXTS, Vocabulary(vocab_size=320))
    assert tokenizer.decode(tokenizer(['red 漢'], 20)[0]) == 'red 漢'


def test_dropped_and_bad_records_are_listed_with_reasons(tmp_path: Path) -> None:
    wide = {f'{number}.png': encode_image(draw_image(number, (200, 72))) for number in range(3)}
    images = wide | {'good.png': encode_image(draw_image(9)), 'bad.png': b'no image'}
    rows = [(name, 'en', f'a caption of {name}') for name in images]
    name = ingest(
        write_captions(tmp_path, images, rows), 'made', tmp_path, RecordLimits(), max_bad=1.0
    )
    filters = Filters(max_aspect=2.0)
    spec = Captions({'made': StreamSource(name, filters=filters)}, (), batch_size=1)
    ensure_filters(spec, tmp_path)
    (drops,) = contents.describe_drops(spec, tmp_path)
    assert drops.filters == {'max_aspect': 2.0}
    assert drops.dropped == [('max_aspect', 'images', 3, 3 / 5)]
    ((reason, count, places),) = drops.bad
    assert (reason, count, len(places)) == ('image is not readable', 1, 1)
    (source,) = contents.describe_sources(spec, Pool(spec, tmp_path))
    assert (source.records, source.bad) == (4, 1)
    assert [(row.records, row.drawable, row.share) for row in source.languages] == [(4, 1, 1.0)]
