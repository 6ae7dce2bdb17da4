"""The one schema of every data set, and what reads it back.

An example has an `id`, a `concept` (what it shows; a concept never straddles splits), maybe an
`image`, and `texts`: a sequence of (language, kind, text). Languages are CLDR locales, `pt`,
`sr_Latn`; a text is the `name` of what the example shows or one `keyword` of it.
"""

import tensorflow as tf
import tensorflow_datasets as tfds

NAME, KEYWORD = 0, 1
KINDS = ('name', 'keyword')
Text = tuple[str, str, str]  # language, kind, text


def texts_feature(languages: list[str]) -> dict[str, tfds.features.Sequence]:
    """Three lists of one length, {language, kind, text}; the first two are stored as integers."""
    return {
        'language': tfds.features.Sequence(tfds.features.ClassLabel(names=languages)),
        'kind': tfds.features.Sequence(tfds.features.ClassLabel(names=KINDS)),
        'text': tfds.features.Sequence(tfds.features.Text()),
    }


def columns(texts: list[Text]) -> dict[str, list[str]]:
    """The three lists that `texts_feature` takes."""
    language, kind, text = (list(column) for column in zip(*texts))
    return {'language': language, 'kind': kind, 'text': text}


def parse(serialized_B: tf.Tensor, *, image: bool) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Serialized examples -> {id, concept: string [B]; language, kind, text: ragged [B, ?]}.

    With `image` also the encoded picture, string [B]. What is not asked for is not copied.
    """
    spec = {
        'id': tf.io.FixedLenFeature([], tf.string),
        'concept': tf.io.FixedLenFeature([], tf.string),
        'language': tf.io.RaggedFeature(tf.int64, 'texts/language', row_splits_dtype=tf.int64),
        'kind': tf.io.RaggedFeature(tf.int64, 'texts/kind', row_splits_dtype=tf.int64),
        'text': tf.io.RaggedFeature(tf.string, 'texts/text', row_splits_dtype=tf.int64),
    }
    if image:
        spec['image'] = tf.io.FixedLenFeature([], tf.string)
    return tf.io.parse_example(serialized_B, spec)
