"""Mixed sources: the same for any number of processes and from anywhere, whole epochs, shares."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from data.batches import assert_batches_equal, join_batches
from data.datasets import (
    LetterTokenizer,
    draw_image,
    encode_image,
    ingest_captions,
    ingest_translations,
    read_letters,
)

from mural_jax.data.reading.order import BLOCK
from mural_jax.data.reading.stream import OpenStream, open_stream
from mural_jax.data.streams.base import DrawnExamples, Field, Stream, StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.data.streams.translations import Translations
from mural_jax.training.feed import Feed
from mural_jax.types import Batch, UserError

SIZE = 16
# Number of texts of each language in each source.
HELD = {
    'big': {'en': 60, 'de': 25, 'sw': 7},
    'small': {'en': 11, 'sw': 3, 'ta': 1},
    'news': {'de': 40, 'sw': 9},
    'books': {'de': 5, 'ta': 12},
}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets of HELD; each text names its data set, its language and its number."""
    folder = tmp_path_factory.mktemp('mixed')
    for number, name in enumerate(('big', 'small')):
        images = {
            f'{n}.png': encode_image(draw_image(n + 100 * number, (24, 20))) for n in range(70)
        }
        rows = [
            (f'{n}.png', language, f'{name} {language} {n}')
            for language, count in HELD[name].items()
            for n in range(count)
        ]
        ingest_captions(folder, name, images, rows)
    for name in ('news', 'books'):
        pairs = [
            {'en': f'{name} en {language}{n}', language: f'{name} {language} {n}'}
            for language, count in HELD[name].items()
            for n in range(count)
        ]
        ingest_translations(folder, name, pairs)
    return folder


def make_captions(**fields: Any) -> Captions:
    sources = {'a': StreamSource('captions/big', weight=2.0), 'b': StreamSource('captions/small')}
    fields = {'alpha': 0.5, 'area': 0.3, **fields}
    return Captions(sources, ('en', 'de', 'sw', 'ta'), SIZE, image_size=8, **fields)


def make_translations(**fields: Any) -> Translations:
    sources = {
        'a': StreamSource('translations/news'),
        'b': StreamSource('translations/books', weight=0.5),
    }
    return Translations(sources, ('de', 'sw', 'ta'), SIZE, **{'alpha': 0.7, **fields})


MakeStream = Callable[..., Stream]
BOTH_KINDS = pytest.mark.parametrize('make_stream', [make_captions, make_translations])


def open_mixed(stream: Stream, data_dir: Path) -> OpenStream:
    return open_stream(stream, data_dir, LetterTokenizer(), seed=3)


@BOTH_KINDS
@pytest.mark.parametrize('position', [48, BLOCK - 2 * SIZE])
def test_processes_share_the_global_batches(
    data_dir: Path, make_stream: MakeStream, position: int
) -> None:
    stream = open_mixed(make_stream(), data_dir)
    whole = list(stream.batches(position, 4))
    assert len(whole) == 4
    row_B = np.arange(SIZE)
    # Rows that follow each other, and rows of processes whose devices take turns in the mesh.
    for rows in (np.split(row_B, 4), [row_B[row_B % 4 < 2], row_B[row_B % 4 >= 2]]):
        for own in rows:
            for batch, part in zip(whole, stream.batches(position, 4, own), strict=True):
                assert_batches_equal({key: value[own] for key, value in batch.items()}, part)


@BOTH_KINDS
def test_stream_continues_the_same_from_any_position(
    data_dir: Path, make_stream: MakeStream
) -> None:
    """Also with another number of processes, and from a position between two steps."""
    first = join_batches(list(open_mixed(make_stream(), data_dir).batches(0, 12)))
    for position in np.random.default_rng(1).integers(1, 10 * SIZE, 2).tolist():
        parts = [
            list(open_mixed(make_stream(), data_dir).batches(position, 2, row_B))
            for row_B in np.split(np.arange(SIZE), 2)
        ]
        tail = join_batches([part[step] for step in range(2) for part in parts])
        end = position + 2 * SIZE
        assert_batches_equal({key: value[position:end] for key, value in first.items()}, tail)


