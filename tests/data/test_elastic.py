"""Mixed sources: the same for any hosts and from anywhere, whole epochs, exact shares."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from data.datasets import Letters, captions, encoded, picture, read, translations

from mural_jax.data.reading.order import BLOCK
from mural_jax.data.reading.stream import OpenStream
from mural_jax.data.streams.base import Source, Stream
from mural_jax.data.streams.captions import Captions
from mural_jax.data.streams.translations import Translations
from mural_jax.training.feed import Feed
from mural_jax.types import Batch, UserError

SIZE = 16
# Texts of each language in each source.
HELD = {
    'big': {'en': 60, 'de': 25, 'sw': 7}, 'small': {'en': 11, 'sw': 3, 'ta': 1},
    'news': {'de': 40, 'sw': 9}, 'books': {'de': 5, 'ta': 12},
}  # fmt: skip


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('mixed')
    for number, name in enumerate(('big', 'small')):
        pictures = {f'{n}.png': encoded(picture(n + 100 * number, (24, 20))) for n in range(70)}
        rows = [(f'{n}.png', lang, f'{name} {lang} {n}')
                for lang, count in HELD[name].items() for n in range(count)]  # fmt: skip
        captions(folder, name, pictures, rows)
    for name in ('news', 'books'):
        rows = [{'en': f'{name} en {lang}{n}', lang: f'{name} {lang} {n}'}
                for lang, count in HELD[name].items() for n in range(count)]  # fmt: skip
        translations(folder, name, rows)
    return folder


def captions_spec(**fields: Any) -> Captions:
    sources = {'a': Source('captions/big', weight=2.0), 'b': Source('captions/small')}
    fields = {'alpha': 0.5, 'area': 0.3, **fields}
    return Captions(sources, ('en', 'de', 'sw', 'ta'), SIZE, image_size=8, **fields)


def translations_spec(**fields: Any) -> Translations:
    sources = {'a': Source('translations/news'), 'b': Source('translations/books', weight=0.5)}
    return Translations(sources, ('de', 'sw', 'ta'), SIZE, **{'alpha': 0.7, **fields})


SPECS = pytest.mark.parametrize('spec_of', [captions_spec, translations_spec])
SpecOf = Callable[..., Stream]


def opened(spec: Stream, data_dir: Path) -> OpenStream:
    return spec.open(data_dir, Letters(), seed=3)


def joined(batches: list[Batch]) -> Batch:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(left: Batch, right: Batch) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


@SPECS
@pytest.mark.parametrize('position', [48, BLOCK - 2 * SIZE])
def test_hosts_share_the_global_batches(data_dir: Path, spec_of: SpecOf, position: int) -> None:
    stream = opened(spec_of(), data_dir)
    whole = list(stream.batches(position, 4))
    assert len(whole) == 4
    for hosts in (2, 4, 8):
        parts = [list(stream.batches(position, 4, host, hosts)) for host in range(hosts)]
        for step, batch in enumerate(whole):
            assert_equal(batch, joined([part[step] for part in parts]))


@SPECS
def test_the_rest_is_the_same_from_wherever_it_is_taken_up(data_dir: Path, spec_of: SpecOf) -> None:
    """Also by other numbers of hosts, and from a place that is no whole step."""
    first = joined(list(opened(spec_of(), data_dir).batches(0, 12)))
    for position in np.random.default_rng(1).integers(1, 10 * SIZE, 2).tolist():
        rest = [
            list(opened(spec_of(), data_dir).batches(position, 2, host, 2)) for host in range(2)
        ]
        tail = joined([part[step] for step in range(2) for part in rest])
        assert_equal({key: value[position : position + 2 * SIZE] for key, value in first.items()},
                     tail)  # fmt: skip


@SPECS
def test_a_far_position_is_read_at_once(data_dir: Path, spec_of: SpecOf) -> None:
    start = time.perf_counter()
    far = next(iter(opened(spec_of(), data_dir).batches(10**9, 1)))
    print(f'{spec_of.__name__}: opened and read at 10^9 in {time.perf_counter() - start:.2f} s')
    assert_equal(far, next(iter(opened(spec_of(), data_dir).batches(10**9, 1))))
    before = list(opened(spec_of(), data_dir).batches(10**9 - SIZE, 2))
    assert_equal(far, before[1])
    assert any((far[key] != before[0][key]).any() for key in far)


def draws(batches: list[Batch], field: str) -> dict[int, list[str]]:
    """By origin: the texts of a field as they follow each other."""
    found = defaultdict(list)
    for batch in batches:
        for origin, text in zip(batch['origin'].tolist(), read(batch[field])):
            found[origin].append(text)
    return found


def assert_whole_epochs(stream: OpenStream, batches: list[Batch], field: str) -> int:
    """Every text once an epoch, in another order each time; how many epochs there were."""
    names = {source: spec.dataset.split('/')[1] for source, spec in stream.spec.sources.items()}
    epochs = 0
    for origin, texts in draws(batches, field).items():
        source, language = stream.labels[origin].split('/')
        count = HELD[names[source]][language]
        expected = {f'{names[source]} {language} {n}' for n in range(count)}
        parts = [texts[i : i + count] for i in range(0, len(texts) - count + 1, count)]
        assert all(set(part) == expected for part in parts)
        assert len({*map(tuple, parts)}) == len(parts) or count < 5
        epochs += len(parts)
    return epochs


@SPECS
def test_every_record_of_a_label_comes_once_an_epoch(data_dir: Path, spec_of: SpecOf) -> None:
    stream = opened(spec_of(), data_dir)
    batches = list(stream.batches(0, 40))
    field = 'text' if stream.spec.has_image else 'source'
    assert_whole_epochs(stream, batches, field)
    assert len(draws(batches, field)) == len(stream.labels)
    if not stream.spec.has_image:
        for batch in batches:
            pairs = zip(read(batch['source']), read(batch['target']))
            assert all(s.split()[0] == t.split()[0] and s.split()[1] + s.split()[2] == t.split()[2]
                       for s, t in pairs)  # fmt: skip


def test_ids_name_the_records(data_dir: Path) -> None:
    """One id a picture, whatever its language, and other sources' pictures have others."""
    stream = opened(captions_spec(), data_dir)
    ids = defaultdict(set)
    for batch in stream.batches(0, 40):
        for text, id_ in zip(read(batch['text']), batch['ids'][:, 0].tolist()):
            ids[text.split()[2]].add(id_)
    buckets = tf.strings.to_hash_bucket_fast([f'{n}.png' for n in range(60)], 2**31 - 1).numpy()
    assert {n: ids[str(n)] for n in range(60)} == {n: {b} for n, b in enumerate(buckets.tolist())}


