"""Checksums of arrays, and the seal that holds them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from workdir.saved_runs import save_steps

from mural_jax.workdir.checksums import compute_checksums


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16, np.int32, np.int8, bool])
def test_checksum_depends_on_every_word_and_its_place(dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 2, size=(8, 6)).astype(dtype)
    first, *_ = jax.tree.leaves(compute_checksums({'a': {'b': jnp.asarray(array)}}))
    other = array.copy()
    other[3, 4] = not other[3, 4]
    swapped = array[::-1]
    sums = [
        compute_checksums({'a': {'b': jnp.asarray(x)}})['a']['b']['sum']
        for x in (array, other, swapped)
    ]
    assert len(set(sums)) == 3


def test_seal_is_json_beside_the_arrays(tmp_path: Path) -> None:
    save_steps(tmp_path, 8)
    seal = json.loads((tmp_path / 'checkpoints' / '8' / 'seal' / 'metadata').read_text())
    expected = {'shape': [64, 96], 'dtype': 'float32'}
    assert seal['arrays']['params']['kernel'].items() >= expected.items()
    assert set(seal['arrays']['progress']) == {'step', 'optimizer/0/mu'}
