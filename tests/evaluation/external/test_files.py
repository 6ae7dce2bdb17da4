"""Retrieval between embeddings in files, against CLIP_benchmark and with broken files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from evaluation.external.published import Trap
from evaluation.oracles import clip_benchmark_recall, random_units
from pyarrow import parquet

from mural_jax.cli.parser import main
from mural_jax.evaluation.external import files
from mural_jax.types import UserError


def write_table(path: Path, vector_ND: Any, **columns: list) -> Path:
    array = pa.array(list(vector_ND), type=pa.list_(pa.float32()))
    parquet.write_table(pa.table({**columns, 'embedding': array}), path, row_group_size=7)
    return path


def evaluate(out: Path, *words: object) -> dict[str, Any]:
    """The scores that `mural evaluate` writes."""
    assert main(['evaluate', *map(str, words), f'--out={out}']) == 0
    return json.loads((out / 'eval' / '0.json').read_text())


class TwoTables(NamedTuple):
    """Files of images and texts, and what is in them; owner_M: the image of each text."""

    images: Path
    texts: Path
    image_ND: np.ndarray
    text_MD: np.ndarray
    owner_M: np.ndarray


@pytest.fixture
def tables(tmp_path: Path) -> TwoTables:
    """30 images with one to four texts each, in no order."""
    rng = np.random.default_rng(0)
    image_ND = random_units(rng, 30, 8)
    owner_M = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 5, 30)))
    text_MD = image_ND[owner_M] + 0.6 * random_units(rng, len(owner_M), 8)
    text_MD /= np.linalg.norm(text_MD, axis=1, keepdims=True)
    ids = [f'{number}.jpg' for number in range(30)]
    images = write_table(tmp_path / 'images.parquet', image_ND, id=ids)
    owners = [ids[owner] for owner in owner_M]
    language = ['en'] * len(owner_M)
    texts = write_table(tmp_path / 'texts.parquet', text_MD, id=owners, language=language)
    return TwoTables(images, texts, image_ND, text_MD, owner_M)


def test_recalls_equal_clip_benchmark(tables: TwoTables, tmp_path: Path) -> None:
    node = evaluate(tmp_path / 'out', f'--images={tables.images}', f'--texts={tables.texts}')
    row = node['results']['embeddings']['en']
    score_MN = tables.text_MD @ tables.image_ND.T
    right_MN = tables.owner_M[:, None] == np.arange(30)
    for k in (1, 5, 10):
        theirs = (
            clip_benchmark_recall(score_MN, right_MN, k),
            clip_benchmark_recall(score_MN.T, right_MN.T, k),
        )
        ours = row[f'text_to_image_r{k}'], row[f'image_to_text_r{k}']
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert 0 < row['text_to_image_r1'] < 100
    assert set(node['intervals']['embeddings']['en']) >= {'mean_recall', 'text_to_image_r1'}


@pytest.fixture
def copies_ND() -> np.ndarray:
    """Ten vectors, each twice in a row."""
    return np.repeat(random_units(np.random.default_rng(1), 10, 6), 2, axis=0)


def test_ties_share_the_hit(copies_ND: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / 'i.npy', copies_ND)
    np.save(tmp_path / 't.npy', copies_ND)
    words = f'--images={tmp_path / "i.npy"}', f'--texts={tmp_path / "t.npy"}'
    row = evaluate(tmp_path / 'out', *words)['results']['embeddings']['en']
    assert row['text_to_image_r1'] == row['image_to_text_r1'] == pytest.approx(50)


def test_clip_benchmark_counts_ties_by_row_order(copies_ND: np.ndarray) -> None:
    """It takes the first of equal items: one query of each two is right, whichever is first."""
    vectors = copies_ND.astype(np.float64)
    score_NN = (vectors @ vectors.T).round(9)
    rows, right_NN = np.arange(20), np.eye(20, dtype=bool)
    for order in (rows, rows[::-1]):
        assert clip_benchmark_recall(score_NN[:, order], right_NN[:, order], 1) == 50
    # With one query for each two copies it is all or nothing; here it would be the half.
    assert clip_benchmark_recall(score_NN[::2], right_NN[::2], 1) == 100
    assert clip_benchmark_recall(score_NN[1::2], right_NN[1::2], 1) == 0


@pytest.fixture(scope='module')
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Scores of 32 images, 31 with captions in two languages, 10 with names in one."""
    folder = tmp_path_factory.mktemp('kinds')
    image_ND = random_units(np.random.default_rng(2), 32, 5)
    images = write_table(folder / 'i.parquet', 3 * image_ND, id=list(range(32)))
    columns: dict[str, list] = {
        'id': [*range(28), *range(14, 31), *range(10)],
        'language': ['en'] * 28 + ['sw'] * 17 + ['en'] * 10,
        'kind': ['caption'] * 45 + ['name'] * 10,
    }
    texts = write_table(folder / 't.parquet', image_ND[columns['id']], **columns)
    return evaluate(folder / 'out', f'--images={images}', f'--texts={texts}')


