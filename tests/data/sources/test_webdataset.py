"""Reading of WebDataset shards."""

import collections
import gzip
import json
import random
from pathlib import Path

import pytest
from data.fuzz import FUZZ_ROUNDS, mutate
from data.sources.image_files import encode_colour, write_tar

from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.webdataset import WebDataset
from mural_jax.types import UserError

RED, BLUE = encode_colour('red'), encode_colour('blue', 'PNG')
FIELDS = {
    'caption': 'A dog',
    'url': 'http://a.b/c.jpg',
    'key': '000000001',
    'status': 'success',
    'error_message': None,
    'sha256': 'beef',
    'lang': 'fi',
    'alt': ['x', 'y'],
}


def write_shard(path: Path) -> str:
    files = [
        ('000000001.jpg', RED),
        ('000000001.txt', b'A dog'),
        ('000000001.json', json.dumps(FIELDS).encode()),
        ('d.1/b.JPEG', BLUE),
        ('d.1/b.txt', b'caf\xe9'),
        ('c.txt', b'no image'),
        ('e.png', BLUE),
        ('e.json', b'{"lang": '),
        ('f.seg.png', BLUE),
        ('f.webp', RED),
        ('f.json', b'[]'),
        ('README', b'nothing'),
    ]
    return write_tar(path, files)


def read_all(reader: WebDataset) -> list[Example]:
    return [
        example
        for split, parts in reader.splits().items()
        for part in parts
        for example in reader.read_examples(split, part)
    ]


def test_files_with_one_stem_are_one_sample(tmp_path: Path) -> None:
    examples = read_all(WebDataset(shards=(write_shard(tmp_path / '00000.tar'),), language='en'))
    stems = ('000000001', 'd.1/b', 'c', 'e', 'f')
    assert [example.id for example in examples] == [f'00000.tar/{stem}' for stem in stems]
    first, second = examples[:2]
    assert (first.image, first.texts, first.bad) == (RED, [('en', 'caption', 'A dog')], '')
    assert second.texts == [('en', 'caption', 'caf\udce9')]


def test_broken_samples_have_a_reason(tmp_path: Path) -> None:
    examples = read_all(WebDataset(shards=(write_shard(tmp_path / '00000.tar'),), language='en'))
    assert [example.bad for example in examples[2:]] == [
        'no image in the sample',
        'its .json is broken',
        'its .json is not an object',
    ]


def test_keys_of_the_json_give_texts_language_and_id(tmp_path: Path) -> None:
    reader = WebDataset(
        shards=(write_shard(tmp_path / '00000.tar'),),
        text_keys=('caption', 'alt:alt:en'),
        language_key='lang',
        id_key='sha256',
        split='val',
    )
    first = next(iter(reader.read_examples('val', reader.splits()['val'][0])))
    assert first.id == 'beef'
    assert first.texts == [('fi', 'caption', 'A dog'), ('en', 'alt', 'x'), ('en', 'alt', 'y')]


def test_unknown_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='language of the texts is unknown'):
        read_all(WebDataset(shards=(write_shard(tmp_path / '00000.tar'),)))


def test_pattern_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no tar shard'):
        WebDataset(shards=(str(tmp_path / '*.tgz'),), language='en').splits()


def test_cut_off_archive_raises_user_error(tmp_path: Path) -> None:
    whole = gzip.compress(Path(write_shard(tmp_path / 's.tar')).read_bytes())
    for length in (3, 9, len(whole) // 3, len(whole) // 2):
        (tmp_path / 'cut.tar.gz').write_bytes(whole[:length])
        with pytest.raises(UserError, match='Is it complete'):
            read_all(WebDataset(shards=(str(tmp_path / 'cut.tar.gz'),), language='en'))


def test_broken_files_raise_user_error(tmp_path: Path) -> None:
    path = tmp_path / 's.tar'
    reader = WebDataset(shards=(write_shard(path),), text_keys=('caption', 'alt'), language='en')
    data, rng = path.read_bytes(), random.Random('s.tar')
    outcomes: collections.Counter[bool] = collections.Counter()
    for _ in range(FUZZ_ROUNDS):
        path.write_bytes(mutate(data, rng))
        try:
            read_all(reader)
            reader.vocabulary()
            outcomes[True] += 1
        except UserError:
            outcomes[False] += 1
    assert set(outcomes) == {True, False}
