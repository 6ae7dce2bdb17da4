"""Requests that come at one time share a pass of the model."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

Given = TypeVar('Given')
SIZES = (1, 8, 64)  # of a pass: each is compiled once, before the first request; ours


class Waiting(NamedTuple):
    given: Any
    answer: asyncio.Future


class Batcher(Generic[Given]):
    """Answers requests in batches: what comes while a pass runs goes into the next one.

    work: a list of at most SIZES[-1] requests -> as many answers; it runs in a thread of `pool`.
    """

    def __init__(self, work: Callable[[Sequence[Given]], Sequence[Any]], pool: ThreadPoolExecutor):
        self._work, self._pool = work, pool
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._task: asyncio.Task | None = None

    async def __call__(self, given: Given) -> Any:
        """The answer to one request."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        waiting = Waiting(given, asyncio.get_running_loop().create_future())
        await self._waiting.put(waiting)
        return await waiting.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < SIZES[-1] and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            # Who went away meanwhile needs no answer.
            batch = [one for one in batch if not one.answer.cancelled()]
            try:
                answers = await loop.run_in_executor(
                    self._pool, self._work, [one.given for one in batch]
                )
            except Exception as error:  # The request's, not the server's end.
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)


def padded(given: Sequence[Given]) -> list[Given]:
    """The requests and copies of the last one, up to the next of SIZES."""
    size = next(size for size in SIZES if size >= len(given))
    return [*given, *[given[-1]] * (size - len(given))]