def test_each_kind_of_text_has_its_evaluator(kinds: dict[str, Any]) -> None:
    assert set(kinds['results']) == {'embeddings/caption', 'embeddings/name'}


def test_each_language_has_its_gallery(kinds: dict[str, Any]) -> None:
    captions = kinds['results']['embeddings/caption']
    assert set(captions) == {'en', 'sw', 'mean_all'}
    assert captions['sw']['text_to_image_r1'] == 100
    assert kinds['protocol']['embeddings/caption']['languages'] == ['en', 'sw']


def test_protocol_counts_images_without_text(kinds: dict[str, Any]) -> None:
    assert '1 have none' in kinds['protocol']['embeddings/caption']['gallery']
    assert '22 have none' in kinds['protocol']['embeddings/name']['gallery']


def test_protocol_names_scaled_side(kinds: dict[str, Any]) -> None:
    assert kinds['protocol']['embeddings/caption']['normalised'] == ['images']


def test_gallery_smaller_than_k_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ('i', 't'):
        np.save(tmp_path / f'{side}.npy', np.eye(9, dtype=np.float32))
    words = [f'--images={tmp_path}/i.npy', f'--texts={tmp_path}/t.npy', '--language=sw']
    assert main(['evaluate', *words, f'--out={tmp_path}/out']) == 2
    assert 'i.npy has a gallery of 9 in sw' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'eval').exists()


@pytest.fixture
def long_arrays(tmp_path: Path) -> tuple[str, ...]:
    """The flags of two files: images of length 7, and texts of length 1."""
    vector = random_units(np.random.default_rng(3), 12, 5)
    np.save(tmp_path / 'i.npy', 7 * vector.astype(np.float64))
    np.save(tmp_path / 't.npy', vector)
    return f'--images={tmp_path / "i.npy"}', f'--texts={tmp_path / "t.npy"}', '--language=sw'


