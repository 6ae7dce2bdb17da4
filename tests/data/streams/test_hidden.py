"""Streams of regions: hidden parts, mismatched pairs, hard negatives and tags."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import mural
from data.batches import (
    assert_batches_equal,
    join_batches,
    load_tokenizer,
    open_scenes,
    open_with_fitted,
)
from PIL import Image

from mural_jax.config.load import load_config
from mural_jax.data.fields.masking import IGNORED
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.pages import inspect
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.hidden import HiddenCaptions
from mural_jax.data.streams.regions import RegionCaptions
from mural_jax.runs.run import Run
from mural_jax.types import UserError

FEATURES = [[1, 2, 3], [4, 5, 6]]


@pytest.fixture(scope='module')
def features_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one image, whose two regions have classes 4 and 2 and the features above."""
    folder = tmp_path_factory.mktemp('features')
    Image.new('RGB', (96, 96), 'red').save(folder / 'a.png')
    row = {
        'image': 'a.png',
        'caption': 'red',
        'boxes': [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
        'classes': [4, 2],
        'features': FEATURES,
    }
    (folder / 't.jsonl').write_text(json.dumps(row))
    columns = [f'--{name}_column={name}' for name in ('boxes', 'classes', 'features')]
    done = mural(
        'data',
        'ingest',
        'captions',
        '--name=a',
        f'--table={folder / "t.jsonl"}',
        *columns,
        f'--images={folder}',
        '--language=en',
        f'--data_dir={folder / "data"}',
    )
    assert done.returncode == 0, done.stderr
    return folder / 'data'


def features_stream(size: int) -> RegionCaptions:
    """A stream of the data set above that expects features of `size` numbers."""
    return RegionCaptions(
        sources={'main': StreamSource('captions/a')},
        languages=('en',),
        batch_size=1,
        image_size=96,
        max_length=20,
        regions=RegionSettings(by='features', most=2, side=0, size=size),
    )


def test_stored_features_come_as_regions(scenes_dir: Path, features_dir: Path) -> None:
    tokenizer = load_tokenizer(scenes_dir, 'unicoder_vl:tiny')
    stream = open_with_fitted(features_stream(3), features_dir, tokenizer)
    (records,) = stream.pool.records
    assert records.region_facts == {'num_classes': 5, 'sizes': [3]}
    (batch,) = stream.batches(0, 1)
    np.testing.assert_array_equal(batch['regions'][0, :, :3], FEATURES)


def test_features_of_another_size_are_refused(scenes_dir: Path, features_dir: Path) -> None:
    tokenizer = load_tokenizer(scenes_dir, 'unicoder_vl:tiny')
    with pytest.raises(UserError, match=r'size=2: .*captions/a:train have features of 3 numbers'):
        open_with_fitted(features_stream(2), features_dir, tokenizer)


def test_mismatched_pairs_have_the_text_of_another_example(scenes_dir: Path) -> None:
    stream, tokenizer = open_scenes(scenes_dir)
    whole, _ = open_scenes(scenes_dir, RegionCaptions)
    for batch, full in zip(stream.batches(64, 3), whole.batches(64, 3), strict=True):
        matched = batch['match'] == 1
        assert 16 < matched.sum() < 48
        np.testing.assert_array_equal(batch['ids'][:, 0], full['ids'][:, 0])
        same_text = batch['ids'][:, 1] == full['ids'][:, 1]
        np.testing.assert_array_equal(same_text, matched)
        for name in ('word_target', 'region_target'):
            assert (batch[name][~matched] == IGNORED).all()
            assert ((batch[name][matched] != IGNORED).sum(1) > 0).all()
        # The targets are the words that the whole texts have at these places.
        place, target = batch['word_place'][matched], batch['word_target'][matched]
        there = np.take_along_axis(full['text'][matched], place, axis=1)
        np.testing.assert_array_equal(there[target >= 0], target[target >= 0])
        assert batch['text'].max() == tokenizer.vocab_size, 'the mask'


def test_processes_share_the_same_batch(scenes_dir: Path) -> None:
    stream, _ = open_scenes(scenes_dir)
    (whole,) = stream.batches(128, 1)
    again, _ = open_scenes(scenes_dir)
    row_B = np.arange(again.batch_size)
    halves = [next(again.batches(128, 1, half_B)) for half_B in np.split(row_B, 2)]
    assert_batches_equal(whole, join_batches(halves))


@pytest.mark.parametrize('name', ['unicoder_vl:tiny', 'vldeformer:tiny'])
def test_inspect_page_shows_what_the_model_gets(
    scenes_dir: Path, tmp_path: Path, name: str
) -> None:
    run = Run.of(load_config(name, []))
    tokenizer = load_tokenizer(scenes_dir, name)
    page = inspect.write_page(run.streams, scenes_dir, tokenizer, 0, tmp_path / 'page.html')
    text = page.read_text(encoding='utf-8')
    assert ('[MASK]' in text) == name.startswith('unicoder')
    # A contact sheet of 24 images and 2 batches of 16 examples.
    assert text.count('data:image/jpeg') == 24 + 32


def test_hard_negatives_are_nearly_right(scenes_dir: Path) -> None:
    stream, tokenizer = open_scenes(scenes_dir, RegionCaptions, max_length=60, hard_negatives=True)
    plain, _ = open_scenes(scenes_dir, RegionCaptions, max_length=60)
    batch, own = (next(iter(either.batches(64, 1))) for either in (stream, plain))
    for name in ('text', 'regions', 'ids'):
        np.testing.assert_array_equal(batch[name], own[name])
    for text, negative in zip(batch['text'], batch['text_negative']):
        left, right = (tokenizer.decode(ids).split() for ids in (text, negative))
        changed = sum(a != b for a, b in zip(left, right, strict=True))
        assert 1 <= changed <= max(1, round(0.3 * len(left)))
    real_BR = batch['regions'][..., -3] > 0
    changed_BR = (batch['regions'] != batch['regions_negative']).any(-1)
    np.testing.assert_array_equal(changed_BR.sum(1), real_BR.sum(1) // 2)
    assert not changed_BR[~real_BR].any()


def test_tags_name_what_is_in_the_image(scenes_dir: Path) -> None:
    fields = dict(max_length=60, tags='tags', hard_negatives=True)
    stream, tokenizer = open_scenes(scenes_dir, RegionCaptions, **fields)
    batch = next(iter(stream.batches(64, 1)))

    def names(field: str) -> list[set[str]]:
        return [set(tokenizer.decode(ids).replace(',', '').split()) for ids in batch[field]]

    assert batch['ids'].shape == (64, 2)
    changed = 0
    for text, tags, negative in zip(names('text'), names('tags'), names('tags_negative')):
        assert tags == text - {'left', 'right', 'of', 'above', 'below'}
        assert len(tags & negative) >= len(tags) // 2
        changed += tags != negative
    assert changed > 55


def test_tags_of_a_mismatched_pair_stay_with_the_image(scenes_dir: Path) -> None:
    fields = dict(max_length=60, tags='tags')
    matched, _ = open_scenes(scenes_dir, RegionCaptions, **fields)
    hidden, _ = open_scenes(scenes_dir, HiddenCaptions, **fields)
    batch, other = (next(iter(stream.batches(64, 1))) for stream in (matched, hidden))
    np.testing.assert_array_equal(other['tags'], batch['tags'])


def test_unknown_kind_of_tags_is_refused(scenes_dir: Path) -> None:
    with pytest.raises(UserError, match="no texts of the kind 'names'"):
        open_scenes(scenes_dir, tags='names')


def partner_similarity(scenes_dir: Path, candidates: int) -> float:
    """Mean share of words that the texts of examples and of their partners have in common."""
    fields = dict(max_length=60, candidates=candidates, hard_negatives=True, tags='tags')
    stream, _ = open_scenes(scenes_dir, RegionCaptions, **fields)
    position_B = np.arange(200)
    member_B = stream.members_at(position_B)
    words = []
    for owner_B in (member_B, stream.partners_of(member_B, position_B)):
        text = schema.parse_examples(stream.pool.read(owner_B), 'text')['text']
        words.append([set(x.decode().split()) for x in text.to_tensor()[:, 0].numpy()])
    assert all(a != b for a, b in zip(*words)) or candidates == 1
    return float(np.mean([len(a & b) / len(a | b) for a, b in zip(*words)]))


def test_partner_is_the_most_similar_of_several_candidates(scenes_dir: Path) -> None:
    assert partner_similarity(scenes_dir, 32) > partner_similarity(scenes_dir, 1) + 0.05


TAGGED = ['unicoder_vl:tiny,tags', 'vldeformer:tiny,tags']


@pytest.mark.parametrize(
    'name', ['unicoder_vl:tiny', 'vldeformer:tiny', 'vldeformer:tiny,plain', *TAGGED]
)
def test_batches_have_the_declared_shapes(scenes_dir: Path, name: str) -> None:
    run = Run.of(load_config(name, []))
    stream = open_with_fitted(run.streams['pairs'], scenes_dir, load_tokenizer(scenes_dir, name))
    batch = next(stream.batches(0, 1))
    shapes = run.batch_shapes()['pairs']
    assert {k: (v.shape, v.dtype) for k, v in shapes.items() if k != 'index'} == {
        k: (v.shape, v.dtype) for k, v in batch.items() if k != 'origin'
    }


def test_classes_of_regions_are_those_of_the_data(scenes_dir: Path) -> None:
    stream, _ = open_scenes(scenes_dir)
    (records,) = stream.pool.records
    counts = stream.settings.count_classes(stream.pool.records)
    assert counts == {'region_target': records.region_facts['num_classes']}


def test_patches_have_no_classes_in_the_data(scenes_dir: Path) -> None:
    regions = RegionSettings(by='patches', most=4, side=8)
    stream, _ = open_scenes(scenes_dir, regions=regions)
    assert stream.settings.count_classes(stream.pool.records) == {}
