"""Composition of scenes: their captions and regions describe their images."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import mural
from PIL import Image

from mural_jax.data.sets import schema
from mural_jax.data.sets.records import Records
from mural_jax.data.sources.cldr import DEFAULT_SOURCES
from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.scenes import Scenes
from mural_jax.types import UserError

pytestmark = pytest.mark.skipif(
    not all(Path(path).exists() for path in DEFAULT_SOURCES.values()),
    reason='the emoji are missing; launch/packages.sh installs them',
)
# (axis, sign): along the axis the next object is farther in the direction of the sign.
DIRECTIONS = {'left of': (0, 1), 'right of': (0, -1), 'above': (1, 1), 'below': (1, -1)}


def make_reader(**more) -> Scenes:
    return Scenes(count=60, test_count=20, objects=12, size=48, languages=('en', 'de'), **more)


def read_split(reader: Scenes, split: str) -> list[Example]:
    return [x for part in reader.splits()[split] for x in reader.read_examples(split, part)]


def test_only_boxes_hold_objects() -> None:
    for example in read_split(make_reader(), 'train'):
        ink = np.asarray(Image.open(io.BytesIO(example.image))).min(-1) < 250
        assert ink.shape == (48, 48)
        outside = ink.copy()
        for left, top, right, bottom in np.round(48 * np.array(example.regions.boxes)).astype(int):
            assert ink[top:bottom, left:right].any()
            outside[top:bottom, left:right] = False
        assert not outside.any()


def test_captions_describe_objects_and_places() -> None:
    reader = make_reader()
    for example in read_split(reader, 'train'):
        names = [reader.things[number].names for number in example.regions.classes]
        english, german = (text for _, _, text in example.texts)
        assert german == ', '.join(name['de'] for name in names)
        boxes = np.array(example.regions.boxes)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        for number in range(len(names) - 1):
            before, after = names[number]['en'], names[number + 1]['en']
            relation = english.split(f'{before} ', 1)[1].split(f' {after}', 1)[0]
            dim, sign = DIRECTIONS[relation]
            assert sign * (middles[number + 1] - middles[number])[dim] > 0


def test_splits_share_no_set_of_objects() -> None:
    sets = {
        split: {frozenset(example.regions.classes) for example in read_split(make_reader(), split)}
        for split in ('train', 'validation', 'test')
    }
    assert not sets['train'] & sets['test'] and not sets['train'] & sets['validation']
    assert not sets['test'] & sets['validation']


def test_scenes_depend_only_on_seed_and_place() -> None:
    again, other = read_split(make_reader(), 'train'), read_split(make_reader(seed=1), 'train')
    assert read_split(make_reader(), 'train') == again != other
    longer = Scenes(count=70, test_count=20, objects=12, size=48, languages=('en', 'de'))
    assert read_split(longer, 'train')[:60] == again


@pytest.mark.parametrize(
    'wrong', [{'most': 1}, {'most': 10}, {'objects': 3}, {'size': 47}, {'count': 0}]
)
def test_wrong_flags_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=f'--{next(iter(wrong))}'):
        Scenes(**wrong).splits()


def test_too_many_objects_are_refused() -> None:
    with pytest.raises(UserError, match='--objects 5000'):
        _ = Scenes(objects=5000).things


def ingest_scenes(data_dir: Path, *flags: str) -> subprocess.CompletedProcess:
    words = ['data', 'ingest', 'scenes', f'--data_dir={data_dir}', '--test_count=5']
    return mural(*words, *flags)


def test_ingest_stores_regions_of_scenes(tmp_path: Path) -> None:
    done = ingest_scenes(tmp_path, '--name=scenes', '--count=30', '--objects=20')
    assert done.returncode == 0, done.stderr
    assert 'captions/scenes:train: 30 records, 30 texts in 1 languages' in done.stdout
    records = Records('captions/scenes', 'train', tmp_path)
    stored = schema.parse_examples(records.read(np.arange(30)), 'id', 'boxes', 'classes')
    composed = {x.id: x.regions for x in read_split(Scenes(count=30, objects=20), 'train')}
    for name, boxes, classes in zip(*(stored[key] for key in ('id', 'boxes', 'classes'))):
        regions = composed[name.numpy().decode()]
        np.testing.assert_allclose(boxes.numpy(), np.ravel(regions.boxes), rtol=1e-6)
        assert classes.numpy().tolist() == regions.classes


def test_ingest_reports_wrong_flags(tmp_path: Path) -> None:
    done = ingest_scenes(tmp_path, '--name=other', '--most=10')
    assert done.returncode == 2
    assert 'a cell of its own' in done.stderr
