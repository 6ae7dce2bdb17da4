"""Streams over the real data: pure functions of (seed, position), balanced, without test data."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data.batches import assert_batches_equal, join_batches, load_tokenizer

from mural_jax.config.load import load_config
from mural_jax.data.reading.stream import OpenStream, open_stream
from mural_jax.data.sets.records import Records
from mural_jax.runs.run import Run
from mural_jax.types import UserError


def open_emoji(data_dir: Path, name: str, *overrides: str) -> OpenStream:
    """A stream of `emoji:tiny`."""
    run = Run.of(load_config('emoji:tiny', list(overrides)))
    tokenizer = load_tokenizer(data_dir, 'emoji:tiny')
    return open_stream(run.streams[name], data_dir, tokenizer, seed=5)


@pytest.mark.parametrize('name', ['captions', 'translations'])
def test_step_is_the_same_from_wherever_it_is_read(data_dir: Path, name: str) -> None:
    from_start = list(open_emoji(data_dir, name).batches(0, 6))
    later = list(open_emoji(data_dir, name).batches(4 * 16, 2))
    assert len(later) == 2
    for left, right in zip(from_start[4:], later):
        assert_batches_equal(left, right)


@pytest.mark.parametrize('name', ['captions', 'translations'])
def test_processes_share_the_batch_of_one(data_dir: Path, name: str) -> None:
    whole = next(iter(open_emoji(data_dir, name).batches(3 * 16, 1)))
    parts = [
        next(iter(open_emoji(data_dir, name).batches(3 * 16, 1, row_B)))
        for row_B in np.split(np.arange(16), 4)
    ]
    assert_batches_equal(whole, join_batches(parts))


def test_batches_have_the_documented_shapes(data_dir: Path) -> None:
    stream = open_emoji(data_dir, 'captions')
    batch = next(iter(stream.batches(0, 1)))
    length = stream.settings.max_length
    assert batch['image'].shape == (16, 64, 64, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['text'].shape == (16, length)
    assert batch['text'].dtype == np.int32
    assert batch['ids'].shape == (16, 2)
    assert (batch['text'][:, 0] > 0).all(), 'no text is empty'


def test_languages_are_drawn_by_their_power(data_dir: Path) -> None:
    stream = open_emoji(
        data_dir,
        'translations',
        '--config.streams.translations.alpha=0.0',
        '--config.streams.translations.batch_size=4096',
    )
    batch = next(iter(stream.batches(0, 1)))
    counts = np.bincount(batch['origin'], minlength=len(stream.labels))
    # 4,096 draws of 31 languages: 132 of each, within five standard deviations.
    assert abs(counts - 4096 / 31).max() < 57


def concepts(data_dir: Path, dataset: str, split: str) -> set[bytes]:
    """The emoji that the examples of a split are about."""
    records = Records(dataset, split, data_dir)
    serialized = records.read(np.arange(len(records)))
    columns = {'concept': tf.io.FixedLenFeature([], tf.string)}
    return set(tf.io.parse_example(list(serialized), columns)['concept'].numpy())


def test_held_out_concepts_are_nowhere_in_training(data_dir: Path) -> None:
    held_out = concepts(data_dir, 'emoji_cldr/pictures', 'test')
    for dataset in ('emoji_cldr/pictures', 'emoji_cldr/translations'):
        assert not held_out & concepts(data_dir, dataset, 'train')
    assert len(held_out) > 200


def test_shuffled_pairs_are_fixed_and_wrong(data_dir: Path) -> None:
    right = next(iter(open_emoji(data_dir, 'translations').batches(0, 1)))
    flag = '--config.streams.translations.shuffle_pairs=True'
    wrong = next(iter(open_emoji(data_dir, 'translations', flag).batches(0, 1)))
    np.testing.assert_array_equal(right['source'], wrong['source'])
    assert (right['target'] != wrong['target']).any(axis=1).mean() > 0.9


def test_augmentation_changes_images_a_little(data_dir: Path) -> None:
    changes = ('shift', 'zoom', 'rotate', 'colour')
    off = [f'--config.streams.captions.augment.{change}=0.0' for change in changes]
    plain = next(iter(open_emoji(data_dir, 'captions', *off).batches(0, 1)))['image']
    moved = next(iter(open_emoji(data_dir, 'captions').batches(0, 1)))['image']
    assert (plain[:, :2, :2] == 255).mean() > 0.5, 'corners of most images are white'
    difference = np.abs(plain.astype(int) - moved).mean()
    assert 0.5 < difference < 60


def test_language_without_texts_is_named(data_dir: Path) -> None:
    with pytest.raises(UserError, match='xx'):
        open_emoji(data_dir, 'captions', "--config.streams.captions.languages=('xx',)")
