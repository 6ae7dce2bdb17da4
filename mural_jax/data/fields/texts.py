"""Texts of an example: joined, and hashed to ids."""

import tensorflow as tf


def join_texts(text: tf.RaggedTensor, number_BJ: tf.Tensor) -> tf.Tensor:
    """The numbered texts of each example, joined by commas, string [B]; -1 is no text, ''."""
    place_BJ = text.row_starts()[:, None] + tf.maximum(number_BJ, 0)
    wanted_BJ = tf.gather(text.values, place_BJ)
    if number_BJ.shape[1] == 1:
        return tf.where(number_BJ[:, 0] < 0, '', wanted_BJ[:, 0])
    joined = tf.ragged.boolean_mask(wanted_BJ, number_BJ >= 0)
    return tf.strings.reduce_join(joined, axis=1, separator=', ')


def hash_ids(text_B: tf.Tensor) -> tf.Tensor:
    """string [B] -> int32 [B], not negative."""
    return tf.cast(tf.strings.to_hash_bucket_fast(text_B, 2**31 - 1), tf.int32)
