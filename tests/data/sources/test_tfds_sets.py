"""Reading of TFDS data sets: images byte for byte, texts with their languages."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mural_jax.data.sources.tfds_sets import TfdsSet, list_shard_slices
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


def encode_png(shade: int) -> bytes:
    file = io.BytesIO()
    # Not as TFDS would encode it, so the test would notice if TFDS encoded the image again.
    Image.new('RGB', (5, 4), (shade, 0, 0)).save(file, 'PNG', compress_level=0)
    return file.getvalue()


def make_photo(number: int) -> dict[str, Any]:
    captions = [
        {'text': f'dog {number}', 'lang': 'en-US', 'id': 1},
        {'text': f'Hund {number}', 'lang': 'de-DE', 'id': 2},
    ]
    return {
        'image': encode_png(number),
        'image/filename': f'{number}.png',
        'label': number % 2,
        'captions': captions,
        'nested': {'words': [['a', 'b'], ['c']], 'photo': encode_png(100 + number)},
    }


def write_set(folder: Path, name: str, features: Any, rows: Any, form: str = 'tfrecord') -> TfdsSet:
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
    rows = {'train': [make_photo(i) for i in range(3)], 'val': [make_photo(9)]}
    for form in ('tfrecord', 'array_record'):
        write_set(folder, f'photos_{form}', CAPTIONS, rows, form)
    one = {'en': 'Hi', 'de': 'Hallo'}
    write_set(folder, 'pairs', f.Translation(languages=['en', 'de']), {'test': [one]})
    many = f.FeaturesDict({'talk': f.Text(), 'all': f.TranslationVariableLanguages()})
    talks = [{'talk': 't', 'all': {'en': 'Hi', 'de': ['Na', 'Hallo']}}]
    write_set(folder, 'talks', many, {'train': [*talks, {'talk': 'u', 'all': {'fr': 'Salut'}}]})
    return folder


def read_split(reader: TfdsSet, split: str) -> list[Any]:
    return [e for part in reader.splits()[split] for e in reader.read_examples(split, part)]


@pytest.mark.parametrize('form', ['tfrecord', 'array_record'])
def test_fields_give_images_texts_labels_and_ids(folder: Path, form: str) -> None:
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
    examples = read_split(reader, 'train')
    assert [example.image for example in examples] == [encode_png(0), encode_png(1), encode_png(2)]
    assert [example.id for example in examples] == ['0.png', '1.png', '2.png']
    assert [example.label for example in examples] == [0, 1, 0]
    assert examples[1].texts == [
        ('en', 'caption', 'dog 1'),
        ('de', 'caption', 'Hund 1'),
        ('fr', 'word', 'a'),
        ('fr', 'word', 'b'),
        ('fr', 'word', 'c'),
        ('en', 'name', 'dog'),
    ]
    assert list(reader.read_texts('train', '1:2')) == examples[1].texts
    assert reader.vocabulary() == (['de', 'en', 'fr'], ['caption', 'name', 'word'])


def test_image_may_be_inside_another_field(folder: Path) -> None:
    # By folder, as for a data set without a builder.
    name = str(folder / 'photos_tfrecord' / '1.0.0')
    reader = TfdsSet(dataset=name, image='nested/photo', texts=('captions/text',), language='en')
    (example,) = read_split(reader, 'val')
    assert (example.image, example.id, example.bad) == (encode_png(109), 'val:0', '')
    assert reader.vocabulary() == (['en'], ['caption'])


def test_field_that_is_no_image_makes_examples_bad(folder: Path) -> None:
    name = str(folder / 'photos_tfrecord' / '1.0.0')
    texts = ('captions/text',)
    (bad,) = read_split(TfdsSet(dataset=name, image='label', texts=texts, language='en'), 'val')
    assert bad.bad == 'label is not an encoded image'


def test_files_of_a_split_are_slices() -> None:
    assert list_shard_slices([2, 0, 3]) == ['0:2', '2:5']


def test_part_of_a_split_is_read_alone(folder: Path) -> None:
    reader = TfdsSet(
        dataset='photos_tfrecord', tfds_dir=str(folder), texts=('captions/text',), language='en'
    )
    assert [e.id for e in reader.read_examples('train', '1:3')] == ['train:1', 'train:2']


def test_translations_have_languages_of_their_own(folder: Path) -> None:
    reader = TfdsSet(dataset='pairs', tfds_dir=str(folder))
    assert reader.family == 'translations'
    (example,) = read_split(reader, 'test')
    assert sorted(example.texts) == [('de', 'sentence', 'Hallo'), ('en', 'sentence', 'Hi')]
    assert reader.vocabulary() == (['de', 'en'], ['sentence'])


@pytest.mark.parametrize('texts', ['*', 'all', 'all:sentence:*'])
def test_languages_of_translations_may_vary(folder: Path, texts: str) -> None:
    reader = TfdsSet(dataset='talks', tfds_dir=str(folder), texts=(texts,), id=('talk',))
    first, second = read_split(reader, 'train')
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
def test_wrong_flags_are_refused(folder: Path, flags: dict[str, Any], message: str) -> None:
    reader = TfdsSet(**{'dataset': 'photos_tfrecord', 'tfds_dir': str(folder)} | flags)
    with pytest.raises(UserError, match=message):
        for split in reader.splits():
            read_split(reader, split)


def test_broken_file_raises_user_error(tmp_path: Path) -> None:
    reader = write_set(
        tmp_path,
        'broken',
        f.Translation(languages=['en', 'de']),
        {'test': [{'en': 'Hi', 'de': 'Hallo'}] * 9},
    )
    (file,) = tmp_path.rglob('*.tfrecord*')
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match='Is the data set complete'):
        read_split(reader, 'test')


def test_module_imports_no_heavy_library() -> None:
    code = (
        'import sys, mural_jax.data.sources.tfds_sets\n'
        "print([n for n in ('tensorflow', 'tensorflow_datasets', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
