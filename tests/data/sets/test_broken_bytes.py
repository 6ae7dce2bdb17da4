"""Images and records with broken bytes are refused, or decoded within the limits."""

import random
import resource
from typing import Any

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from data.datasets import LetterTokenizer, draw_image, encode_image
from data.fuzz import FUZZ_ROUNDS, mutate

from mural_jax.data.reading.assemble import BatchAssembler
from mural_jax.data.sets import checks, schema
from mural_jax.data.sets.checks import BadRecord, RecordLimits
from mural_jax.data.sources.reader import Example
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.captions import Captions

IMAGE = draw_image(1, (61, 43))
PALETTE = IMAGE.quantize(64)
FRAMES: dict[str, Any] = {'save_all': True, 'append_images': [PALETTE.rotate(90)] * 5}
SEEDS = {
    'jpeg': encode_image(IMAGE, 'JPEG'),
    'progressive': encode_image(IMAGE, 'JPEG', progressive=True),
    'png': encode_image(PALETTE, 'PNG'),
    'gif': encode_image(PALETTE, 'GIF', **FRAMES),
    'webp': encode_image(IMAGE, 'WEBP'),
    'bmp': encode_image(IMAGE, 'BMP'),
}


@pytest.mark.parametrize('form', SEEDS)
def test_broken_images_are_refused_or_within_limits(form: str) -> None:
    rng, most, good = random.Random(form), 10_000, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(FUZZ_ROUNDS):
        try:
            image_HWC = checks.decode_image(mutate(SEEDS[form], rng), most)
        except BadRecord:
            continue
        good += 1
        assert image_HWC.shape[2] == 3
        assert image_HWC.shape[0] * image_HWC.shape[1] <= most
    assert good < FUZZ_ROUNDS
    # A broken header that claims a large size takes no memory either.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, 'kilobytes'


def test_broken_records_raise_only_known_errors() -> None:
    features = tfds.features.FeaturesDict(schema.make_features(['de', 'en'], ['x'], has_image=True))
    example = Example('1', [('en', 'x', 'a dog'), ('de', 'x', 'Hund')], SEEDS['jpeg'])
    stored = checks.make_record(example, RecordLimits(), has_image=True)
    serialized = features.serialize_example(features.encode_example(stored))
    spec = Captions({'x': StreamSource('captions/x')}, ('en',), 1, image_size=8)
    assembler = BatchAssembler(spec, LetterTokenizer(), {}, num_joined=1, substitutes=None)
    # The second text, the first label, and any random numbers.
    drawn = [tf.constant([[1]], tf.int64), tf.constant([0]), tf.zeros([1, spec.num_random])]
    made = assembler.make_strings([tf.constant([serialized]), *drawn])
    assert made['text'].numpy() == [b'Hund']
    rng, failed = random.Random(7), 0
    for _ in range(FUZZ_ROUNDS):
        broken = tf.constant([mutate(serialized, rng)])
        try:
            schema.parse_examples(broken, *schema.FIELD_SPECS)
            assembler.make_strings([broken, *drawn])
        # TensorFlow raises UnicodeDecodeError if its message holds broken bytes of the record.
        except (tf.errors.OpError, UnicodeDecodeError):
            failed += 1
    assert failed > FUZZ_ROUNDS / 4