@SPECS
@pytest.mark.parametrize('fields', [{}, {'alpha': 0.0}, {'alpha': 1.0}, {'cap': 0.45}])
def test_each_label_gets_its_share(data_dir: Path, spec_of: SpecOf, fields: dict) -> None:
    stream = opened(spec_of(**fields), data_dir)
    names = {name: source.dataset.split('/')[1] for name, source in stream.spec.sources.items()}
    spec, expected = stream.spec, {}
    total = sum(source.weight for source in spec.sources.values())
    for name, source in spec.sources.items():
        held = {lang: n**spec.alpha for lang, n in HELD[names[name]].items()}
        share = {lang: n / sum(held.values()) for lang, n in held.items()}
        if spec.cap < 1 and max(share.values()) > spec.cap:
            top = max(share, key=share.__getitem__)
            rest = 1 - share[top]
            share = {lang: spec.cap if lang == top else n / rest * (1 - spec.cap)
                     for lang, n in share.items()}  # fmt: skip
        if spec.cap * len(share) <= 1 or max(share.values()) > spec.cap + 1e-9:
            share = dict.fromkeys(share, 1 / len(share))
        for lang, part in share.items():
            expected[f'{name}/{lang}'] = source.weight / total * part
    labels = stream._label_S[stream._mixture.locate(np.arange(BLOCK))[0]]
    counts = np.bincount(labels, minlength=len(stream.labels))
    # Over a block of positions the shares are exact.
    for origin, label in enumerate(stream.labels):
        assert abs(counts[origin] - BLOCK * expected[label]) <= 1, label
    few = np.bincount(labels[:8000], minlength=len(stream.labels)) / 8000
    assert np.abs(few - [expected[label] for label in stream.labels]).max() < 0.03


def test_weights_may_change_on_a_resume(data_dir: Path) -> None:
    def feed(progress: dict | None = None, weight: float = 2.0) -> Feed:
        sources = {'a': Source('captions/big', weight=weight), 'b': Source('captions/small')}
        stream = Captions(sources, ('en', 'de', 'sw', 'ta'), SIZE, image_size=8, alpha=0.5)
        return Feed({'c': opened(stream, data_dir)}, progress)

    def steps(feed: Feed, count: int) -> list[Batch]:
        return [batch['c'] for batch in feed.batches(count)]

    unbroken = steps(feed(), 60)
    first = feed()
    head = steps(first, 20)
    first.examples()
    same = feed(first.progress)
    assert same.changes == []
    assert_equal(joined(unbroken[20:24]), joined(steps(same, 4)))
    second = feed(first.progress, weight=0.25)
    assert 'weights change at example 320: a/en' in second.changes[0]
    middle = steps(second, 60)
    share = np.mean([second.streams['c'].labels[o][0] == 'a' for o in joined(middle)['origin']])
    assert abs(share - 0.2) < 0.05
    second.examples()
    # Taken up again with the new weights nothing changes, and epochs went on all the while.
    third = feed(second.progress, weight=0.25)
    assert third.changes == []
    tail = steps(third, 20)
    again = feed(first.progress, weight=0.25)
    assert_equal(joined(tail), joined(steps(again, 80)[60:]))
    assert assert_whole_epochs(third.streams['c'], head + middle + tail, 'text') > 30
    counts = third.examples()
    origin = joined(head + middle + tail)['origin']
    assert sum(counts.values()) == 100 * SIZE == len(origin)
    other = Captions({'a': Source('captions/big')}, ('en', 'de'), SIZE, image_size=8)
    with pytest.raises(UserError, match='other sources or languages'):
        opened(other, data_dir).follow(third.progress['mixtures']['c'], 0)
