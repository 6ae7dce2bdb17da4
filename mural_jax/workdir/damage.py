"""What an error while reading or writing a checkpoint means, and how processes agree on it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.types import UserError

FORBIDDEN = ('PERMISSION_DENIED', 'Permission denied')


class DamagedCheckpoint(Exception):
    """A checkpoint cannot be read, or does not hold what was saved."""


def run_on_all_processes(work: Callable[..., Any], *args: Any) -> Any:
    """The result of `work(*args)`, if it succeeds on every process.

    Raises DamagedCheckpoint on every process if it does on any: else some would go on with
    this checkpoint and others with an older one. Every process must call this.
    """
    result, why = None, ''
    try:
        result = work(*args)
    except DamagedCheckpoint as error:
        why = str(error)
    if jax.process_count() > 1:
        # `process_allgather` exchanges arrays of one shape, so the text travels in 500 bytes.
        words = f'process {jax.process_index()}: {why}'.encode()[:500] if why else b''
        own = np.frombuffer(words.ljust(500, b'\0'), np.uint8)
        rows = multihost_utils.process_allgather(own)
        texts = [bytes(row).rstrip(b'\0').decode(errors='replace') for row in rows]
        why = next(filter(None, texts), '')
    if why:
        raise DamagedCheckpoint(why)
    return result


def raise_if_forbidden(error: BaseException, path: Path) -> None:
    """Raises UserError if the user has no right to read `path`: then nothing is damaged."""
    if mentions(error, FORBIDDEN):
        raise UserError(
            f'{path} cannot be read: permission denied. Give this user the right to read it.'
        ) from error


def mentions(error: BaseException, words: Sequence[str]) -> bool:
    """Whether the error, or one that caused it, has one of `words` in its text."""
    texts = [f'{type(cause).__name__}: {cause}' for cause in _list_causes(error)]
    return any(word in text for word in words for text in texts)


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes; the root cause comes last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        context = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or context


def describe_cause(error: BaseException) -> str:
    """Type and first line of the root cause of an error, at most 200 characters."""
    *_, root = _list_causes(error)
    text = str(root).splitlines()[0] if str(root) else ''
    return f'{type(root).__name__}: {text}'[:200]
