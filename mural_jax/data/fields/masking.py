"""Hides words of a text and regions of an image; given random numbers say which and how."""

import tensorflow as tf

from mural_jax.data.fields.masking_sizes import max_hidden

IGNORED = -1  # the target of a place where nothing is to be predicted
# Shares of hidden words that become the mask, and a random word; the rest stays as it is (BERT,
# arXiv:1810.04805).
MASKED, RANDOM = 0.8, 0.1
KEPT = 0.1  # share of hidden regions that stay as they are; ours, Unicoder-VL says "a few"


def hide_words(
    text_BL: tf.Tensor,
    special_ids: tuple[int, ...],
    vocab_size: int,
    share: float,
    random_BU: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """{`text`, `word_place`, `word_target`}: the texts with words hidden, and what these were.

    `text` is int32 [B, L], the other two int32 [B, M]: the places of hidden words and their token
    ids, IGNORED where a text has fewer. `share` of a text's words is hidden: at least one if it
    has any, but none where `share` is 0. `special_ids`, such as padding, are never hidden. The
    mask is a token of its own, number `vocab_size`. `random_BU` holds `count_word_randoms` numbers
    in [0, 1).
    """
    length = text_BL.shape[1]
    is_word_BL = tf.reduce_all([text_BL != special for special in special_ids], axis=0)
    place_BM, hidden_BM = _draw_places(is_word_BL, share, random_BU[:, :length])
    target_BM = tf.gather(text_BL, place_BM, batch_dims=1)
    how_BM, which_BM = tf.split(random_BU[:, length:], 2, axis=1)
    random_BM = tf.cast(which_BM * vocab_size, tf.int32)
    shown_BM = tf.where(how_BM < MASKED, vocab_size, target_BM)
    shown_BM = tf.where((how_BM >= MASKED) & (how_BM < MASKED + RANDOM), random_BM, shown_BM)
    # Places beyond the number of hidden words are written back unchanged.
    shown_BM = tf.where(hidden_BM, shown_BM, target_BM)
    return {
        'text': tf.tensor_scatter_nd_update(text_BL, _scatter_indices(place_BM), shown_BM),
        'word_place': place_BM,
        'word_target': tf.where(hidden_BM, target_BM, IGNORED),
    }


def hide_regions(
    region_BRF: tf.Tensor,
    class_BR: tf.Tensor,
    feature_size: int,
    share: float,
    random_BU: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """{`regions`, `region_place`, `region_target`}: regions, some without features; their classes.

    `regions` is float32 [B, R, F], the other two int32 [B, M]: the places of hidden regions and
    their classes, IGNORED where an image has fewer. `share` of an image's regions with a class is
    hidden, at least one. The features of a hidden region become zero; its geometry stays, so the
    model knows where it is. `random_BU` holds `count_region_randoms` numbers in [0, 1).
    """
    length = region_BRF.shape[1]
    place_BM, hidden_BM = _draw_places(class_BR != IGNORED, share, random_BU[:, :length])
    zero_BM = hidden_BM & (random_BU[:, length:] >= KEPT)
    ones_BR = tf.ones(tf.shape(class_BR), region_BRF.dtype)
    shown_BM = 1 - tf.cast(zero_BM, region_BRF.dtype)
    shown_BR = tf.tensor_scatter_nd_update(ones_BR, _scatter_indices(place_BM), shown_BM)
    feature_BRF, box_BRG = region_BRF[..., :feature_size], region_BRF[..., feature_size:]
    target_BM = tf.gather(class_BR, place_BM, batch_dims=1)
    return {
        'regions': tf.concat([feature_BRF * shown_BR[..., None], box_BRG], axis=-1),
        'region_place': place_BM,
        'region_target': tf.where(hidden_BM, target_BM, IGNORED),
    }


def _draw_places(
    open_BL: tf.Tensor, share: float, random_BL: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(places, int32 [B, M]; which of them are hidden, bool [B, M]).

    `share` of the open places is hidden: those with the smallest random numbers.
    """
    # Random numbers are below 1, so places that are not open come last.
    order_BL = tf.argsort(tf.where(open_BL, random_BL, 2.0), axis=1, stable=True)
    count_B = tf.reduce_sum(tf.cast(open_BL, tf.float32), axis=1)
    wanted_B = tf.minimum(tf.maximum(tf.round(share * count_B), 1.0 if share else 0.0), count_B)
    width = max_hidden(share, open_BL.shape[1])
    hidden_BM = tf.range(width, dtype=tf.float32)[None] < wanted_B[:, None]
    return order_BL[:, :width], hidden_BM


def _scatter_indices(place_BM: tf.Tensor) -> tf.Tensor:
    """[B, M, 2]: (example, place), as tensor_scatter_nd_update takes it."""
    row_BM = tf.broadcast_to(tf.range(tf.shape(place_BM)[0])[:, None], tf.shape(place_BM))
    return tf.stack([row_BM, place_BM], axis=-1)