@BOTH_KINDS
def test_far_position_is_read_at_once(data_dir: Path, make_stream: MakeStream) -> None:
    start = time.perf_counter()
    far = next(iter(open_mixed(make_stream(), data_dir).batches(10**9, 1)))
    seconds = time.perf_counter() - start
    print(f'{make_stream.__name__}: opened and read at 10^9 in {seconds:.2f} s')
    assert_batches_equal(far, next(iter(open_mixed(make_stream(), data_dir).batches(10**9, 1))))
    before = list(open_mixed(make_stream(), data_dir).batches(10**9 - SIZE, 2))
    assert_batches_equal(far, before[1])
    assert any((far[key] != before[0][key]).any() for key in far)


def texts_by_origin(batches: Sequence[Batch], field: str) -> dict[int, list[str]]:
    """The texts of a field in the order in which they are drawn, by origin."""
    found = defaultdict(list)
    for batch in batches:
        for origin, text in zip(batch['origin'].tolist(), read_letters(batch[field])):
            found[origin].append(text)
    return found


def dataset_names(stream: OpenStream) -> dict[str, str]:
    """The name of the data set of each source."""
    return {name: source.dataset.split('/')[1] for name, source in stream.settings.sources.items()}


def count_epochs(stream: OpenStream, batches: Sequence[Batch], field: str) -> int:
    """Number of epochs of all labels; checks that each has every text once, in its own order."""
    names, epochs = dataset_names(stream), 0
    for origin, texts in texts_by_origin(batches, field).items():
        source, language = stream.labels[origin].split('/')
        count = HELD[names[source]][language]
        expected = {f'{names[source]} {language} {n}' for n in range(count)}
        parts = [texts[i : i + count] for i in range(0, len(texts) - count + 1, count)]
        assert all(set(part) == expected for part in parts)
        assert len({*map(tuple, parts)}) == len(parts) or count < 5
        epochs += len(parts)
    return epochs


@BOTH_KINDS
def test_every_record_of_a_label_comes_once_an_epoch(
    data_dir: Path, make_stream: MakeStream
) -> None:
    stream = open_mixed(make_stream(), data_dir)
    batches = list(stream.batches(0, 40))
    field = next(name for name in ('text', 'source') if name in batches[0])
    count_epochs(stream, batches, field)
    assert len(texts_by_origin(batches, field)) == len(stream.labels)


def test_source_and_target_are_of_one_row(data_dir: Path) -> None:
    for batch in open_mixed(make_translations(), data_dir).batches(0, 40):
        for source, target in zip(read_letters(batch['source']), read_letters(batch['target'])):
            name, language, number = source.split()
            assert target.split() == [name, 'en', f'{language}{number}']


def test_ids_name_the_images(data_dir: Path) -> None:
    """An image has one id, whatever the language of its text."""
    stream = open_mixed(make_captions(), data_dir)
    ids = defaultdict(set)
    for batch in stream.batches(0, 40):
        for text, id_ in zip(read_letters(batch['text']), batch['ids'][:, 0].tolist()):
            ids[text.split()[2]].add(id_)
    buckets = tf.strings.to_hash_bucket_fast([f'{n}.png' for n in range(60)], 2**31 - 1).numpy()
    assert {n: ids[str(n)] for n in range(60)} == {n: {b} for n, b in enumerate(buckets.tolist())}


def expected_shares(stream: OpenStream) -> dict[str, float]:
    """The share of each label, worked out from HELD and the settings of the stream."""
    settings, names, expected = stream.settings, dataset_names(stream), {}
    total = sum(source.weight for source in settings.sources.values())
    for name, source in settings.sources.items():
        held = {language: n**settings.alpha for language, n in HELD[names[name]].items()}
        share = {language: n / sum(held.values()) for language, n in held.items()}
        if settings.cap < 1 and max(share.values()) > settings.cap:
            top = max(share, key=share.__getitem__)
            rest = 1 - share[top]
            share = {
                language: settings.cap if language == top else n / rest * (1 - settings.cap)
                for language, n in share.items()
            }
        if settings.cap * len(share) <= 1 or max(share.values()) > settings.cap + 1e-9:
            share = dict.fromkeys(share, 1 / len(share))
        for language, part in share.items():
            expected[f'{name}/{language}'] = source.weight / total * part
    return expected


