"""The seal of a checkpoint: checksums of its arrays and its metrics, in JSON beside the arrays.

A seal is {'about': CRC-32 of the JSON `about`, 'arrays': checksums, 'metrics', 'best'}.
"""

import contextlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.types import Array
from mural_jax.workdir.damage import DamagedCheckpoint, describe_cause, raise_if_forbidden


def compute_checksums(trees: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{tree: {path: {'sum', 'shape', 'dtype'}}}, whatever devices hold the arrays.

    Computed on the devices, before the arrays are written. To read the files back would cost
    more, and would not notice damage on the way to the file.
    """
    entries = describe_arrays(trees)
    sums = jax.device_get(jax.tree.map(_checksum, dict(trees)))
    for name, tree in sums.items():
        for path, value in jax.tree.leaves_with_path(tree):
            entries[name][_path_name(path)]['sum'] = int(value)
    return entries


@jax.jit
def _checksum(array: Array) -> Array:
    """The sum modulo 2^32 of an array's words, each times an odd factor that depends on its place.

    A change of one word always changes the sum, because an odd factor has an inverse modulo 2^32.
    An exchange of two words changes it too, unless the difference of the factors cancels.
    """
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    # Words of at most 32 bits: without x64, JAX has no wider ones.
    width = 8 * min(array.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(array, f'uint{width}').astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for dim, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, dim)
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def describe_arrays(trees: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{tree: {path: {'shape', 'dtype'}}} of arrays or of their shapes."""
    return {
        name: {
            _path_name(path): {'shape': list(np.shape(leaf)), 'dtype': str(np.dtype(leaf.dtype))}
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for name, tree in trees.items()
    }


def _path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def verify_checksums(trees: Mapping[str, Any], seal: Mapping[str, Any]) -> None:
    """Raises DamagedCheckpoint if an array differs from what was saved.

    An empty seal, of a checkpoint from before there were seals, verifies nothing.
    """
    for name, entries in compute_checksums(trees).items() if seal else ():
        for path, entry in entries.items():
            saved = seal['arrays'].get(name, {}).get(path, {})
            # Restored in another dtype, an array has other bits, and nothing can be said.
            if saved.get('dtype', entry['dtype']) != entry['dtype']:
                continue
            if saved != entry:
                raise DamagedCheckpoint(
                    f'{name}/{path} is not what was saved: its checksum differs'
                )


def read_seal(folder: Path) -> dict[str, Any]:
    """The seal of a step's folder; {} for a checkpoint from before there were seals.

    Raises DamagedCheckpoint.
    """
    if not (folder / 'seal').is_dir():
        return {}
    seal = read_json_item(folder / 'seal')
    if not isinstance(seal.get('arrays'), dict):
        raise DamagedCheckpoint('seal is not what was saved')
    return seal


def read_saved_metrics(folder: Path) -> dict[str, float]:
    """The metrics of a step's folder; {} if they cannot be read."""
    with contextlib.suppress(DamagedCheckpoint):
        return dict(read_seal(folder).get('metrics', {}))
    return {}


def read_json_item(item: Path) -> dict[str, Any]:
    """A JSON item of a checkpoint, in the layout of orbax. Raises DamagedCheckpoint."""
    try:
        value = json.loads((item / 'metadata').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise_if_forbidden(error, item)
        raise DamagedCheckpoint(f'{item.name}: {describe_cause(error)}') from error
    if not isinstance(value, dict):
        raise DamagedCheckpoint(f'{item.name} is not what was saved')
    return value


def compute_json_crc(value: Mapping[str, Any]) -> int:
    """CRC-32 of a JSON object; the same before it is written and after it is read."""
    # Written and read once, tuples are lists and keys are texts.
    value = json.loads(json.dumps(value))
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
