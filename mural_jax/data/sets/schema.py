"""The schema of every data set: how examples are stored, and how they are parsed.

An example has an `id` and `texts`, a sequence of (language, kind, text). With an image it also has
the encoded `image`, its size and hash, a class `label` and `regions`. `bad` says why an example
must not be used. Bad examples are stored too, so that shard and index of an example never change.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mural_jax.data.sources.reader import Example, Text

NO_LABEL = -1


def make_features(languages: list[str], kinds: list[str], *, has_image: bool) -> dict[str, Any]:
    """The TFDS features of a data set; languages and kinds are stored as integers.

    `score` is a rating, or NaN. An image has its size in pixels, its perceptual hash (64 bits, see
    `hashes.image_hash`), a class number or NO_LABEL, and R regions: boxes [R * 4] as shares of the
    image, classes [R], features [R * F].

    Args:
      languages: The languages of the texts.
      kinds: The kinds of the texts.
      has_image: Whether the examples have an image.
    """
    text = tfds.features.Text()
    features: dict[str, Any] = {
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
        features |= {
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
    return features


def make_record(
    example: Example, *, has_image: bool, width: int = 0, height: int = 0, hash: int = 0
) -> dict[str, Any]:
    """The record that TFDS writes for a checked example.

    Args:
      example: The example, with clean texts.
      has_image: Whether the data set has images.
      width: Width of the image in pixels.
      height: Height of the image in pixels.
      hash: Perceptual hash of the image, 64 bits unsigned.
    """
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
            # TFDS has no unsigned integers of 64 bits.
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
    """The texts as they are stored: three lists of the same length."""
    return {
        'language': [language for language, _, _ in texts],
        'kind': [kind for _, kind, _ in texts],
        'text': [text for _, _, text in texts],
    }


# How TensorFlow parses each field of a serialized example.
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
    """The named fields of serialized examples, [B] or ragged [B, ?].

    Only these fields are copied, so leaving out `image` saves time.

    Args:
      serialized_B: Serialized examples, strings.
      *names: id, where, bad, image (strings), width, height, hash, label (int64), score (float32);
        or the ragged fields language, kind, text, boxes, classes, features.
    """
    return tf.io.parse_example(serialized_B, {name: FIELD_SPECS[name] for name in names})
