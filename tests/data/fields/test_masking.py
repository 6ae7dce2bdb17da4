"""Hidden words and regions: what is hidden is gone, and the rest is as it was."""

import numpy as np
import tensorflow as tf

from mural_jax.data.fields import masking
from mural_jax.data.fields.masking import IGNORED
from mural_jax.data.fields.masking_sizes import count_region_randoms, count_word_randoms
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.reading.order import uniform

SPECIAL_IDS, VOCAB_SIZE, MASK = (0, 2, 3), 50, 50


def random_texts(count: int, length: int = 12) -> np.ndarray:
    """Texts of 1 to 10 words between token 2 and token 3, padded with 0."""
    rng = np.random.default_rng(0)
    text_BL = rng.integers(4, VOCAB_SIZE, (count, length)).astype(np.int32)
    for row, size in zip(text_BL, rng.integers(3, length + 1, count)):
        row[0], row[size - 1], row[size:] = 2, 3, 0
    return text_BL


def hide_words(text_BL: np.ndarray, share: float = 0.15) -> dict[str, np.ndarray]:
    random_BU = uniform(0, np.arange(len(text_BL)), count_word_randoms(text_BL.shape[1], share))
    fields = masking.hide_words(
        tf.constant(text_BL), SPECIAL_IDS, VOCAB_SIZE, share, tf.constant(random_BU)
    )
    return {name: value.numpy() for name, value in fields.items()}


def hidden_mask(text_BL: np.ndarray, fields: dict[str, np.ndarray]) -> np.ndarray:
    """Which words are hidden, bool [B, L]; checks that targets are what the texts were."""
    hidden_BL = np.zeros(text_BL.shape, bool)
    for row, (place_M, target_M) in enumerate(zip(fields['word_place'], fields['word_target'])):
        for place, target in zip(place_M, target_M):
            if target != IGNORED:
                assert target == text_BL[row, place] and target not in SPECIAL_IDS
                assert not hidden_BL[row, place], 'a word is hidden once'
                hidden_BL[row, place] = True
    return hidden_BL


def test_a_share_of_the_words_is_hidden() -> None:
    text_BL = random_texts(2000)
    hidden_BL = hidden_mask(text_BL, hide_words(text_BL))
    words_B = (~np.isin(text_BL, SPECIAL_IDS)).sum(1)
    wanted_B = np.minimum(np.maximum(np.round(0.15 * words_B), 1), words_B)
    np.testing.assert_array_equal(hidden_BL.sum(1), wanted_B)


def test_words_that_are_not_hidden_stay() -> None:
    text_BL = random_texts(2000)
    found = hide_words(text_BL)
    hidden_BL = hidden_mask(text_BL, found)
    np.testing.assert_array_equal(found['text'][~hidden_BL], text_BL[~hidden_BL])


def test_hidden_words_become_mask_random_word_or_stay() -> None:
    text_BL = random_texts(2000)
    found = hide_words(text_BL)
    hidden_BL = hidden_mask(text_BL, found)
    shown = found['text'][hidden_BL]
    assert abs((shown == MASK).mean() - 0.8) < 0.03
    same = (shown == text_BL[hidden_BL]).mean()
    assert abs(same - 0.1) < 0.03


def test_text_without_words_hides_nothing() -> None:
    text_BL = np.array([[2, 3, 0, 0, 0, 0]], np.int32)
    found = hide_words(text_BL)
    np.testing.assert_array_equal(found['text'], text_BL)
    assert (found['word_target'] == IGNORED).all()


def test_share_of_zero_hides_nothing() -> None:
    text_BL = random_texts(20)
    found = hide_words(text_BL, share=0.0)
    np.testing.assert_array_equal(found['text'], text_BL)
    assert (found['word_target'] == IGNORED).all()


def test_hidden_region_loses_features_and_keeps_its_place() -> None:
    settings = RegionSettings(most=5, side=2)
    rng = np.random.default_rng(0)
    region_BRF = rng.uniform(0.1, 1, (3000, 5, 12 + 5)).astype(np.float32)
    class_BR = rng.integers(0, 9, (3000, 5)).astype(np.int32)
    class_BR[:, 3:] = IGNORED
    random_BU = uniform(1, np.arange(3000), count_region_randoms(5, 0.4))
    found = masking.hide_regions(
        tf.constant(region_BRF), tf.constant(class_BR), settings.feature_size, 0.4, random_BU
    )
    shown_BRF, place_BM, target_BM = (
        found[name].numpy() for name in ('regions', 'region_place', 'region_target')
    )
    np.testing.assert_array_equal(shown_BRF[..., 12:], region_BRF[..., 12:])
    # Three regions have a class, and 40% of three is one.
    assert (target_BM != IGNORED).sum(1).tolist() == [1] * 3000
    rows = np.arange(3000)
    np.testing.assert_array_equal(target_BM[:, 0], class_BR[rows, place_BM[:, 0]])
    zero_BR = (shown_BRF[..., :12] == 0).all(-1)
    assert zero_BR[:, 3:].sum() == 0 and (zero_BR.sum(1) <= 1).all()
    assert abs(zero_BR[rows, place_BM[:, 0]].mean() - 0.9) < 0.02
    np.testing.assert_array_equal(shown_BRF[~zero_BR], region_BRF[~zero_BR])


def test_hidden_features_get_no_gradient() -> None:
    rng = np.random.default_rng(0)
    region_BRF = tf.constant(rng.uniform(0.1, 1, (64, 8, 6 + 5)), tf.float32)
    class_BR = tf.constant(rng.integers(0, 9, (64, 8)), tf.int32)
    random_BU = tf.constant(uniform(0, np.arange(64), count_region_randoms(8, 0.3)))
    with tf.GradientTape() as tape:
        tape.watch(region_BRF)
        found = masking.hide_regions(region_BRF, class_BR, 6, 0.3, random_BU)
        # Stands for any model: every number counts, each with another weight.
        weights = tf.constant(rng.normal(size=region_BRF.shape), tf.float32)
        total = tf.reduce_sum(weights * found['regions'])
    gradient_BRF = tape.gradient(total, region_BRF).numpy()
    masked_BR = (found['regions'].numpy()[..., :6] == 0).all(-1)
    assert masked_BR.sum() > 100
    assert (gradient_BRF[masked_BR][:, :6] == 0).all()
    assert (gradient_BRF[~masked_BR] != 0).all()
    assert (gradient_BRF[..., 6:] != 0).all()


def test_shown_words_do_not_depend_on_hidden_ones() -> None:
    text_BL = random_texts(200)
    first = hide_words(text_BL)
    other_BL = text_BL.copy()
    row_N, column_N = np.nonzero(first['text'] != text_BL)
    other_BL[row_N, column_N] = 4 + (text_BL[row_N, column_N] - 3) % (VOCAB_SIZE - 4)
    assert (other_BL != text_BL).sum() == len(row_N) > 100
    np.testing.assert_array_equal(hide_words(other_BL)['text'], first['text'])
