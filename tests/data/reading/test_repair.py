"""Records that break after ingest are replaced by the next good ones, and listed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from data.batches import join_batches
from data.datasets import LetterTokenizer, draw_image, encode_image, ingest_captions, read_letters

from mural_jax.data.reading import repair
from mural_jax.data.reading.stream import OpenStream, open_stream
from mural_jax.data.sets.records import Records
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.types import Batch, UserError

COUNT, SIZE, STEPS = 80, 16, 10
Damage = Callable[[bytes], bytes]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('good')
    images = {f'{n}.jpg': encode_image(draw_image(n), 'JPEG') for n in range(COUNT)}
    ingest_captions(folder, 'some', images, [(name, 'en', f'text of {name}') for name in images])
    return folder


def change_column(column: str, change: Damage) -> Damage:
    """A damage that changes one column of a serialized example."""

    def damage(serialized: bytes) -> bytes:
        example = tf.train.Example.FromString(serialized)
        values = example.features.feature[column].bytes_list.value
        values[0] = change(values[0])
        return example.SerializeToString()

    return damage


# By number of the record: its damage, and the reason that is listed.
DAMAGES: dict[int, tuple[Damage, str]] = {
    3: (change_column('image', lambda data: data[: len(data) // 2]), 'image is broken'),
    17: (change_column('image', lambda data: b''), 'image has no bytes'),
    18: (lambda data: b'no example', 'record cannot be read'),
    40: (lambda data: data[: len(data) // 3], 'record cannot be read'),
    # TensorFlow's message holds these bytes, and is no UTF-8 then.
    41: (lambda data: b'\xce\x0a\xff\xfe', 'record cannot be read'),
    70: (
        change_column('image', lambda data: encode_image(draw_image(1).quantize(8), 'TIFF')),
        'is TIFF',
    ),
}


@pytest.fixture
def damages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Damage]]:
    """The damage of records, by their number; a test may add and remove some."""
    active = {number: damage for number, (damage, _) in DAMAGES.items()}
    original = Records.read

    def read_damaged(self: Records, index_B: np.ndarray) -> np.ndarray:
        records = original(self, index_B)
        for place, number in enumerate(np.asarray(index_B).tolist()):
            if number in active:
                records[place] = active[number](records[place])
        return records

    monkeypatch.setattr(Records, 'read', read_damaged)
    yield active


def open_some(data_dir: Path, max_bad: float = 1.0, **fields: Any) -> OpenStream:
    sources = {'s': StreamSource('captions/some')}
    stream = Captions(sources, ('en',), SIZE, image_size=8, max_bad=max_bad, **fields)
    return open_stream(stream, data_dir, LetterTokenizer(), seed=9)


def read_all(
    stream: OpenStream, position: int = 0, steps: int = STEPS, num_processes: int = 1
) -> Batch:
    """All batches, of all processes, as one."""
    slices = [
        list(stream.batches(position, steps, row_B))
        for row_B in np.split(np.arange(stream.batch_size), num_processes)
    ]
    return join_batches([batches[step] for step in range(steps) for batches in slices])


def assert_equal_at(left: Batch, right: Batch, place_P: Any = slice(None)) -> None:
    """Both batches hold the same at some places."""
    for key in left:
        np.testing.assert_array_equal(left[key][place_P], right[key][place_P], err_msg=key)


def drawn_records(stream: OpenStream, count: int) -> np.ndarray:
    """The records at the first positions of a stream."""
    return stream.pool.record_G[stream.members_at(np.arange(count))]


@pytest.fixture
def clean_and_repaired(data_dir: Path, damages: dict) -> tuple[Batch, Batch, np.ndarray, list]:
    """(undamaged batches, repaired batches, the records in order, what was listed)."""
    active = dict(damages)
    damages.clear()
    clean = read_all(open_some(data_dir))
    order = drawn_records(open_some(data_dir), STEPS * SIZE + 10)
    damages.update(active)
    stream = open_some(data_dir)
    repaired = read_all(stream)
    listed = stream.take_bad()
    assert stream.take_bad() == [], 'an example is listed once'
    return clean, repaired, order, listed


def test_broken_records_are_replaced_by_the_next_good_one(
    clean_and_repaired: tuple[Batch, Batch, np.ndarray, list],
) -> None:
    clean, repaired, order, _ = clean_and_repaired
    bad = np.isin(order, list(DAMAGES))
    assert bad[: STEPS * SIZE].sum() >= 2 * len(DAMAGES)
    good_P = ~bad[: STEPS * SIZE]
    assert_equal_at(clean, repaired, good_P)
    texts = read_letters(repaired['text'])
    text_of = dict(zip(order.tolist(), read_letters(clean['text'])))
    for position in np.flatnonzero(~good_P):
        following = next(p for p in range(position, len(order)) if not bad[p])
        assert texts[position] == text_of[order[following]]


def test_broken_records_are_listed_with_place_and_reason(
    data_dir: Path, clean_and_repaired: tuple[Batch, Batch, np.ndarray, list]
) -> None:
    _, _, order, listed = clean_and_repaired
    bad_P = np.isin(order[: STEPS * SIZE], list(DAMAGES))
    assert [item['position'] for item in listed] == np.flatnonzero(bad_P).tolist()
    records = Records('captions/some', 'train', data_dir)
    for item in listed:
        number = int(order[item['position']])
        assert DAMAGES[number][1] in item['reason']
        assert item['dataset'] == 'captions/some:train'
        assert {key: item[key] for key in ('shard', 'index')} == records.locate(number)


def test_replacements_are_the_same_for_any_processes_and_after_a_resume(
    data_dir: Path, damages: dict
) -> None:
    # The decoder of streams takes BMP, the checks of ingest do not: it must stay everywhere.
    damages[5] = change_column('image', lambda data: encode_image(draw_image(5).quantize(8), 'BMP'))
    stream = open_some(data_dir)
    one = read_all(stream)
    positions = [item['position'] for item in stream.take_bad()]
    other = open_some(data_dir)
    assert_equal_at(one, read_all(other, num_processes=4))
    assert sorted(item['position'] for item in other.take_bad()) == positions
    tail = read_all(open_some(data_dir), 5 * SIZE, STEPS - 5)
    assert_equal_at({key: value[5 * SIZE :] for key, value in one.items()}, tail)


def test_part_that_decodes_is_used_whatever_stands_beside_it(data_dir: Path, damages: dict) -> None:
    """Where only parts of images are decoded, any processes replace the same examples."""
    cuts = [
        change_column('image', lambda data, n=n: data[: len(data) - 40 * n]) for n in range(1, 21)
    ]
    damages.update({2 * n: damage for n, damage in enumerate(cuts)})
    one = read_all(open_some(data_dir, area=0.1), steps=5)
    assert_equal_at(one, read_all(open_some(data_dir, area=0.1), steps=5, num_processes=4))


def test_too_many_broken_examples_stop_the_run(data_dir: Path, damages: dict) -> None:
    listed = r'(?s)max_bad=0.002:.*captions/some.*array_record'
    with pytest.raises(UserError, match=listed) as error:
        read_all(open_some(data_dir, max_bad=0.002))
    # Three of the first thousand are more than two.
    assert str(error.value).count("'position'") >= 3


def test_data_set_of_broken_records_stops_the_run(
    data_dir: Path, damages: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, 'MAX_TRIES', 5)
    damages.update(dict.fromkeys(range(COUNT), lambda data: b'no example'))
    with pytest.raises(UserError, match='5 examples in a row are broken'):
        read_all(open_some(data_dir))


def test_error_that_no_record_causes_is_raised(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenStream, 'draw_examples', lambda self, position_B: 1 / 0)
    with pytest.raises(tf.errors.OpError, match='division by zero'):
        read_all(open_some(data_dir))


def test_shard_with_flipped_bytes_is_survived(tmp_path: Path) -> None:
    images = {f'{n}.png': encode_image(draw_image(n)) for n in range(30)}
    ingest_captions(tmp_path, 'some', images, [(name, 'en', name) for name in images])
    clean = read_all(open_some(tmp_path), steps=4)
    (shard,) = (tmp_path / 'captions/some/1.0.0').glob('*.array_record*')
    data = bytearray(shard.read_bytes())
    written = np.flatnonzero(data)  # The rest is padding.
    for place in written[[len(written) // 3, len(written) // 2]].tolist():
        data[place : place + 8] = b'\xff' * 8
    shard.write_bytes(bytes(data))
    stream = open_some(tmp_path)
    found = read_all(stream, steps=4)
    listed = stream.take_bad()
    assert len({item['index'] for item in listed}) == 2
    good_P = np.setdiff1d(np.arange(4 * SIZE), [item['position'] for item in listed])
    assert_equal_at(clean, found, good_P)
