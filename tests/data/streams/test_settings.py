"""Settings of streams: impossible ones are refused, and they need no TensorFlow."""

import dataclasses
import subprocess
import sys

import pytest

from mural_jax.data.streams.base import ROLES, StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.data.streams.catalog import STREAMS
from mural_jax.data.streams.hidden import HiddenCaptions
from mural_jax.data.streams.regions import RegionCaptions
from mural_jax.types import UserError

SOURCES = {'a': StreamSource('captions/a')}


def test_catalog_imports_no_tensorflow() -> None:
    script = (
        'import sys, mural_jax.data.streams.catalog;'
        'print([name for name in ("tensorflow", "jax") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr


@pytest.mark.parametrize('kind', STREAMS)
def test_every_field_has_a_known_role(kind: str) -> None:
    fields = STREAMS[kind](SOURCES, ('en',), batch_size=2).fields()
    assert {field.role for field in fields.values()} <= set(ROLES)


def test_negatives_name_the_fields_they_replace() -> None:
    stream = RegionCaptions(SOURCES, ('en',), 2, hard_negatives=True, tags='tags')
    negatives = {
        name: field.negative_of for name, field in stream.fields().items() if field.negative_of
    }
    assert negatives == {
        'regions_negative': 'regions',
        'text_negative': 'text',
        'tags_negative': 'tags',
    }


def test_ids_are_those_of_the_example_and_its_own_texts() -> None:
    stream = RegionCaptions(SOURCES, ('en',), 2, hard_negatives=True, tags='tags')
    assert stream.num_ids == 2
    assert STREAMS['translations'](SOURCES, ('en',), 2).num_ids == 3


def test_patches_without_codebook_have_no_classes() -> None:
    stream = HiddenCaptions(SOURCES, ('en',), 2)
    patches = dataclasses.replace(stream.regions, by='patches')
    words = dataclasses.replace(patches, codebook=9)
    counts = [
        dataclasses.replace(stream, regions=regions).fields()['region_target'].num_classes
        for regions in (stream.regions, patches, words)
    ]
    assert counts == [None, 0, 9]


@pytest.mark.parametrize(
    'wrong',
    [{'area': 0.5}, {'resize': 128}, {'hide_words': 1.0}, {'mismatch': 1.5}, {'candidates': 0}],
)
def test_impossible_stream_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        HiddenCaptions(SOURCES, (), batch_size=2, **wrong)


def test_resize_below_image_size_is_refused() -> None:
    with pytest.raises(UserError, match='smaller than image_size'):
        Captions(SOURCES, ('en',), 4, image_size=64, resize=32)
