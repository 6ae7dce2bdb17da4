"""What seals a checkpoint: checksums and metrics; and what errors of reading mean.

A seal is the JSON {'about': CRC-32, 'arrays': checksums, 'metrics', 'best'} beside the arrays.
"""

import contextlib
import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.types import Array, UserError

FORBIDDEN = ('PERMISSION_DENIED', 'Permission denied')


@dataclasses.dataclass(frozen=True)
class Best:
    """Which checkpoints stay although newer ones came: those with the best values of a metric.

    No metric, no such checkpoints.
    """

    metric: str = ''
    mode: Literal['min', 'max'] = 'min'
    keep: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ('min', 'max') or self.keep < 1:
            raise UserError(
                f'mode={self.mode!r}, keep={self.keep}: the best checkpoints are those of the '
                "'min' or the 'max' of a metric, and at least 1 is kept."
            )

    def rank(self, metrics: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """Steps from the best to the worst, of equal ones the newer first.

        One whose value is missing or not finite is left out.
        """
        sign = 1 if self.mode == 'min' else -1
        values = {step: found.get(self.metric) for step, found in metrics.items()}
        finite = {
            step: sign * float(value)
            for step, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        return sorted(finite, key=lambda step: (finite[step], -step))


class Damaged(Exception):
    """A checkpoint cannot be read, or is not what was saved."""


def checksums(trees: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """What every array is known by: {tree: {path: {'sum', 'shape', 'dtype'}}}.

    It does not depend on the devices that hold the array. Computed where the array is: reading
    back what was written would cost more, and would not notice what went wrong before.
    """
    found = shapes(trees)
    sums = jax.device_get(jax.tree.map(_checksum, dict(trees)))
    for name, tree in sums.items():
        for path, value in jax.tree.leaves_with_path(tree):
            found[name][_path(path)]['sum'] = int(value)
    return found


@jax.jit
def _checksum(array: Array) -> Array:
    """uint32: the sum of an array's words, each times an odd number that depends on its place.

    A change of one word always changes it, as an odd factor has an inverse modulo 2^32.
    """
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    width = 8 * min(array.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(array, f'uint{width}').astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for dim, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, dim)
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def shapes(trees: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {
            _path(path): {'shape': list(np.shape(leaf)), 'dtype': str(np.dtype(leaf.dtype))}
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for name, tree in trees.items()
    }


def _path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def verify(trees: Mapping[str, Any], seal: Mapping[str, Any]) -> None:
    """Raises Damaged where an array is not what was saved; without a seal it cannot be known."""
    for name, found in checksums(trees).items() if seal else ():
        for path, entry in found.items():
            saved = seal['arrays'].get(name, {}).get(path, {})
            # One that is asked for in another dtype has other bits.
            if saved.get('dtype', entry['dtype']) == entry['dtype'] and saved != entry:
                raise Damaged(f'{name}/{path} is not what was saved: its checksum differs')


def read_seal(folder: Path) -> dict[str, Any]:
    """Empty for the checkpoints of before there were seals. Raises Damaged."""
    if not (folder / 'seal').is_dir():
        return {}
    seal = read_json(folder / 'seal')
    if not isinstance(seal.get('arrays'), dict):
        raise Damaged('seal is not what was saved')
    return seal


def metrics_of(folder: Path) -> dict[str, float]:
    """The metrics of one step; none where they cannot be read."""
    with contextlib.suppress(Damaged):
        return dict(read_seal(folder).get('metrics', {}))
    return {}


def read_json(item: Path) -> dict[str, Any]:
    """A JSON item as orbax writes it. Raises Damaged."""
    try:
        found = json.loads((item / 'metadata').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        check_allowed(error, item)
        raise Damaged(f'{item.name}: {why_of(error)}') from error
    if not isinstance(found, dict):
        raise Damaged(f'{item.name} is not what was saved')
    return found


def crc(value: Mapping[str, Any]) -> int:
    """CRC-32 of a JSON object as it is when it was written and read again."""
    value = json.loads(json.dumps(value))
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def together(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` returns; raises Damaged on every process where it does on any."""
    result, why = None, ''
    try:
        result = work(*args)
    except Damaged as error:
        why = str(error)
    if jax.process_count() > 1:
        words = f'process {jax.process_index()}: {why}'.encode()[:500] if why else b''
        mine = np.frombuffer(words.ljust(500, b'\0'), np.uint8)
        everyone = multihost_utils.process_allgather(mine)
        said = [bytes(row).rstrip(b'\0').decode(errors='replace') for row in everyone]
        why = next(filter(None, said), '')
    if why:
        raise Damaged(why)
    return result


def check_allowed(error: BaseException, path: Path) -> None:
    if says(error, FORBIDDEN):
        raise UserError(
            f'{path} cannot be read: permission denied. Give this user the right to read it.'
        ) from error


def says(error: BaseException, words: Sequence[str]) -> bool:
    said = [f'{type(error).__name__}: {error}' for error in _chain(error)]
    return any(word in text for word in words for text in said)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came of, the first last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        context = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or context


def why_of(error: BaseException) -> str:
    """The first line of what an error came of, at most 200 characters."""
    *_, first = _chain(error)
    text = str(first).splitlines()[0] if str(first) else ''
    return f'{type(first).__name__}: {text}'[:200]
