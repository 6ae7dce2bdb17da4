"""The texts of an example as one string, and its id as a number."""

import tensorflow as tf


def join_texts(text: tf.RaggedTensor, number_BJ: tf.Tensor) -> tf.Tensor:
    """string [B]: the numbered texts of each example, joined by commas.

    `text` is ragged [B, ?]; -1 in `number_BJ` is no text, and an example without any gets ''.
    """
    place_BJ = text.row_starts()[:, None] + tf.maximum(number_BJ, 0)
    wanted_BJ = tf.gather(text.values, place_BJ)
    # A single text needs no join.
    if number_BJ.shape[1] == 1:
        return tf.where(number_BJ[:, 0] < 0, '', wanted_BJ[:, 0])
    joined = tf.ragged.boolean_mask(wanted_BJ, number_BJ >= 0)
    return tf.strings.reduce_join(joined, axis=1, separator=', ')


def hash_ids(id_B: tf.Tensor) -> tf.Tensor:
    """int32 [B], not negative: hashes of string ids; two ids share one once in 2^31."""
    return tf.cast(tf.strings.to_hash_bucket_fast(id_B, 2**31 - 1), tf.int32)
