"""Broken records: left out and listed at ingest, replaced and listed when they break later."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data.datasets import Letters, caption_reader, captions, encoded, picture, read

from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.reading import stream as opened_module
from mural_jax.data.reading.stream import OpenStream
from mural_jax.data.sets import schema
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.records import Records
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.types import Batch, UserError

COUNT, SIZE, STEPS = 80, 16, 10
Damage = Callable[[bytes], bytes]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('good')
    pictures = {f'{n}.jpg': encoded(picture(n), 'JPEG') for n in range(COUNT)}
    captions(folder, 'some', pictures, [(name, 'en', f'text of {name}') for name in pictures])
    return folder


def changed(field: str, change: Damage) -> Damage:
    """What changes one field of a serialized example."""

    def damage(serialized: bytes) -> bytes:
        example = tf.train.Example.FromString(serialized)
        values = example.features.feature[field].bytes_list.value
        values[0] = change(values[0])
        return example.SerializeToString()

    return damage


DAMAGES: dict[int, tuple[Damage, str]] = {
    3: (changed('image', lambda data: data[: len(data) // 2]), 'picture is broken'),
    17: (changed('image', lambda data: b''), 'picture has no bytes'),
    18: (lambda data: b'no example', 'record cannot be read'),
    40: (lambda data: data[: len(data) // 3], 'record cannot be read'),
    # TensorFlow's message holds these bytes, and is no UTF-8 then.
    41: (lambda data: b'\xce\x0a\xff\xfe', 'record cannot be read'),
    70: (changed('image', lambda data: encoded(picture(1).quantize(8), 'TIFF')), 'is TIFF'),
}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Damage]]:
    """The damage of records, by their number; a test may add more."""
    damages = {number: damage for number, (damage, _) in DAMAGES.items()}
    original = Records.read

    def damaged(self: Records, index_B: np.ndarray) -> np.ndarray:
        records = original(self, index_B)
        for place, number in enumerate(np.asarray(index_B).tolist()):
            if number in damages:
                records[place] = damages[number](records[place])
        return records

    monkeypatch.setattr(Records, 'read', damaged)
    yield damages


def opened(data_dir: Path, max_bad: float = 1.0, **fields: float) -> OpenStream:
    spec = Captions(
        {'s': StreamSource('captions/some')}, ('en',), SIZE, image_size=8, max_bad=max_bad, **fields
    )
    return spec.open(data_dir, Letters(), seed=9)


def whole(stream: OpenStream, position: int = 0, steps: int = STEPS, hosts: int = 1) -> Batch:
    """All batches, of all hosts, as one."""
    steps_of = [list(stream.batches(position, steps, host, hosts)) for host in range(hosts)]
    parts = [batches[step] for step in range(steps) for batches in steps_of]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_equal(left: Batch, right: Batch) -> None:
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def drawn(stream: OpenStream, count: int) -> np.ndarray:
    """The record that each draw takes."""
    return stream._pool.record_G[stream.members(np.arange(count))]


def test_broken_records_are_replaced_by_the_next_good_one(data_dir: Path, broken: dict) -> None:
    damages = dict(broken)
    broken.clear()
    clean = whole(opened(data_dir))
    order = drawn(opened(data_dir), STEPS * SIZE + 10)
    broken.update(damages)
    stream = opened(data_dir)
    found = whole(stream)
    bad = np.isin(order, list(DAMAGES))
    assert bad[: STEPS * SIZE].sum() >= 2 * len(DAMAGES)
    good_P = ~bad[: STEPS * SIZE]
    assert_equal({k: v[good_P] for k, v in clean.items()}, {k: v[good_P] for k, v in found.items()})
    texts = read(found['text'])
    names = dict(zip(order.tolist(), read(clean['text'])))
    for position in np.flatnonzero(~good_P):
        following = next(p for p in range(position, len(order)) if not bad[p])
        assert texts[position] == names[order[following]]
    listed = stream.take_bad()
    assert [item['position'] for item in listed] == np.flatnonzero(~good_P).tolist()
    records = Records('captions/some', 'train', data_dir)
    for item in listed:
        number = int(order[item['position']])
        assert DAMAGES[number][1] in item['reason']
        assert item['dataset'] == 'captions/some:train'
        assert {key: item[key] for key in ('shard', 'index')} == records.place(number)
    assert stream.take_bad() == []


def test_replacements_are_the_same_for_any_hosts_and_after_a_resume(
    data_dir: Path, broken: dict
) -> None:
    # The decoder of streams takes it, the checks of ingest would not: it must stay everywhere.
    broken[5] = changed('image', lambda data: encoded(picture(5).quantize(8), 'BMP'))
    stream = opened(data_dir)
    one = whole(stream)
    positions = [item['position'] for item in stream.take_bad()]
    for hosts in (4,):
        other = opened(data_dir)
        assert_equal(one, whole(other, hosts=hosts))
        assert sorted(item['position'] for item in other.take_bad()) == positions
    tail = whole(opened(data_dir), 5 * SIZE, STEPS - 5)
    assert_equal({key: value[5 * SIZE :] for key, value in one.items()}, tail)


def test_a_part_that_decodes_is_used_whatever_stands_beside_it(
    data_dir: Path, broken: dict
) -> None:
    """Where only parts of pictures are decoded, the same ones are replaced for any hosts."""
    damages = [changed('image', lambda data, n=n: data[: len(data) - 40 * n]) for n in range(1, 21)]
    broken.update({2 * n: damage for n, damage in enumerate(damages)})
    one = whole(opened(data_dir, area=0.1), steps=5)
    assert_equal(one, whole(opened(data_dir, area=0.1), steps=5, hosts=4))


def test_too_many_broken_ones_stop_the_run(
    data_dir: Path, broken: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_module, 'MAX_TRIES', 5)
    listed = r'(?s)max_bad=0.002:.*captions/some.*array_record'
    with pytest.raises(UserError, match=listed) as error:
        whole(opened(data_dir, max_bad=0.002))
    # Three of the first thousand are more than two.
    assert str(error.value).count("'position'") >= 3
    broken.update(dict.fromkeys(range(COUNT), lambda data: b'no example'))
    with pytest.raises(UserError, match='5 examples in a row are broken'):
        whole(opened(data_dir))


def test_what_no_record_is_at_fault_for_is_raised(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenStream, 'find', lambda self, position_B: 1 / 0)
    with pytest.raises(tf.errors.OpError, match='division by zero'):
        whole(opened(data_dir))


def test_a_shard_with_flipped_bytes_is_survived(tmp_path: Path) -> None:
    pictures = {f'{n}.png': encoded(picture(n)) for n in range(30)}
    captions(tmp_path, 'some', pictures, [(name, 'en', name) for name in pictures])
    clean = whole(opened(tmp_path), steps=4)
    (shard,) = (tmp_path / 'captions/some/1.0.0').glob('*.array_record*')
    data = bytearray(shard.read_bytes())
    written = np.flatnonzero(data)  # The rest is padding.
    for place in written[[len(written) // 3, len(written) // 2]].tolist():
        data[place : place + 8] = b'\xff' * 8
    shard.write_bytes(bytes(data))
    stream = opened(tmp_path)
    found = whole(stream, steps=4)
    listed = stream.take_bad()
    assert len({item['index'] for item in listed}) == 2
    good = np.setdiff1d(np.arange(4 * SIZE), [item['position'] for item in listed])
    assert_equal({k: v[good] for k, v in clean.items()}, {k: v[good] for k, v in found.items()})


REASONS = {
    'cut.jpg': (encoded(picture(1), 'JPEG')[:-500], 'picture is broken'),
    'page.jpg': (b'<html>', 'picture is not an image'),
    'large.png': (encoded(picture(2, (300, 300))), 'picture has too many pixels'),
    'mute.png': (encoded(picture(3)), 'text is empty'),
    'line\u2028end.png': (b'', 'no picture'),
}


def test_bad_ones_are_left_out_of_what_is_ingested_and_listed(tmp_path: Path) -> None:
    good = {f'{n}.png': encoded(picture(n)) for n in range(40)}
    pictures = good | {name: data for name, (data, _) in REASONS.items() if data}
    rows = [(name, 'en', ' \0' if name == 'mute.png' else 'a text') for name in good | REASONS]
    reader = caption_reader(tmp_path / 'made', pictures, rows)
    limits = RecordLimits(max_pixels=50_000)
    with pytest.raises(UserError, match='5 of 45 records.*more than --max_bad=0.1') as error:
        ingest(reader, 'some', tmp_path, limits, max_bad=0.1)
    assert 'captions.jsonl:4' in str(error.value)
    ingest(reader, 'some', tmp_path, limits, max_bad=5 / 45)
    records = Records('captions/some', 'train', tmp_path)
    lines = (records.folder / 'quarantine-train.jsonl').read_text(encoding='utf-8').split('\n')
    listed = [json.loads(line) for line in lines if line]
    assert {item['id']: item['reason'] for item in listed} == {
        name: reason for name, (_, reason) in REASONS.items()
    }
    for item in listed:
        numbers = [
            n
            for n in range(len(records))
            if records.place(n)['index'] == item['index']
            and records.place(n)['shard'] == item['shard']
        ]
        parsed = schema.parse_examples(records.read(np.array(numbers)), 'id', 'bad')
        assert [value.decode() for value in parsed['id'].numpy()] == [item['id']]
        assert parsed['bad'].numpy()[0].decode() == item['reason']
    assert {example['id'] for example in records.examples(image=False)} == set(good)
    assert set(drawn(opened(tmp_path), 40).tolist()) == set(range(45)) - {
        n for n in range(45) if records.index.bad_R[n]
    }
