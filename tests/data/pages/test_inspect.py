"""The page about streams: counts as they are in the data, batches as training gets them."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from data.datasets import draw_image, encode_image, write_captions

from mural_jax.config.load import load_config
from mural_jax.data import tokenizer
from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.pages import contents, histograms, inspect
from mural_jax.data.reading.pool import Pool
from mural_jax.data.reading.selection import ensure_filters
from mural_jax.data.reading.stream import open_stream
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.filter_settings import Filters
from mural_jax.data.sets.records import Records
from mural_jax.data.streams.base import Stream, StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.data.tokenizer import Tokenizer, Vocabulary
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run

TEXTS = ['a red fruit', 'ein roter Apfel', 'une pomme rouge', 'un fruto rojo', 'red apple'] * 9


def opened(data_dir: Path) -> tuple[Run, Tokenizer, dict[str, Stream]]:
    run = Run.of(load_config('emoji:tiny', []))
    read = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
    return run, read, run.streams


@pytest.fixture(scope='module')
def page(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run, read, streams = opened(data_dir)
    out = tmp_path_factory.mktemp('page') / 'data.html'
    assert inspect.write_page(streams, data_dir, read, run.seed, out) == out
    return out.read_text(encoding='utf-8')


def test_counts_are_those_of_the_records(data_dir: Path) -> None:
    _, _, streams = opened(data_dir)
    spec = streams['captions']
    (held,) = contents.describe_sources(spec, Pool(spec, data_dir))
    records = Records('emoji_cldr/pictures', 'train', data_dir)
    count: dict[str, int] = {}
    for example in records.examples(image=False):
        for language, kinds in example['texts'].items():
            count[language] = count.get(language, 0) + sum(map(len, kinds.values()))
    assert {row.language: row.all_texts for row in held.languages} == count
    assert [row.all_texts for row in held.languages] == sorted(count.values(), reverse=True)
    assert held.records == len(records) - held.bad


def test_shares_are_those_of_the_draws(data_dir: Path) -> None:
    _, _, streams = opened(data_dir)
    for spec in streams.values():
        pool = Pool(spec, data_dir)
        rows = [row for held in contents.describe_sources(spec, pool) for row in held.languages]
        np.testing.assert_allclose(sum(row.share for row in rows), 1.0)
        np.testing.assert_allclose(sum(row.before for row in rows), 1.0)
        drawn = {row.language for row in rows if row.share}
        assert drawn == {label.split('/')[1] for label in pool.labels}


def test_the_page_needs_no_network_and_shows_both_streams(page: str) -> None:
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert all(f'id="{name}"' in page for name in ('captions', 'translations'))
    assert page.count('<img') > 24 + 2 * 16
    assert re.search(r'lang="ar" dir="auto">[^<]*[\u0600-\u06ff]', page)


def test_batches_are_those_of_training(data_dir: Path, page: str) -> None:
    run, read, streams = opened(data_dir)
    # The second of the config's streams, as `mural train` numbers them.
    stream = open_stream(streams['translations'], data_dir, read, run.seed * 1009 + 1)
    for batch in stream.batches(0, 2):
        for row in (0, 15):
            assert ' '.join(map(str, batch['ids'][row])) in page
            assert html.escape(read.decode(batch['source'][row])) in html.unescape(page)


def test_cut_texts_are_counted(data_dir: Path) -> None:
    lengths = np.array([3, 4, 5, 6])
    assert histograms.draw_token_histogram(lengths, 4).caption.startswith('50.0% of 4 texts')
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
def test_tokens_become_text_again(kind: str, ids: dict[str, int], tmp_path: Path) -> None:
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
    marks = {'bos': True, 'eos': True} if kind == 'sentencepiece' else {}
    read = Tokenizer.load(
        prefix.with_suffix('.model'), Vocabulary(vocab_size=99, kind=kind, **marks)
    )
    assert [read.decode(row) for row in read(['red apple', 'un fruto rojo'], 40)] == [
        'red apple',
        'un fruto rojo',
    ]


def test_bytes_become_characters_again() -> None:
    read = tokenizer.train_vocabulary(TEXTS, Vocabulary(vocab_size=320))
    assert read.decode(read(['red 漢'], 20)[0]) == 'red 漢'


def test_what_is_left_out_is_said_with_its_reason(tmp_path: Path) -> None:
    wide = {f'{number}.png': encode_image(draw_image(number, (200, 72))) for number in range(3)}
    pictures = wide | {'good.png': encode_image(draw_image(9)), 'bad.png': b'no picture'}
    rows = [(name, 'en', f'a caption of {name}') for name in pictures]
    name = ingest(
        write_captions(tmp_path, pictures, rows), 'made', tmp_path, RecordLimits(), max_bad=1.0
    )
    filters = Filters(max_aspect=2.0)
    spec = Captions({'made': StreamSource(name, filters=filters)}, (), batch_size=1)
    ensure_filters(spec, tmp_path)
    (lost,) = contents.describe_drops(spec, tmp_path)
    assert lost.filters == {'max_aspect': 2.0}
    assert lost.dropped == [('max_aspect', 'images', 3, 3 / 5)]
    ((reason, count, places),) = lost.bad
    assert (reason, count, len(places)) == ('image is not readable', 1, 1)
    (held,) = contents.describe_sources(spec, Pool(spec, tmp_path))
    assert (held.records, held.bad) == (4, 1)
    assert [(row.records, row.drawable, row.share) for row in held.languages] == [(4, 1, 1.0)]