def test_scaled_vectors_are_reported(
    long_arrays: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = evaluate(tmp_path / 'out', *long_arrays)['results']['embeddings']['sw']
    assert row['mean_recall'] == 100
    output = capsys.readouterr().out
    assert 'images of' in output and 'length 1' in output and 'texts of' not in output


def test_only_files_with_new_content_are_scored_again(
    long_arrays: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tmp_path / 'out', *long_arrays)
    capsys.readouterr()
    evaluate(tmp_path / 'out', *long_arrays)
    assert 'skipped' in capsys.readouterr().out
    np.save(tmp_path / 't.npy', np.load(tmp_path / 't.npy')[::-1])
    evaluate(tmp_path / 'out', *long_arrays)
    assert 'skipped' not in capsys.readouterr().out


def make_bad_arrays() -> dict[str, tuple[Any, str]]:
    good = random_units(np.random.default_rng(4), 6, 4)
    broken = good.copy()
    broken[2, 1] = np.nan
    empty = good.copy()
    empty[1] = 0
    return {
        'nan': (broken, '1 of 6 embeddings .* zero or not finite'),
        'zero': (empty, '1 of 6 embeddings'),
        'narrow': (good[:, :3], '4 dimensions and .* 3'),
        'none': (good[:0], r'holds float32 \[0, 4\]'),
        'flat': (good[0], r'holds float32 \[4\]'),
        'integers': (np.ones((6, 4), int), 'holds int64'),
        'fewer': (good[:5], '6 rows and .* 5'),
        'objects': (np.array([[Trap()]], object), 'no array of numbers'),
    }


@pytest.mark.parametrize('kind', make_bad_arrays())
def test_bad_array_is_refused(kind: str, tmp_path: Path) -> None:
    array, message = make_bad_arrays()[kind]
    np.save(tmp_path / 'i.npy', random_units(np.random.default_rng(4), 6, 4))
    np.save(tmp_path / 't.npy', array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        files.build_evaluators(tmp_path / 'i.npy', tmp_path / 't.npy', '')


def make_lists(values: list, kind: Any = None) -> Callable[[], pa.Array]:
    return lambda: pa.array(values, type=kind or pa.list_(pa.float32()))


BAD_TABLES = {
    'another image': (make_lists([[1.0, 0.0]] * 3), ['a', 'b', 'x'], '1 ids of .*, such as x'),
    'lengths': (make_lists([[1.0, 0.0], [1.0], [1.0, 0.0]]), ['a', 'b', 'b'], 'have 2 lengths'),
    'no vector': (make_lists([[1.0, 0.0], None, [1.0, 0.0]]), ['a', 'b', 'b'], 'have 2 lengths'),
    'no number': (make_lists([[1.0, 0.0], [1.0, None], [1.0, 0.0]]), ['a', 'b', 'b'], '1 of 3'),
    'no id': (make_lists([[1.0, 0.0]] * 3), ['a', None, 'b'], 'column id has empty places'),
    'words': (make_lists(['x'] * 3, pa.string()), ['a', 'b', 'b'], 'holds 3 times string'),
    'no rows': (make_lists([]), [], 'embedding holds 0 times'),
}


@pytest.mark.parametrize('kind', BAD_TABLES)
def test_bad_table_is_refused(kind: str, tmp_path: Path) -> None:
    column, ids, message = BAD_TABLES[kind]
    vector = random_units(np.random.default_rng(5), 2, 2)
    images = write_table(tmp_path / 'i.parquet', vector, id=['a', 'b'])
    texts = tmp_path / 't.parquet'
    columns = {'id': pa.array(ids, pa.string()), 'language': ['en'] * len(ids)}
    parquet.write_table(pa.table(columns | {'embedding': column()}), texts)
    with pytest.raises(UserError, match=message):
        files.build_evaluators(images, texts, '')


@pytest.mark.parametrize(
    ('images', 'texts', 'language', 'message'),
    [
        ('twice.parquet', 't.parquet', '', '1 ids more than once'),
        ('twice.parquet', 'twice.parquet', '', 'no column language'),
        ('twice.parquet', 't.parquet', 'de', '--language is for'),
        ('twice.parquet', 't.npy', '', 'two tables .parquet, or two arrays .npy'),
        ('broken.parquet', 't.parquet', '', 'not a readable Parquet file'),
        ('missing.parquet', 't.parquet', '', 'not a readable Parquet file'),
    ],
)
def test_files_that_do_not_fit_are_refused(
    images: str, texts: str, language: str, message: str, tmp_path: Path
) -> None:
    vector = random_units(np.random.default_rng(6), 2, 3)
    write_table(tmp_path / 'twice.parquet', vector, id=['a', 'a'])
    write_table(tmp_path / 't.parquet', vector, id=['a', 'a'], language=['en', 'en'])
    (tmp_path / 'broken.parquet').write_bytes(b'PAR1 no')
    with pytest.raises(UserError, match=message):
        files.build_evaluators(tmp_path / images, tmp_path / texts, language)


@pytest.mark.parametrize(
    ('file', 'content'), [('model.json', '{"model": "another"}'), ('config.json', '{}')]
)
def test_folder_of_another_model_or_run_is_refused(
    file: str, content: str, tables: TwoTables, tmp_path: Path
) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / file).write_text(content)
    flags = f'--images={tables.images}', f'--texts={tables.texts}', f'--out={tmp_path / "out"}'
    assert main(['evaluate', *flags]) == 2
