"""Bad records at ingest: listed, and left out of what streams draw."""

import json
from pathlib import Path

import numpy as np
import pytest
from data.datasets import LetterTokenizer, draw_image, encode_image, write_captions

from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.reading.stream import open_stream
from mural_jax.data.sets import schema
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.records import Records
from mural_jax.data.sources.captions import CaptionTable
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.types import UserError

LIMITS = RecordLimits(max_pixels=50_000)
GOOD = {f'{n}.png': encode_image(draw_image(n)) for n in range(40)}
# By name of the image: its bytes, and the reason for which its record is bad.
BAD = {
    'cut.jpg': (encode_image(draw_image(1), 'JPEG')[:-500], 'image is broken'),
    'page.jpg': (b'<html>', 'image is not readable'),
    'large.png': (encode_image(draw_image(2, (300, 300))), 'image has too many pixels'),
    'mute.png': (encode_image(draw_image(3)), 'text is empty'),
    'line\u2028end.png': (b'', 'no image'),
}


def write_table(folder: Path) -> CaptionTable:
    images = GOOD | {name: data for name, (data, _) in BAD.items() if data}
    rows = [(name, 'en', ' \0' if name == 'mute.png' else 'a text') for name in GOOD | BAD]
    return write_captions(folder / 'made', images, rows)


@pytest.fixture(scope='module')
def ingested_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set captions/some: 40 good records, and the bad ones."""
    folder = tmp_path_factory.mktemp('ingested')
    ingest(write_table(folder), 'some', folder, LIMITS, max_bad=5 / 45)
    return folder


@pytest.fixture
def records(ingested_dir: Path) -> Records:
    return Records('captions/some', 'train', ingested_dir)


def test_too_many_bad_records_stop_the_ingest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='5 of 45 records.*more than --max_bad=0.1') as error:
        ingest(write_table(tmp_path), 'some', tmp_path, LIMITS, max_bad=0.1)
    assert 'captions.jsonl:4' in str(error.value)


def read_quarantine(records: Records) -> list[dict]:
    """The lines of the list of bad records."""
    path = records.folder / 'quarantine-train.jsonl'
    return [json.loads(line) for line in path.read_text(encoding='utf-8').split('\n') if line]


def test_bad_records_are_listed_with_their_reasons(records: Records) -> None:
    reasons = {item['id']: item['reason'] for item in read_quarantine(records)}
    assert reasons == {name: reason for name, (_, reason) in BAD.items()}


def test_listed_places_are_those_of_the_bad_records(records: Records) -> None:
    for item in read_quarantine(records):
        place = {key: item[key] for key in ('shard', 'index')}
        numbers = [n for n in range(len(records)) if records.locate(n) == place]
        parsed = schema.parse_examples(records.read(np.array(numbers)), 'id', 'bad')
        assert [value.decode() for value in parsed['id'].numpy()] == [item['id']]
        assert parsed['bad'].numpy()[0].decode() == item['reason']


def test_examples_are_the_good_ones(records: Records) -> None:
    assert {example['id'] for example in records.examples(image=False)} == set(GOOD)


def test_stream_draws_no_bad_record(ingested_dir: Path, records: Records) -> None:
    settings = Captions({'s': StreamSource('captions/some')}, ('en',), 16, image_size=8)
    stream = open_stream(settings, ingested_dir, LetterTokenizer(), seed=9)
    drawn = stream.pool.record_G[stream.members_at(np.arange(40))]
    assert set(drawn.tolist()) == set(np.flatnonzero(~np.asarray(records.index.bad_R)).tolist())
