"""An event loop in a thread of its own: tools for a program that is not asynchronous.

Connections of MCP servers, browsers and notebooks live in the event loop that made them. A program that called
`asyncio.run` for every turn would give each turn a loop of its own, and lose them; this one stays.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, TypeVar

from ..errors import RequestError

T = TypeVar("T")
HEARING = 0.1
"""Seconds after which who waits looks for an interrupt. A signal that came just before the wait began, or that another
thread has taken, does not end the wait by itself."""


async def in_thread(call: Callable[[], T]) -> T:
    """What a call gives, from a thread of its own.

    A program ends while such a thread still runs; it would wait for one of `asyncio.to_thread`, which a tool that never
    returns may hold for good.
    """
    future: Future[T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except StopIteration as error:  # asyncio's futures cannot hold one, and who awaits it would wait forever
            future.set_exception(RuntimeError(f"StopIteration: {error}"))
        except BaseException as error:  # noqa: BLE001 - whatever it is, who awaits the call raises it
            future.set_exception(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="gptoss-mlx tool", daemon=True).start()
    return await asyncio.wrap_future(future)


class BackgroundLoop:
    """Runs coroutines for who waits for them; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="gptoss-mlx tools", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, or its exception. An interrupt (Ctrl-C) cancels it.

        Raises:
            RequestError: the loop is closed, or this is called from inside it, where waiting would never end.
        """
        if self._loop.is_closed() or threading.current_thread() is self._thread:
            coroutine.close()
            state = "is closed" if self._loop.is_closed() else "cannot wait for itself; await the coroutine instead"
            raise RequestError(f"background loop: it {state}")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not wait([future], HEARING).done:
                pass
            return future.result()
        except BaseException:  # an interrupt as well: nobody waits any longer
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs and end the thread; again, it does nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> BackgroundLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
