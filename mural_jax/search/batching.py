"""Batching: requests that arrive at the same time share one pass of the model."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

Request = TypeVar('Request')
# A pass has one of these sizes, and each size is compiled before the first request (ours).
PASS_SIZES = (1, 8, 64)


class PendingRequest(NamedTuple):
    """A request, and the future that will hold its answer."""

    request: Any
    answer: asyncio.Future


class Batcher(Generic[Request]):
    """Answers requests in batches: those that arrive during a pass share the next one."""

    def __init__(
        self, answer_batch: Callable[[Sequence[Request]], Sequence[Any]], pool: ThreadPoolExecutor
    ):
        """answer_batch: at most PASS_SIZES[-1] requests -> their answers; it runs in `pool`."""
        self._answer_batch, self._pool = answer_batch, pool
        self._pending: asyncio.Queue[PendingRequest] = asyncio.Queue()
        self._task: asyncio.Task | None = None

    async def __call__(self, request: Request) -> Any:
        """The answer to one request. Raises what `answer_batch` raised for its batch."""
        if self._task is None:
            # Not in __init__: a task needs the running event loop.
            self._task = asyncio.create_task(self._answer_forever())
        pending = PendingRequest(request, asyncio.get_running_loop().create_future())
        await self._pending.put(pending)
        return await pending.answer

    async def _answer_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._pending.get()]
            # Takes all requests that have arrived, and waits for no others.
            while len(batch) < PASS_SIZES[-1] and not self._pending.empty():
                batch.append(self._pending.get_nowait())
            # A client that disconnected meanwhile needs no answer.
            batch = [one for one in batch if not one.answer.cancelled()]
            try:
                answers = await loop.run_in_executor(
                    self._pool, self._answer_batch, [one.request for one in batch]
                )
            except Exception as error:  # It ends these requests, not the server.
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)


def pad_requests(requests: Sequence[Request]) -> list[Request]:
    """The requests, then copies of the last one up to the next size of PASS_SIZES."""
    size = next(size for size in PASS_SIZES if size >= len(requests))
    return [*requests, *[requests[-1]] * (size - len(requests))]
