"""Regions and hidden parts of pairs: what is hidden is hidden, and the rest is as it was."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import mural
from PIL import Image

from mural_jax.config.load import load_config
from mural_jax.data.fields import crops, masking
from mural_jax.data.fields.region_settings import Regions
from mural_jax.data.pages import inspect
from mural_jax.data.reading.order import uniform
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import Source
from mural_jax.data.streams.hidden import HiddenCaptions
from mural_jax.data.streams.regions import RegionCaptions
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.types import UserError

MARKS, VOCABULARY, MASK = (0, 2, 3), 50, 50


def texts(count: int, length: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    text_BL = rng.integers(4, VOCABULARY, (count, length)).astype(np.int32)
    for row, size in zip(text_BL, rng.integers(3, length + 1, count)):
        row[0], row[size - 1], row[size:] = 2, 3, 0
    return text_BL


def hide(text_BL: np.ndarray, share: float = 0.15) -> dict[str, np.ndarray]:
    random_BU = uniform(0, np.arange(len(text_BL)), masking.random_words(text_BL.shape[1], share))
    fields = masking.words(tf.constant(text_BL), MARKS, VOCABULARY, share, tf.constant(random_BU))
    return {name: value.numpy() for name, value in fields.items()}


def test_a_share_of_the_words_is_hidden_and_nothing_else_changes() -> None:
    text_BL = texts(2000)
    found = hide(text_BL)
    hidden_BL = np.zeros(text_BL.shape, bool)
    for row, (place_M, target_M) in enumerate(zip(found['word_place'], found['word_target'])):
        for place, target in zip(place_M, target_M):
            if target != masking.NONE:
                assert target == text_BL[row, place] and target not in MARKS
                assert not hidden_BL[row, place]
                hidden_BL[row, place] = True
    np.testing.assert_array_equal(found['text'][~hidden_BL], text_BL[~hidden_BL])
    words_B = (~np.isin(text_BL, MARKS)).sum(1)
    np.testing.assert_array_equal(
        hidden_BL.sum(1), np.minimum(np.maximum(np.round(0.15 * words_B), 1), words_B)
    )
    shown = found['text'][hidden_BL]
    assert abs((shown == MASK).mean() - 0.8) < 0.03
    kept = (shown == text_BL[hidden_BL]).mean()
    assert abs(kept - 0.1) < 0.03


def test_a_text_without_words_hides_nothing() -> None:
    text_BL = np.array([[2, 3, 0, 0, 0, 0]], np.int32)
    found = hide(text_BL)
    np.testing.assert_array_equal(found['text'], text_BL)
    assert (found['word_target'] == masking.NONE).all()


def test_a_share_of_zero_hides_nothing() -> None:
    text_BL = texts(20)
    found = hide(text_BL, share=0.0)
    np.testing.assert_array_equal(found['text'], text_BL)
    assert (found['word_target'] == masking.NONE).all()


def test_what_is_hidden_of_a_region_is_gone_and_its_place_is_not() -> None:
    settings = Regions(most=5, side=2)
    rng = np.random.default_rng(0)
    region_BRF = rng.uniform(0.1, 1, (3000, 5, 12 + 5)).astype(np.float32)
    class_BR = rng.integers(0, 9, (3000, 5)).astype(np.int32)
    class_BR[:, 3:] = masking.NONE
    random_BU = uniform(1, np.arange(3000), masking.random_regions(5, 0.4))
    found = masking.regions(
        tf.constant(region_BRF), tf.constant(class_BR), settings.feature_size, 0.4, random_BU
    )
    shown_BRF, place_BM, target_BM = (
        found[name].numpy() for name in ('regions', 'region_place', 'region_target')
    )
    np.testing.assert_array_equal(shown_BRF[..., 12:], region_BRF[..., 12:])
    assert (target_BM != masking.NONE).sum(1).tolist() == [1] * 3000
    rows = np.arange(3000)
    np.testing.assert_array_equal(target_BM[:, 0], class_BR[rows, place_BM[:, 0]])
    zero_BR = (shown_BRF[..., :12] == 0).all(-1)
    assert zero_BR[:, 3:].sum() == 0 and (zero_BR.sum(1) <= 1).all()
    assert abs(zero_BR[rows, place_BM[:, 0]].mean() - 0.9) < 0.02
    np.testing.assert_array_equal(shown_BRF[~zero_BR], region_BRF[~zero_BR])


def test_a_masked_place_never_leaks() -> None:
    """Neither by a gradient to the features of a region, nor by what stands for a word."""
    rng = np.random.default_rng(0)
    region_BRF = tf.constant(rng.uniform(0.1, 1, (64, 8, 6 + 5)), tf.float32)
    class_BR = tf.constant(rng.integers(0, 9, (64, 8)), tf.int32)
    random_BU = tf.constant(uniform(0, np.arange(64), masking.random_regions(8, 0.3)))
    with tf.GradientTape() as tape:
        tape.watch(region_BRF)
        found = masking.regions(region_BRF, class_BR, 6, 0.3, random_BU)
        # Whatever a model makes of it: every number counts, each in its own way.
        weights = tf.constant(rng.normal(size=region_BRF.shape), tf.float32)
        total = tf.reduce_sum(weights * found['regions'])
    gradient_BRF = tape.gradient(total, region_BRF).numpy()
    masked_BR = (found['regions'].numpy()[..., :6] == 0).all(-1)
    assert masked_BR.sum() > 100
    assert (gradient_BRF[masked_BR][:, :6] == 0).all()
    assert (gradient_BRF[~masked_BR] != 0).all()
    assert (gradient_BRF[..., 6:] != 0).all()
    text_BL = texts(200)
    first = hide(text_BL)
    other_BL = text_BL.copy()
    row_N, column_N = np.nonzero(first['text'] != text_BL)
    other_BL[row_N, column_N] = 4 + (text_BL[row_N, column_N] - 3) % (VOCABULARY - 4)
    assert (other_BL != text_BL).sum() == len(row_N) > 100
    np.testing.assert_array_equal(hide(other_BL)['text'], first['text'])


def test_regions_are_the_pixels_in_their_boxes() -> None:
    image_BHWC = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    parsed = {
        'boxes': tf.ragged.constant([[0.0, 0.5, 0.5, 1.0]], tf.float32),
        'classes': tf.ragged.constant([[7]], tf.int64),
    }
    settings = Regions(most=2, side=4, geometry=6)
    found = crops.regions(settings, tf.constant(image_BHWC), parsed).numpy()
    wanted = image_BHWC[0, 4:8, 0:4].reshape(-1) / 127.5 - 1
    np.testing.assert_allclose(found[0, 0, :48], wanted, atol=1e-5)
    np.testing.assert_allclose(found[0, 0, 48:], [0, 0.5, 0.5, 1, 0.5, 0.5])
    assert not found[0, 1].any()
    assert crops.classes(settings, parsed).numpy().tolist() == [[7, -1]]


def test_patches_cover_the_picture() -> None:
    image_BHWC = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    found = crops.regions(
        Regions(by='patches', most=4, side=4), tf.constant(image_BHWC), {}
    ).numpy()
    wanted = image_BHWC[:, 4:8, 0:4].reshape(2, -1) / 127.5 - 1
    np.testing.assert_allclose(found[:, 2, :48], wanted, atol=1e-5)
    np.testing.assert_allclose(found[1, 2, 48:], [0, 0.5, 0.5, 1, 0.25])


def test_stored_features_are_taken_as_they_are() -> None:
    parsed = {
        'boxes': tf.ragged.constant([[0.0, 0, 1, 1], []], tf.float32),
        'features': tf.ragged.constant([[1.0, 2, 3], []], tf.float32),
    }
    settings = Regions(by='features', most=2, side=0, size=3)
    found = crops.regions(settings, tf.zeros((2, 8, 8, 3), tf.uint8), parsed).numpy()
    np.testing.assert_array_equal(found[0, 0], [1, 2, 3, 0, 0, 1, 1, 1])
    assert not found[1].any() and not found[0, 1].any()


@pytest.mark.parametrize(
    'wrong', [{'by': 'crops'}, {'most': 0}, {'geometry': 4}, {'size': 3}, {'by': 'features'}]
)
def test_regions_that_cannot_be_made_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match='regions'):
        Regions(**wrong)


@pytest.mark.parametrize(
    'wrong', [{'area': 0.5}, {'resize': 128}, {'hide_words': 1.0}, {'mismatch': 1.5}]
)
def test_a_stream_that_would_move_boxes_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        HiddenCaptions(sources={'a': Source('captions/a')}, languages=(), batch_size=2, **wrong)


def opened(folder: Path, kind: type = HiddenCaptions, max_length: int = 20, **more):
    run = Run.of(load_config('unicoder_vl:tiny', []))
    tokenizer = Tokenizer.load(vocabulary_path(folder, run), run.tokenizer)
    spec = kind(
        sources={'main': Source('captions/scenes')}, languages=('en',), batch_size=64,
        image_size=96, max_length=max_length, **{'regions': Regions(most=4, side=8)} | more,
    )  # fmt: skip
    return spec.open(folder, tokenizer, seed=0), tokenizer


def test_features_are_of_the_size_that_is_asked_for(scenes_dir: Path, tmp_path: Path) -> None:
    Image.new('RGB', (96, 96), 'red').save(tmp_path / 'a.png')
    row = {'image': 'a.png', 'caption': 'red', 'boxes': [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
           'classes': [4, 2], 'features': [[1, 2, 3], [4, 5, 6]]}  # fmt: skip
    (tmp_path / 't.jsonl').write_text(json.dumps(row))
    columns = [f'--{name}_column={name}' for name in ('boxes', 'classes', 'features')]
    done = mural(
        'data', 'ingest', 'captions', '--name=a', f'--table={tmp_path / "t.jsonl"}', *columns,
        f'--images={tmp_path}', '--language=en', f'--data_dir={tmp_path / "data"}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.of(load_config('unicoder_vl:tiny', []))
    tokenizer = Tokenizer.load(vocabulary_path(scenes_dir, run), run.tokenizer)
    spec = RegionCaptions(
        sources={'main': Source('captions/a')}, languages=('en',), batch_size=1, image_size=96,
        max_length=20, regions=Regions(by='features', most=2, side=0, size=3),
    )  # fmt: skip
    stream = spec.open(tmp_path / 'data', tokenizer, seed=0)
    (records,) = stream.pool.records
    assert records.regions == {'num_classes': 5, 'sizes': [3]}
    (batch,) = stream.batches(0, 1)
    np.testing.assert_array_equal(batch['regions'][0, :, :3], row['features'])
    other = dataclasses.replace(spec.regions, size=2)
    with pytest.raises(UserError, match=r'size=2: .*captions/a:train have features of 3 numbers'):
        dataclasses.replace(spec, regions=other).open(tmp_path / 'data', tokenizer, seed=0)


def test_pairs_that_do_not_belong_together_have_anothers_text(scenes_dir: Path) -> None:
    stream, tokenizer = opened(scenes_dir)
    whole, _ = opened(scenes_dir, RegionCaptions)
    for batch, full in zip(stream.batches(64, 3), whole.batches(64, 3), strict=True):
        matched = batch['match'] == 1
        assert 16 < matched.sum() < 48
        np.testing.assert_array_equal(batch['ids'][:, 0], full['ids'][:, 0])
        same_text = batch['ids'][:, 1] == full['ids'][:, 1]
        np.testing.assert_array_equal(same_text, matched)
        for name in ('word_target', 'region_target'):
            assert (batch[name][~matched] == masking.NONE).all()
            assert ((batch[name][matched] != masking.NONE).sum(1) > 0).all()
        # What is hidden is what was there.
        place, target = batch['word_place'][matched], batch['word_target'][matched]
        there = np.take_along_axis(full['text'][matched], place, axis=1)
        np.testing.assert_array_equal(there[target >= 0], target[target >= 0])
        assert batch['text'].max() == tokenizer.vocab_size


def test_a_batch_does_not_depend_on_the_hosts_and_comes_again(scenes_dir: Path) -> None:
    stream, _ = opened(scenes_dir)
    (whole,) = stream.batches(128, 1)
    again, _ = opened(scenes_dir)
    halves = [next(again.batches(128, 1, host, 2)) for host in (0, 1)]
    for name, value in whole.items():
        np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))


@pytest.mark.parametrize('name', ['unicoder_vl:tiny', 'vldeformer:tiny'])
def test_a_page_shows_what_the_model_gets(scenes_dir: Path, tmp_path: Path, name: str) -> None:
    run = Run.of(load_config(name, []))
    tokenizer = Tokenizer.load(vocabulary_path(scenes_dir, run), run.tokenizer)
    page = inspect.write(run.build_streams(), scenes_dir, tokenizer, 0, tmp_path / 'page.html')
    text = page.read_text(encoding='utf-8')
    assert ('[MASK]' in text) == name.startswith('unicoder')
    # A contact sheet of 24 pictures and 2 batches of 16 examples.
    assert text.count('data:image/jpeg') == 24 + 32


def test_hard_negatives_are_nearly_right(scenes_dir: Path) -> None:
    stream, tokenizer = opened(scenes_dir, RegionCaptions, 60, hard_negatives=True)
    plain, _ = opened(scenes_dir, RegionCaptions, 60)
    batch, own = (next(iter(opened_.batches(64, 1))) for opened_ in (stream, plain))
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


def test_tags_name_what_is_in_the_picture(scenes_dir: Path) -> None:
    more = dict(max_length=60, tags='tags')
    stream, tokenizer = opened(scenes_dir, RegionCaptions, hard_negatives=True, **more)
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
    # Of a pair that does not belong together the tags stay with the picture.
    hiding, _ = opened(scenes_dir, HiddenCaptions, **more)
    other = next(iter(hiding.batches(64, 1)))
    np.testing.assert_array_equal(other['tags'], batch['tags'])
    with pytest.raises(UserError, match="no texts of the kind 'names'"):
        opened(scenes_dir, tags='names')


def test_of_several_candidates_the_most_alike_is_the_partner(scenes_dir: Path) -> None:
    def shared(candidates: int) -> float:
        stream, tokenizer = opened(scenes_dir, RegionCaptions, 60, candidates=candidates,
                                   hard_negatives=True, tags='tags')  # fmt: skip
        position_B = np.arange(200)
        member_B = stream.members(position_B)
        partner_B = stream._partner(member_B, position_B)
        texts = [stream.pool.read(x) for x in (member_B, partner_B)]
        words = [
            [set(text.decode().split()) for text in schema.parse(tf.constant(x), 'text')['text']
             .to_tensor()[:, 0].numpy()]
            for x in texts
        ]  # fmt: skip
        assert all(a != b for a, b in zip(*words)) or candidates == 1
        return float(np.mean([len(a & b) / len(a | b) for a, b in zip(*words)]))

    assert shared(32) > shared(1) + 0.05
    with pytest.raises(UserError, match='candidates=0'):
        opened(scenes_dir, candidates=0)


TAGGED = ['unicoder_vl:tiny,tags', 'vldeformer:tiny,tags']


@pytest.mark.parametrize(
    'name', ['unicoder_vl:tiny', 'vldeformer:tiny', 'vldeformer:tiny,plain', *TAGGED]
)
def test_shapes_are_what_a_run_says(scenes_dir: Path, name: str) -> None:
    run = Run.of(load_config(name, []))
    tokenizer = Tokenizer.load(vocabulary_path(scenes_dir, run), run.tokenizer)
    batch = next(run.build_streams()['pairs'].open(scenes_dir, tokenizer, seed=0).batches(0, 1))
    shapes = run.batch_shapes()['pairs']
    assert {k: (v.shape, v.dtype) for k, v in shapes.items() if k != 'index'} == {
        k: (v.shape, v.dtype) for k, v in batch.items() if k != 'origin'
    }
