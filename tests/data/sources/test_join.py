"""Joining of texts and images, in one process and with Beam."""

import dataclasses
import itertools
import pickle
import sys
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from data.sources.wit_files import encode_tsv, make_row, write_pixels, write_table

from mural_jax.data.sources import beam, join
from mural_jax.data.sources.reader import Example, JoinedReader, Reader
from mural_jax.data.sources.wit import Wit
from mural_jax.types import UserError

BAD = '\udcff'  # A byte that is not UTF-8.
TEXTS = {
    'one': [('a', 'first'), ('b', 'of b'), (BAD, 'not UTF-8 ' + BAD)],
    'two': [('a', 'second'), ('!', 'broken'), ('c', 'no image'), ('a', 'first')],
}
IMAGES = {
    'x': [('b', b''), ('a', b'the longer'), ('z', b'no row has it')],
    'y': [(BAD, b'3'), ('a', b'short'), ('b', b'2'), ('b', b'1')],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyJoinedReader(JoinedReader):
    """The rows and images of the tables above."""

    with_images: bool = True

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {'train': list(TEXTS)}

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        for number, (key, text) in enumerate(TEXTS[part]):
            where = f'{part}:{number}'
            bad = 'broken' if key == '!' else ''
            yield key, Example(f'{key} {where}', [('en', 'text', text)], where=where, bad=bad)

    def image_parts(self) -> Sequence[str]:
        return list(IMAGES) if self.with_images else []

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        yield from (p for p in IMAGES[part] if wanted is None or p[0] in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyReader(Reader):
    """Examples that come whole."""

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {'train': ['a', 'b'], 'test': ['c']}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        yield Example(part, [('en', split, BAD)], image=part.encode(), score=1.0)


READERS: list[Reader] = [ToyJoinedReader(), ToyJoinedReader(with_images=False), ToyReader()]


def sort_as_words(examples: Iterable[Example]) -> list[str]:
    """Sorted descriptions of examples; examples with a NaN would never be equal."""
    return sorted(map(repr, examples))


def read_with_beam(
    reader: Reader, split: str, folder: Path, *flags: str
) -> tuple[list[Example], int]:
    """(examples, number of images without rows), read with Beam on this machine."""
    apache_beam = pytest.importorskip('apache_beam', reason='Apache Beam is not installed')
    folder.mkdir()

    # Workers share no memory with the test and cannot import it, so this is a closure that writes
    # files.
    def write(example: Example) -> None:
        (folder / uuid.uuid4().hex).write_bytes(pickle.dumps(example))

    with apache_beam.Pipeline(options=beam.make_options(flags)) as pipeline:
        _ = pipeline | beam.read_split(reader, split) | apache_beam.Map(write)
    counters = pipeline.result.metrics().query()['counters']
    dropped = [c.committed for c in counters if c.key.metric.name == 'images_without_rows']
    return [pickle.loads(path.read_bytes()) for path in folder.iterdir()], sum(dropped)


@pytest.fixture
def joined() -> dict[str, Example]:
    """The joined examples by key."""
    return {e.id.split()[0]: e for e in join.read_split(ToyJoinedReader(), 'train')}


def test_rows_of_one_key_are_merged(joined: dict[str, Example]) -> None:
    assert joined['a'].texts == [('en', 'text', 'first'), ('en', 'text', 'second')]
    assert set(joined) == {'a', 'b', 'c', '!', BAD}


def test_first_image_of_a_key_is_used(joined: dict[str, Example]) -> None:
    assert joined['a'].image == b'the longer'
    # An empty file does not count as an image.
    assert (joined['b'].image, joined['b'].bad) == (b'2', '')


def test_rows_without_image_and_broken_rows_are_bad(joined: dict[str, Example]) -> None:
    assert (joined['c'].image, joined['c'].bad) == (b'', join.NO_IMAGE)
    assert joined['!'].bad == 'broken'


def test_order_of_rows_does_not_change_example() -> None:
    reader = ToyJoinedReader()
    rows = [r for part in TEXTS for key, r in reader.read_rows('train', part) if key == 'a']
    rows += [Example('a', [('en', 'text', 'tenth')], where='two:10')]
    merged = [join.make_example(reader, order, b'1') for order in itertools.permutations(rows)]
    assert len(set(map(repr, merged))) == 1
    assert [text[2] for text in merged[0].texts] == ['first', 'second', 'tenth']


def test_examples_without_images_to_join_pass_through() -> None:
    examples = list(join.read_split(ToyJoinedReader(with_images=False), 'train'))
    assert len(examples) == 7 and not any(example.image for example in examples)
    assert [example.image for example in join.read_split(ToyReader(), 'test')] == [b'c']


@pytest.mark.parametrize('reader', READERS, ids=['joined', 'rows', 'whole'])
def test_beam_gives_same_examples(tmp_path: Path, reader: Reader) -> None:
    examples, dropped = read_with_beam(reader, 'train', tmp_path / 'examples')
    assert sort_as_words(examples) == sort_as_words(join.read_split(reader, 'train'))
    assert dropped == (1 if reader == ToyJoinedReader() else 0)


def test_beam_gives_same_examples_in_two_processes(tmp_path: Path) -> None:
    images = {f'https://upload.wikimedia.org/{i}.jpg': b'image %d' % i for i in range(20)}
    rows = [make_row(url, language, page_title=url) for url in images for language in ('de', 'ja')]
    rows[3]['image_url'] = 'https://upload.wikimedia.org/lost.jpg'
    reader = Wit(
        table=write_table(tmp_path, encode_tsv(rows)), images=(write_pixels(tmp_path, images),)
    )
    flags = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')
    examples, _ = read_with_beam(reader, 'train', tmp_path / 'examples', *flags)
    assert sort_as_words(examples) == sort_as_words(join.read_split(reader, 'train'))
    assert sorted(example.bad for example in examples) == [*[''] * 20, join.NO_IMAGE]


def test_given_runner_is_used() -> None:
    pytest.importorskip('apache_beam', reason='Apache Beam is not installed')
    given = beam.make_options(['--runner=DirectRunner', '--direct_num_workers=2']).get_all_options()
    assert (given['runner'], given['direct_num_workers']) == ('DirectRunner', 2)


def test_missing_beam_is_named_in_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    with pytest.raises(UserError, match=r'mural-jax\[beam\]'):
        beam.read_split(ToyJoinedReader(), 'train')
