"""A generator's work in a thread, for an event loop that must not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """One thread that steps through generators, as MLX wants a computation to stay in the thread that began it.

    A context manager: at its end the thread finishes the step that it is at, closes its generator and ends, and
    nobody waits for that.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gptoss-mlx generation")

    async def iterate(self, steps: Generator[T, None, None]) -> AsyncGenerator[T, None]:
        """What `steps` yields; closing this one closes it."""
        loop = asyncio.get_running_loop()
        try:
            while (step := await loop.run_in_executor(self._thread, _next, steps)) is not None:
                yield step[0]
        finally:
            self._thread.submit(steps.close)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False)


def _next(steps: Generator[T, None, None]) -> tuple[T] | None:
    """The next item, None at the end: a future cannot hold a StopIteration."""
    for item in steps:
        return (item,)
    return None
