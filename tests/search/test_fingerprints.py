"""Fingerprints tell models apart, and keep an index from being used with another model."""

from pathlib import Path

import numpy as np
import pytest

from mural_jax.search.fingerprints import (
    FINGERPRINTED_FILES,
    fingerprint_arrays,
    fingerprint_export,
    require_model,
)
from mural_jax.types import UserError

PARAMS = {'text': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}}
STATISTICS = {'mean': np.zeros(3, np.float32)}


def write_export(folder: Path, **changes: str) -> Path:
    folder.mkdir()
    for name in FINGERPRINTED_FILES:
        (folder / name).write_text(changes.get(name, name))
    return folder


def test_copy_of_an_export_has_the_same_fingerprint(tmp_path: Path) -> None:
    first, copy = write_export(tmp_path / 'first'), write_export(tmp_path / 'copy')
    (copy / 'README.md').write_text('not a part of the model')
    assert fingerprint_export(first) == fingerprint_export(copy)


@pytest.mark.parametrize('name', FINGERPRINTED_FILES)
def test_change_of_any_file_changes_the_fingerprint(name: str, tmp_path: Path) -> None:
    first = write_export(tmp_path / 'first')
    other = write_export(tmp_path / 'other', **{name: 'other'})
    assert fingerprint_export(first) != fingerprint_export(other)


def test_change_of_any_array_or_the_vocabulary_changes_the_fingerprint() -> None:
    kernel = PARAMS['text']['kernel']
    fingerprints = [
        fingerprint_arrays(PARAMS, STATISTICS, 'vocabulary'),
        fingerprint_arrays(PARAMS, STATISTICS, 'other vocabulary'),
        fingerprint_arrays(PARAMS, {'mean': np.ones(3, np.float32)}, 'vocabulary'),
        fingerprint_arrays({'text': {'kernel': kernel[:, ::-1]}}, STATISTICS, 'vocabulary'),
        fingerprint_arrays({'text': {'weight': kernel}}, STATISTICS, 'vocabulary'),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprints[0] == fingerprint_arrays(PARAMS, STATISTICS, 'vocabulary')


@pytest.mark.parametrize('embedded_by', [set(), {'mine'}])
def test_own_or_empty_index_is_accepted(embedded_by: set[str]) -> None:
    require_model(embedded_by, 'mine', Path('INDEX'), 'MODEL')


@pytest.mark.parametrize(
    ('embedded_by', 'message'),
    [
        ({'other'}, 'by another model than MODEL'),
        ({'mine', 'other'}, 'by another model than MODEL'),
        ({'other', 'third'}, 'by 2 other models than MODEL'),
    ],
)
def test_index_of_other_models_is_refused(embedded_by: set[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_model(embedded_by, 'mine', Path('INDEX'), 'MODEL')
