"""Hides words of a text and regions of a picture, by given random numbers."""

import tensorflow as tf

from mural_jax.data.fields.masking_sizes import max_hidden

IGNORED = -1  # the target of a place where nothing is hidden
# Of hidden words: replaced by the mask, by a random word; the rest stays (BERT, arXiv:1810.04805).
MASKED, RANDOM = 0.8, 0.1
KEPT = 0.1  # of hidden regions, those that stay as they are; ours, Unicoder-VL says "a few"


def count_word_randoms(length: int, share: float) -> int:
    """Random numbers that `words` takes of an example."""
    return length + 2 * max_hidden(share, length)


def count_region_randoms(length: int, share: float) -> int:
    """Random numbers that `regions` takes of an example."""
    return length + max_hidden(share, length)


def hide_words(
    text_BL: tf.Tensor, marks: tuple[int, ...], vocab_size: int, share: float, random_BU: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`text` with words hidden, and `word_place`, `word_target`, int32 [B, M].

    A text has `share` of its words hidden, at least one, with 0 none; padding and other `marks`
    never are. The mask is a token of its own behind the vocabulary, number `vocab_size`.
    """
    length = text_BL.shape[1]
    is_word_BL = tf.reduce_all([text_BL != mark for mark in marks], axis=0)
    place_BM, hidden_BM = _drawn(is_word_BL, share, random_BU[:, :length])
    target_BM = tf.gather(text_BL, place_BM, batch_dims=1)
    how_BM, which_BM = tf.split(random_BU[:, length:], 2, axis=1)
    random_BM = tf.cast(which_BM * vocab_size, tf.int32)
    shown_BM = tf.where(how_BM < MASKED, vocab_size, target_BM)
    shown_BM = tf.where((how_BM >= MASKED) & (how_BM < MASKED + RANDOM), random_BM, shown_BM)
    shown_BM = tf.where(hidden_BM, shown_BM, target_BM)
    return {
        'text': tf.tensor_scatter_nd_update(text_BL, _places(place_BM), shown_BM),
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
    """`regions` with the features of some zero, and `region_place`, `region_target` [B, M].

    Regions with a class are drawn, `share` of those of a picture, at least one. Where a hidden one
    stands is still seen.
    """
    length = region_BRF.shape[1]
    place_BM, hidden_BM = _drawn(class_BR != IGNORED, share, random_BU[:, :length])
    zero_BM = hidden_BM & (random_BU[:, length:] >= KEPT)
    ones_BR = tf.ones(tf.shape(class_BR), region_BRF.dtype)
    shown_BM = 1 - tf.cast(zero_BM, region_BRF.dtype)
    shown_BR = tf.tensor_scatter_nd_update(ones_BR, _places(place_BM), shown_BM)
    feature_BRF, box_BRG = region_BRF[..., :feature_size], region_BRF[..., feature_size:]
    target_BM = tf.gather(class_BR, place_BM, batch_dims=1)
    return {
        'regions': tf.concat([feature_BRF * shown_BR[..., None], box_BRG], axis=-1),
        'region_place': place_BM,
        'region_target': tf.where(hidden_BM, target_BM, IGNORED),
    }


def _drawn(open_BL: tf.Tensor, share: float, random_BL: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(places, int32 [B, M], which of them count): `share` of the open ones, at least one."""
    order_BL = tf.argsort(tf.where(open_BL, random_BL, 2.0), axis=1, stable=True)
    count_B = tf.reduce_sum(tf.cast(open_BL, tf.float32), axis=1)
    wanted_B = tf.minimum(tf.maximum(tf.round(share * count_B), 1.0 if share else 0.0), count_B)
    width = max_hidden(share, open_BL.shape[1])
    hidden_BM = tf.range(width, dtype=tf.float32)[None] < wanted_B[:, None]
    return order_BL[:, :width], hidden_BM


def _places(place_BM: tf.Tensor) -> tf.Tensor:
    """[B, M] -> indices [B, M, 2] of (example, place)."""
    row_BM = tf.broadcast_to(tf.range(tf.shape(place_BM)[0])[:, None], tf.shape(place_BM))
    return tf.stack([row_BM, place_BM], axis=-1)
