"""Examples of a split: in one process, and by Beam, are the same."""

import dataclasses
import itertools
import pickle
import sys
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from data.sources.wit_files import row, table, tsv, write_pixels

from mural_jax.data.sources import beam, join
from mural_jax.data.sources.reader import Example, JoinedReader, Reader
from mural_jax.data.sources.wit import Wit
from mural_jax.types import UserError

BAD = '\udcff'  # A byte that is no UTF-8.
TEXTS = {
    'one': [('a', 'first'), ('b', 'of b'), (BAD, 'no UTF-8 ' + BAD)],
    'two': [('a', 'second'), ('!', 'broken'), ('c', 'no picture'), ('a', 'first')],
}
PICTURES = {
    'x': [('b', b''), ('a', b'the longer'), ('z', b'nobody tells of it')],
    'y': [(BAD, b'3'), ('a', b'short'), ('b', b'2'), ('b', b'1')],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(JoinedReader):
    """Rows and pictures of the tables above."""

    with_pictures: bool = True

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {'train': list(TEXTS)}

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        for number, (key, text) in enumerate(TEXTS[part]):
            where = f'{part}:{number}'
            bad = 'broken' if key == '!' else ''
            yield key, Example(f'{key} {where}', [('en', 'text', text)], where=where, bad=bad)

    def image_parts(self) -> Sequence[str]:
        return list(PICTURES) if self.with_pictures else []

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        yield from (p for p in PICTURES[part] if wanted is None or p[0] in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Reader):
    """Examples that need no join."""

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {'train': ['a', 'b'], 'test': ['c']}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        yield Example(part, [('en', split, BAD)], image=part.encode(), score=1.0)


READERS: list[Reader] = [Made(), Made(with_pictures=False), Whole()]


def in_order(examples: Iterable[Example]) -> list[str]:
    """Examples in an order of their own, as words: a NaN is no NaN's equal."""
    return sorted(map(repr, examples))


def by_beam(reader: Reader, split: str, folder: Path, *flags: str) -> tuple[list[Example], int]:
    """(examples, pictures without rows) by Beam on this machine."""
    apache_beam = pytest.importorskip('apache_beam', reason='Apache Beam is not installed')
    folder.mkdir()

    # Workers share no memory with the test, and cannot import it: so a closure, and files.
    def write(example: Example) -> None:
        (folder / uuid.uuid4().hex).write_bytes(pickle.dumps(example))

    with apache_beam.Pipeline(options=beam.make_options(flags)) as pipeline:
        _ = pipeline | beam.read_split(reader, split) | apache_beam.Map(write)
    counters = pipeline.result.metrics().query()['counters']
    dropped = [c.committed for c in counters if c.key.metric.name == 'images_without_rows']
    return [pickle.loads(path.read_bytes()) for path in folder.iterdir()], sum(dropped)


def test_the_parts_of_a_join() -> None:
    found = {example.id.split()[0]: example for example in join.read_split(Made(), 'train')}
    assert found['a'].texts == [('en', 'text', 'first'), ('en', 'text', 'second')]
    assert found['a'].image == b'the longer', 'the first picture, in the order of the parts'
    assert (found['b'].image, found['b'].bad) == (b'2', ''), 'an empty file is no picture'
    assert (found['c'].image, found['c'].bad) == (b'', join.NO_IMAGE)
    assert found['!'].bad == 'broken'
    assert set(found) == {'a', 'b', 'c', '!', BAD}


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [row for part in TEXTS for key, row in Made().read_rows('train', part) if key == 'a']
    rows += [Example('a', [('en', 'text', 'tenth')], where='two:10')]
    merged = {repr(join.make_example(Made(), rows, b'1')) for rows in itertools.permutations(rows)}
    assert len(merged) == 1
    assert [text[2] for text in join.make_example(Made(), rows, b'1').texts] == [
        'first',
        'second',
        'tenth',
    ]


def test_readers_without_pictures_pass_through() -> None:
    found = list(join.read_split(Made(with_pictures=False), 'train'))
    assert len(found) == 7 and not any(example.image for example in found)
    assert [example.image for example in join.read_split(Whole(), 'test')] == [b'c']


@pytest.mark.parametrize('reader', READERS, ids=['joined', 'rows', 'whole'])
def test_beam_gives_the_same(tmp_path: Path, reader: Reader) -> None:
    found, dropped = by_beam(reader, 'train', tmp_path / 'found')
    assert in_order(found) == in_order(join.read_split(reader, 'train'))
    assert dropped == (1 if reader == Made() else 0)


def test_beam_in_two_processes(tmp_path: Path) -> None:
    pictures = {f'https://upload.wikimedia.org/{i}.jpg': b'picture %d' % i for i in range(20)}
    rows = [row(url, language, page_title=url) for url in pictures for language in ('de', 'ja')]
    rows[3]['image_url'] = 'https://upload.wikimedia.org/lost.jpg'
    reader = Wit(table=table(tmp_path, tsv(rows)), images=(write_pixels(tmp_path, pictures),))
    flags = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')
    found, _ = by_beam(reader, 'train', tmp_path / 'found', *flags)
    assert in_order(found) == in_order(join.read_split(reader, 'train'))
    assert sorted(example.bad for example in found) == [*[''] * 20, join.NO_IMAGE]


def test_a_runner_that_is_given_is_taken() -> None:
    pytest.importorskip('apache_beam', reason='Apache Beam is not installed')
    given = beam.make_options(['--runner=DirectRunner', '--direct_num_workers=2']).get_all_options()
    assert (given['runner'], given['direct_num_workers']) == ('DirectRunner', 2)


def test_without_beam_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    with pytest.raises(UserError, match=r'mural-jax\[beam\]'):
        beam.read_split(Made(), 'train')
