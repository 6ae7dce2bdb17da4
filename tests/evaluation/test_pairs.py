"""The evaluators of one stream: all pairs, the best of a dual encoder, what is hidden."""

import types
from pathlib import Path

import jax
import numpy as np
import pytest
from models.test_fusion import one_stream

from mural_jax.data.fields.region_settings import Regions
from mural_jax.evaluation.embed import Embedder
from mural_jax.evaluation.evaluators.cross_encoder import CrossEncoder, Rerank
from mural_jax.evaluation.evaluators.hidden import Hidden, auc
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.models import functional
from mural_jax.objectives.prediction import NONE
from mural_jax.types import UserError

SIZE = 30


@pytest.fixture(scope='module')
def sources() -> types.SimpleNamespace:
    """A model from random weights, and pairs of made-up texts and regions."""
    rng = np.random.default_rng(0)
    text_NL = rng.integers(4, 20, (SIZE, 6)).astype(np.int32)
    region_NRF = rng.uniform(0, 1, (SIZE, 3, 9)).astype(np.float32)
    region_NRF[..., 4:] = [0.1, 0.1, 0.4, 0.4, 0.09]
    place_BM = rng.integers(0, 3, (SIZE, 2)).astype(np.int32)
    batch = {
        'text': text_NL, 'regions': region_NRF, 'word_place': place_BM,
        'word_target': rng.integers(0, 20, (SIZE, 2)).astype(np.int32), 'region_place': place_BM,
        'region_target': rng.integers(0, 7, (SIZE, 2)).astype(np.int32),
        'match': (np.arange(SIZE) % 2).astype(np.int32),
        'ids': text_NL[:, :2], 'origin': text_NL[:, 0],
    }  # fmt: skip
    embedder = Embedder(
        *functional.split(one_stream()), lambda texts: text_NL[[int(text) for text in texts]]
    )
    names = [{'en': str(number)} if number else {} for number in range(SIZE)]
    texts = [{language: [text] for language, text in named.items()} for named in names]
    items = Items(
        [str(number) for number in range(SIZE)], texts, np.full(SIZE, -1), np.full(SIZE, np.nan),
        [b''] * SIZE, lambda start, stop: region_NRF[start:stop],
    )  # fmt: skip
    return types.SimpleNamespace(
        embedder=embedder, items=lambda *_, images: items, batch=batch, text=text_NL,
        visual=region_NRF,
        batches=lambda *_: iter([(batch, np.arange(SIZE) < SIZE - 1)]),
    )  # fmt: skip


def scores(sources: types.SimpleNamespace) -> np.ndarray:
    """Pair by pair, of the 29 that have a text."""
    model = functional.merge(*sources.embedder.model)
    encode = jax.jit(lambda text, region: model.matches(model.encode('joint', (text, region))))
    text_NL, visual = sources.text[1:], sources.visual[1:]
    return np.stack([encode(np.tile(text, (SIZE - 1, 1)), visual) for text in text_NL])


def test_every_pair_is_scored(sources: types.SimpleNamespace) -> None:
    scored = CrossEncoder(dataset='a/b', split='test')(sources, ['en'])
    row = scored.results['en']
    score_NN = scores(sources)
    for name, matrix in (('text_to_image', score_NN), ('image_to_text', score_NN.T)):
        rank_N = (matrix > np.diag(matrix)[:, None]).sum(1)
        for k in (1, 5, 10):
            np.testing.assert_allclose(row[f'{name}_r{k}'], 100 * (rank_N < k).mean(), atol=4)
    assert row['passes'] == 29 * 29 and row['seconds_to_score'] > 0


def test_the_best_of_a_dual_encoder_are_scored_again(sources: types.SimpleNamespace) -> None:
    whole = CrossEncoder(dataset='a/b', split='test')(sources, ['en']).results['en']
    all_again = CrossEncoder(dataset='a/b', split='test', rerank=Rerank(29, 'pairs'))(
        sources, ['en']
    )
    for name, value in whole.items():
        if '_r' in name or name == 'mean_recall':
            np.testing.assert_allclose(all_again.results['en'][name], value)
    some = CrossEncoder(dataset='a/b', split='test', rerank=Rerank(10, 'pairs'))(
        sources, ['en']
    ).results['en']
    assert 10 * 29 + 58 <= some['passes'] < 29 * 29


