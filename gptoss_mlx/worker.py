"""A generator's work in a thread, for an event loop that must not wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 16
"""Items that wait to be taken: so many that the thread need not wait for the loop at every one of them."""


class Worker:
    """One thread that steps through generators, as MLX wants a computation to stay in the thread that began it.

    A context manager: at its end the thread finishes the step that it is at, closes its generator and ends, and
    nobody waits for that.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gptoss-mlx generation")

    async def iterate(self, steps: Generator[T, None, None]) -> AsyncGenerator[T, None]:
        """What `steps` yields, worked out up to `AHEAD` items before it is taken; closing this one closes it."""
        items = _Mailbox[T](asyncio.get_running_loop())
        self._thread.submit(items.fill, steps)
        try:
            while (item := await items.take()) is not None:
                yield item[0]
        finally:
            items.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False)


class _Mailbox(Generic[T]):
    """Items on their way from a thread to an event loop, which is woken once for all that have come meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[T] = deque()
        self._room = threading.Semaphore(AHEAD)
        self._more = asyncio.Event()
        self._ringing = self._closed = self._over = False
        self._error: BaseException | None = None

    def fill(self, steps: Generator[T, None, None]) -> None:
        """In the thread: put in what `steps` yields until it ends or nobody wants more."""
        try:
            with closing(steps):
                for item in steps:
                    self._items.append(item)
                    self._ring()
                    self._room.acquire()
                    if self._closed:
                        return
        except BaseException as error:  # noqa: BLE001  whoever takes the items raises it; here nobody would see it
            self._error = error
        finally:
            self._over = True
            self._ring()

    async def take(self) -> tuple[T] | None:
        """In the loop: the next item, None at the end; raises what ended it."""
        while True:
            over = self._over  # looked at first: an item may come before the end in the meantime
            if self._items:
                self._room.release()
                return (self._items.popleft(),)
            if over:
                if self._error is not None:
                    raise self._error
                return None
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        """In the loop: want no more."""
        self._closed = True
        self._room.release()

    def _ring(self) -> None:
        if not self._ringing:
            self._ringing = True
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._ringing = False
        self._more.set()