@BOTH_KINDS
@pytest.mark.parametrize('fields', [{}, {'alpha': 0.0}, {'alpha': 1.0}, {'cap': 0.45}])
def test_each_label_gets_its_share(data_dir: Path, make_stream: MakeStream, fields: dict) -> None:
    stream = open_mixed(make_stream(**fields), data_dir)
    expected = expected_shares(stream)
    origins = stream.origins_at(np.arange(BLOCK))
    counts = np.bincount(origins, minlength=len(stream.labels))
    # Over a block of positions the shares are exact.
    for origin, label in enumerate(stream.labels):
        assert abs(counts[origin] - BLOCK * expected[label]) <= 1, label
    few = np.bincount(origins[:8000], minlength=len(stream.labels)) / 8000
    assert np.abs(few - [expected[label] for label in stream.labels]).max() < 0.03


class Headlines(Stream):
    """A kind that no catalog lists: one text, and the number of its bytes as a target."""

    def fields(self) -> dict[str, Field]:
        return {
            'text': Field((self.max_length,), np.int32, 'text'),
            'length': Field((), np.int32, 'target'),
        }

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Any]:
        return {'text': drawn.texts[0], 'length': tf.strings.length(drawn.texts[0])}


def test_new_kind_of_stream_needs_nothing_but_its_class(data_dir: Path) -> None:
    settings = Headlines({'a': StreamSource('translations/news')}, ('de',), SIZE)
    (batch,) = open_mixed(settings, data_dir).batches(0, 1)
    assert batch.keys() == {*settings.fields(), 'ids', 'origin'}
    assert batch['ids'].shape == (SIZE, settings.num_ids)
    assert [len(text) for text in read_letters(batch['text'])] == batch['length'].tolist()


def resume_feed(data_dir: Path, progress: dict | None = None, weight: float = 2.0) -> Feed:
    """A feed of captions; `weight` is that of the larger source."""
    sources = {
        'a': StreamSource('captions/big', weight=weight),
        'b': StreamSource('captions/small'),
    }
    stream = Captions(sources, ('en', 'de', 'sw', 'ta'), SIZE, image_size=8, alpha=0.5)
    return Feed({'c': open_mixed(stream, data_dir)}, progress)


def take_steps(feed: Feed, count: int) -> list[Batch]:
    return [batch['c'] for batch in feed.batches(count)]


def test_resume_with_the_same_weights_changes_nothing(data_dir: Path) -> None:
    unbroken = take_steps(resume_feed(data_dir), 24)
    first = resume_feed(data_dir)
    take_steps(first, 20)
    first.count_examples()
    same = resume_feed(data_dir, first.progress)
    assert same.changes == []
    assert_batches_equal(join_batches(unbroken[20:]), join_batches(take_steps(same, 4)))


def test_weights_may_change_on_a_resume(data_dir: Path) -> None:
    first = resume_feed(data_dir)
    head = take_steps(first, 20)
    first.count_examples()
    second = resume_feed(data_dir, first.progress, weight=0.25)
    assert 'weights change at example 320: a/en' in second.changes[0]
    middle = take_steps(second, 60)
    labels = second.streams['c'].labels
    share = np.mean([labels[origin][0] == 'a' for origin in join_batches(middle)['origin']])
    assert abs(share - 0.2) < 0.05
    second.count_examples()
    # Resumed again with the new weights, nothing changes, and all epochs have continued.
    third = resume_feed(data_dir, second.progress, weight=0.25)
    assert third.changes == []
    tail = take_steps(third, 20)
    again = resume_feed(data_dir, first.progress, weight=0.25)
    assert_batches_equal(join_batches(tail), join_batches(take_steps(again, 80)[60:]))
    assert count_epochs(third.streams['c'], head + middle + tail, 'text') > 30
    counts = third.count_examples()
    assert sum(counts.values()) == 100 * SIZE == len(join_batches(head + middle + tail)['origin'])


def test_resume_with_other_sources_is_refused(data_dir: Path) -> None:
    mixture = open_mixed(make_captions(), data_dir).mixture
    other = Captions({'a': StreamSource('captions/big')}, ('en', 'de'), SIZE, image_size=8)
    with pytest.raises(UserError, match='other sources or languages'):
        open_mixed(other, data_dir).follow(mixture, 0)