def test_tags_are_a_part_of_the_picture(sources: types.SimpleNamespace) -> None:
    tags_NL, region_NRF = np.roll(sources.text, 3, axis=0), sources.visual
    both = (tags_NL, region_NRF)
    items = sources.items(images=True)._replace(
        decode=lambda start, stop: jax.tree.map(lambda array: array[start:stop], both)
    )
    tagged = types.SimpleNamespace(embedder=sources.embedder, items=lambda *_, images: items)
    row = CrossEncoder(dataset='a/b', split='test', gallery=12)(tagged, ['en']).results['en']
    assert row['passes'] == 12 * 12
    model = functional.merge(*sources.embedder.model)
    own = slice(1, 13)
    score_NN = np.stack([
        model.matches(
            model.encode('joint', (np.tile(text, (12, 1)), (tags_NL[own], region_NRF[own])))
        )
        for text in sources.text[own]
    ])  # fmt: skip
    right = (score_NN > np.diag(score_NN)[:, None]).sum(1) == 0
    np.testing.assert_allclose(row['text_to_image_r1'], 100 * right.mean(), atol=9)
    with_tags, without = (sources.embedder.visual('pairs', visual) for visual in (both, region_NRF))
    np.testing.assert_allclose(np.linalg.norm(with_tags, axis=1), 1, atol=1e-5)
    assert not np.allclose(with_tags, without, atol=1e-3)


def test_tags_are_read_with_the_pictures(scenes_dir: Path) -> None:
    embedder = types.SimpleNamespace(tokenize=list)
    regions = Regions(most=4, side=8)
    read = Sources(embedder, scenes_dir, 96, 96, None, None, regions=regions, tags='tags')
    items = read.items('captions/scenes', 'test', 'caption', images=True)
    tags, region_NRF = items.decode(0, 20)
    assert len(tags) == len(items.ids) == len(region_NRF) == 20
    for names, said, region_RF in zip(items.names, tags, region_NRF):
        objects = said.split(', ')
        assert all(word in names['en'].split() for word in objects)
        assert len(objects) == (region_RF[:, -3] > 0).sum()


def test_fewer_than_the_metrics_ask_for_are_refused() -> None:
    with pytest.raises(UserError, match=r'rerank.k=9 is smaller than 10'):
        Rerank(9)


def test_another_run_is_not_opened_while_one_trains() -> None:
    with pytest.raises(UserError, match='every=2 and rerank.workdir=.*mural evaluate'):
        CrossEncoder(dataset='a/b', split='test', every=2, rerank=Rerank(10, workdir='run'))


def test_what_is_hidden_is_counted_once(sources: types.SimpleNamespace) -> None:
    scored = Hidden(stream='pairs', dataset='a/b', split='test')(sources, [])
    assert scored.size == SIZE - 1
    row = scored.results['all']
    model = functional.merge(*sources.embedder.model)
    batch = {name: value[:-1] for name, value in sources.batch.items()}
    text_NL, region_NRF = batch['text'], batch['regions']
    for region, name in ((region_NRF, 'words'), (0 * region_NRF, 'words_without_picture')):
        given = text_NL, region
        logit_BMV = model.words(model.encode('joint', given), batch['word_place'])
        right = np.argmax(logit_BMV, -1) == batch['word_target']
        np.testing.assert_allclose(row[name], 100 * right.mean(), atol=2)
    assert 0 <= row['match_auc'] <= 1
    nothing = {'word_target': np.full((SIZE, 2), NONE, np.int32)}
    sources.batches = lambda *_: iter([(sources.batch | nothing, np.arange(SIZE) < SIZE)])
    assert (
        Hidden(stream='pairs', dataset='a/b', split='test')(sources, []).results['all']['words']
        == 0
    )


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 40), rng.integers(0, 4, 30)
    above = (positive[:, None] > negative[None]).mean()
    tied = (positive[:, None] == negative[None]).mean()
    np.testing.assert_allclose(auc(positive, negative), above + tied / 2)
    assert np.isnan(auc(positive, negative[:0]))
