"""Requests that arrive at the same time share a pass."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mural_jax.search.batching import PASS_SIZES, Batcher, pad_requests


def answer_with_batch_size(requests: Sequence[str]) -> list[int]:
    if 'bad' in requests:
        raise ValueError('bad')
    return [len(requests)] * len(requests)


def answer_all(*rounds: list[str]) -> list[list]:
    """The answers to rounds of requests, each sent at once after the answers to the last."""

    async def ask() -> list[list]:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(answer_with_batch_size, pool)
            return [
                await asyncio.gather(*(batcher(word) for word in words), return_exceptions=True)
                for words in rounds
            ]

    return asyncio.run(ask())


def test_requests_at_once_share_passes_of_limited_size() -> None:
    (sizes,) = answer_all(['x'] * (PASS_SIZES[-1] + 1))
    assert max(sizes) == PASS_SIZES[-1]


def test_failed_pass_answers_its_requests_and_the_next_pass_works() -> None:
    failed, sizes = answer_all(['a', 'bad'], ['x'])
    assert all(isinstance(answer, ValueError) for answer in failed)
    assert sizes == [1]


@pytest.mark.parametrize(('count', 'padded'), [(1, 1), (2, 8), (8, 8), (9, 64), (64, 64)])
def test_requests_are_padded_to_a_compiled_size(count: int, padded: int) -> None:
    requests = [str(number) for number in range(count)]
    found = pad_requests(requests)
    assert found[:count] == requests
    assert found[count:] == [requests[-1]] * (padded - count)
