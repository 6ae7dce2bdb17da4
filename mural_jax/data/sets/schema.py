"""The one schema of every data set, and what reads it back.

An example has an `id`, `texts`, a sequence of (language, kind, text), and where it shows something
an encoded `image` with what is known of it, a class `label` and `regions`. `bad` says why an
example must not be used; it is stored all the same, so that shard and index name it for good.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mural_jax.data.sources.reader import Example, Text

NO_LABEL = -1


def make_features(languages: list[str], kinds: list[str], *, has_image: bool) -> dict[str, Any]:
    """The features of a data set; languages and kinds are stored as integers.

    `score` is a rating, NaN where there is none. A picture has its size in pixels, its perceptual
    hash (64 bits, see `near.picture_hash`), a class number or NO_LABEL, and R regions: boxes
    [R * 4] in shares of the picture, classes [R], features [R * F].
    """
    text = tfds.features.Text()
    wanted: dict[str, Any] = {
        'id': text,
        'where': text,
        'bad': text,
        'score': np.float32,
        'texts': {
            'language': tfds.features.Sequence(tfds.features.ClassLabel(names=languages)),
            'kind': tfds.features.Sequence(tfds.features.ClassLabel(names=kinds)),
            'text': tfds.features.Sequence(text),
        },
    }
    if has_image:
        sequence = tfds.features.Sequence
        wanted |= {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'width': np.int64,
            'height': np.int64,
            'hash': np.int64,
            'label': np.int64,
            'regions': {
                'boxes': sequence(np.float32),
                'classes': sequence(np.int64),
                'features': sequence(np.float32),
            },
        }
    return wanted


def make_fields(
    example: Example, *, has_image: bool, width: int = 0, height: int = 0, hash: int = 0
) -> dict[str, Any]:
    """What TFDS writes of a checked example; `hash` is unsigned."""
    fields: dict[str, Any] = {
        'id': example.id,
        'where': example.where,
        'bad': example.bad,
        'score': example.score,
        'texts': text_lists(example.texts),
    }
    if has_image:
        regions = example.regions
        fields |= {
            'image': example.image,
            'width': width,
            'height': height,
            'hash': int(np.uint64(hash).astype(np.int64)),
            'label': example.label,
            'regions': {
                'boxes': np.asarray(regions.boxes, np.float32).ravel(),
                'classes': np.asarray(regions.classes, np.int64),
                'features': np.asarray(regions.features, np.float32).ravel(),
            },
        }
    return fields


def text_lists(texts: list[Text]) -> dict[str, list[str]]:
    """The three lists of one length that `texts` is stored as."""
    return {
        'language': [language for language, _, _ in texts],
        'kind': [kind for _, kind, _ in texts],
        'text': [text for _, _, text in texts],
    }


FIELD_SPECS = {
    'language': tf.io.RaggedFeature(tf.int64, 'texts/language', row_splits_dtype=tf.int64),
    'kind': tf.io.RaggedFeature(tf.int64, 'texts/kind', row_splits_dtype=tf.int64),
    'text': tf.io.RaggedFeature(tf.string, 'texts/text', row_splits_dtype=tf.int64),
    **{key: tf.io.FixedLenFeature([], tf.string) for key in ('id', 'where', 'bad', 'image')},
    **{key: tf.io.FixedLenFeature([], tf.int64) for key in ('width', 'height', 'hash', 'label')},
    'score': tf.io.FixedLenFeature([], tf.float32),
    'boxes': tf.io.RaggedFeature(tf.float32, 'regions/boxes', row_splits_dtype=tf.int64),
    'classes': tf.io.RaggedFeature(tf.int64, 'regions/classes', row_splits_dtype=tf.int64),
    'features': tf.io.RaggedFeature(tf.float32, 'regions/features', row_splits_dtype=tf.int64),
}


def parse_examples(serialized_B: tf.Tensor, *names: str) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Serialized examples -> the named fields, [B] or ragged [B, ?].

    Fields: id, where, bad, image (strings), width, height, hash, label (int64), score, and the
    ragged language, kind, text, boxes, classes, features. What is not asked for is not copied.
    """
    return tf.io.parse_example(serialized_B, {name: FIELD_SPECS[name] for name in names})
