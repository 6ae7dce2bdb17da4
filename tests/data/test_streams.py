"""Streams over the real data: pure functions of (seed, position), balanced, clean."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mural_jax.config.load import load_config
from mural_jax.data.reading.stream import OpenStream
from mural_jax.data.sets.records import Records
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.types import UserError


def open_stream(data_dir: Path, name: str, *overrides: str, arg: str = 'tiny') -> OpenStream:
    run = Run.of(load_config(f'emoji:{arg}', list(overrides)))
    tiny = Run.of(load_config('emoji:tiny', []))
    tokenizer = Tokenizer.load(vocabulary_path(data_dir, tiny), tiny.tokenizer)
    return run.build_streams()[name].open(data_dir, tokenizer, seed=5)


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


@pytest.mark.parametrize('name', ['captions', 'translations'])
def test_a_step_is_the_same_from_wherever_it_is_read(data_dir: Path, name: str) -> None:
    from_start = list(open_stream(data_dir, name).batches(0, 6))
    later = list(open_stream(data_dir, name).batches(4 * 16, 2))
    assert len(later) == 2
    for left, right in zip(from_start[4:], later):
        assert_equal(left, right)


@pytest.mark.parametrize('name', ['captions', 'translations'])
def test_hosts_share_the_batch_of_one(data_dir: Path, name: str) -> None:
    whole = next(iter(open_stream(data_dir, name).batches(3 * 16, 1)))
    parts = [next(iter(open_stream(data_dir, name).batches(3 * 16, 1, h, 4))) for h in range(4)]
    assert_equal(whole, {key: np.concatenate([part[key] for part in parts]) for key in whole})


def test_batches_have_the_shapes_that_are_promised(data_dir: Path) -> None:
    stream = open_stream(data_dir, 'captions')
    batch = next(iter(stream.batches(0, 1)))
    length = stream.spec.max_length
    assert batch['image'].shape == (16, 64, 64, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['text'].shape == (16, length)
    assert batch['text'].dtype == np.int32
    assert batch['ids'].shape == (16, 2)
    assert (batch['text'][:, 0] > 0).all(), 'no text is empty'


def test_languages_are_drawn_as_their_power(data_dir: Path) -> None:
    stream = open_stream(data_dir, 'translations', '--config.streams.translations.alpha=0.0',
                         '--config.streams.translations.batch_size=4096')  # fmt: skip
    batch = next(iter(stream.batches(0, 1)))
    counts = np.bincount(batch['origin'], minlength=len(stream.labels))
    # 4,096 draws of 31 languages: 132 of each, within five standard deviations.
    assert abs(counts - 4096 / 31).max() < 57


def test_held_out_concepts_are_nowhere_in_training(data_dir: Path) -> None:
    def concepts(dataset: str, split: str) -> set[bytes]:
        records = Records(dataset, split, data_dir)
        serialized = records.read(np.arange(len(records)))
        spec = {'concept': tf.io.FixedLenFeature([], tf.string)}
        return set(tf.io.parse_example(list(serialized), spec)['concept'].numpy())

    held_out = concepts('emoji_cldr/pictures', 'test')
    for dataset in ('emoji_cldr/pictures', 'emoji_cldr/translations'):
        assert not held_out & concepts(dataset, 'train')
    assert len(held_out) > 200


def test_shuffled_pairs_are_fixed_and_wrong(data_dir: Path) -> None:
    right = next(iter(open_stream(data_dir, 'translations').batches(0, 1)))
    flag = '--config.streams.translations.shuffle_pairs=True'
    wrong = next(iter(open_stream(data_dir, 'translations', flag).batches(0, 1)))
    np.testing.assert_array_equal(right['source'], wrong['source'])
    assert (right['target'] != wrong['target']).any(axis=1).mean() > 0.9


def test_augmentation_off_leaves_the_picture(data_dir: Path) -> None:
    off = [f'--config.streams.captions.augment.{key}=0.0' for key in ('shift', 'zoom', 'rotate',
                                                                        'colour')]  # fmt: skip
    plain = next(iter(open_stream(data_dir, 'captions', *off).batches(0, 1)))['image']
    moved = next(iter(open_stream(data_dir, 'captions').batches(0, 1)))['image']
    assert (plain[:, :2, :2] == 255).mean() > 0.5, 'corners of most pictures are white'
    difference = np.abs(plain.astype(int) - moved).mean()
    assert 0.5 < difference < 60


def test_a_language_without_texts_is_named(data_dir: Path) -> None:
    with pytest.raises(UserError, match='xx'):
        open_stream(data_dir, 'captions', "--config.streams.captions.languages=('xx',)")
