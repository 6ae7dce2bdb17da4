"""TFDS data sets: what was written comes back, pictures byte for byte, texts with languages."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mural_jax.data.sources.tfds_sets import TfdsSet
from mural_jax.types import UserError

f = tfds.features
CAPTIONS = f.FeaturesDict(
    {
        'image': f.Image(shape=(None, None, 3)),
        'image/filename': f.Text(),
        'captions': f.Sequence({'text': f.Text(), 'lang': f.Text(), 'id': f.Scalar(np.int64)}),
        'nested': {
            'words': f.Sequence(f.Sequence(f.Text())),
            'photo': f.Image(shape=(None, None, 3)),
        },
        'label': f.ClassLabel(names=['cat', 'dog']),
    }
)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    # Not as TFDS itself would write it, so that it would show if it did.
    Image.new('RGB', (5, 4), (shade, 0, 0)).save(file, 'PNG', compress_level=0)
    return file.getvalue()


def photo(number: int) -> dict[str, Any]:
    captions = [
        {'text': f'dog {number}', 'lang': 'en-US', 'id': 1},
        {'text': f'Hund {number}', 'lang': 'de-DE', 'id': 2},
    ]
    return {
        'image': png(number),
        'image/filename': f'{number}.png',
        'label': number % 2,
        'captions': captions,
        'nested': {'words': [['a', 'b'], ['c']], 'photo': png(100 + number)},
    }


def store(folder: Path, name: str, features: Any, rows: Any, form: str = 'tfrecord') -> TfdsSet:
    splits = {split: list(enumerate(examples)) for split, examples in rows.items()}
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version='1.0.0',
        features=features,
        split_datasets=splits,
        data_dir=folder,
        file_format=form,
        disable_shuffling=True,
    )
    return TfdsSet(dataset=name, tfds_dir=str(folder))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('tfds')
    rows = {'train': [photo(i) for i in range(3)], 'val': [photo(9)]}
    for form in ('tfrecord', 'array_record'):
        store(folder, f'photos_{form}', CAPTIONS, rows, form)
    one = {'en': 'Hi', 'de': 'Hallo'}
    store(folder, 'pairs', f.Translation(languages=['en', 'de']), {'test': [one]})
    many = f.FeaturesDict({'talk': f.Text(), 'all': f.TranslationVariableLanguages()})
    talks = [{'talk': 't', 'all': {'en': 'Hi', 'de': ['Na', 'Hallo']}}]
    store(folder, 'talks', many, {'train': [*talks, {'talk': 'u', 'all': {'fr': 'Salut'}}]})
    return folder


def read(reader: TfdsSet, split: str) -> list[Any]:
    return [e for part in reader.splits()[split] for e in reader.read_examples(split, part)]


@pytest.mark.parametrize('form', ['tfrecord', 'array_record'])
def test_captions(folder: Path, form: str) -> None:
    reader = TfdsSet(
        dataset=f'photos_{form}',
        tfds_dir=str(folder),
        image='image',
        label='label',
        texts=('captions/text::@captions/lang.0', 'nested/words:word:fr', 'label:name:en'),
        id=('image/filename',),
    )
    assert reader.family == 'captions'
    assert {split: list(parts) for split, parts in reader.splits().items()} == {
        'train': ['0:3'],
        'val': ['0:1'],
    }
    found = read(reader, 'train')
    assert [example.image for example in found] == [png(0), png(1), png(2)]
    assert [example.id for example in found] == ['0.png', '1.png', '2.png']
    assert [example.label for example in found] == [0, 1, 0]
    assert found[1].texts == [
        ('en', 'caption', 'dog 1'),
        ('de', 'caption', 'Hund 1'),
        ('fr', 'word', 'a'),
        ('fr', 'word', 'b'),
        ('fr', 'word', 'c'),
        ('en', 'name', 'dog'),
    ]
    assert list(reader.read_texts('train', '1:2')) == found[1].texts
    assert reader.vocabulary() == (['de', 'en', 'fr'], ['caption', 'name', 'word'])


def test_a_picture_inside_of_another_field(folder: Path) -> None:
    name = str(folder / 'photos_tfrecord' / '1.0.0')  # By folder, as if it had no builder.
    reader = TfdsSet(dataset=name, image='nested/photo', texts=('captions/text',), language='en')
    (example,) = read(reader, 'val')
    assert (example.image, example.id, example.bad) == (png(109), 'val:0', '')
    assert reader.vocabulary() == (['en'], ['caption'])
    (bad,) = read(TfdsSet(dataset=name, image='label', texts=reader.texts, language='en'), 'val')
    assert bad.bad == 'label is not an encoded image'


def test_parts_are_files(folder: Path) -> None:
    from mural_jax.data.sources import tfds_sets

    assert tfds_sets.list_shard_slices([2, 0, 3]) == ['0:2', '2:5']
    reader = TfdsSet(
        dataset='photos_tfrecord', tfds_dir=str(folder), texts=('captions/text',), language='en'
    )
    assert [e.id for e in reader.read_examples('train', '1:3')] == ['train:1', 'train:2']


def test_translations(folder: Path) -> None:
    reader = TfdsSet(dataset='pairs', tfds_dir=str(folder))
    assert reader.family == 'translations'
    (example,) = read(reader, 'test')
    assert sorted(example.texts) == [('de', 'sentence', 'Hallo'), ('en', 'sentence', 'Hi')]
    assert reader.vocabulary() == (['de', 'en'], ['sentence'])


@pytest.mark.parametrize('texts', ['*', 'all', 'all:sentence:*'])
def test_translations_with_variable_languages(folder: Path, texts: str) -> None:
    reader = TfdsSet(dataset='talks', tfds_dir=str(folder), texts=(texts,), id=('talk',))
    first, second = read(reader, 'train')
    assert sorted(first.texts) == [
        ('de', 'sentence', 'Hallo'),
        ('de', 'sentence', 'Na'),
        ('en', 'sentence', 'Hi'),
    ]
    assert (second.id, second.texts) == ('u', [('fr', 'sentence', 'Salut')])
    assert reader.vocabulary() == (['de', 'en', 'fr'], ['sentence'])


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'dataset': 'no_such_set'}, 'TFDS cannot load no_such_set'),
        ({'dataset': 'opus/medical'}, 'not prepared in .* --download'),
        ({'dataset': 'opus/no_such'}, 'TFDS cannot load'),
        ({'dataset': 'photos_tfrecord'}, 'no translations for'),
        ({'texts': ('captions/none',)}, "no field captions/none; it has .*'captions/text'"),
        ({'texts': ('captions/text',)}, 'is unknown. Give --language'),
        ({'texts': ('captions/text::@none',)}, 'no field none'),
        ({'texts': ('label::en',), 'image': 'none'}, 'no field none'),
    ],
)
def test_wrong_flags(folder: Path, flags: dict[str, Any], message: str) -> None:
    reader = TfdsSet(**{'dataset': 'photos_tfrecord', 'tfds_dir': str(folder)} | flags)
    with pytest.raises(UserError, match=message):
        for split in reader.splits():
            read(reader, split)


def test_a_broken_file(tmp_path: Path) -> None:
    reader = store(
        tmp_path,
        'broken',
        f.Translation(languages=['en', 'de']),
        {'test': [{'en': 'Hi', 'de': 'Hallo'}] * 9},
    )
    (file,) = tmp_path.rglob('*.tfrecord*')
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match='Is the data set complete'):
        read(reader, 'test')


def test_the_module_is_light() -> None:
    code = (
        'import sys, mural_jax.data.sources.tfds_sets\n'
        "print([n for n in ('tensorflow', 'tensorflow_datasets', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
