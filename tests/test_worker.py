"""Generators step through a thread of their own, and nobody waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from gptoss_mlx.worker import Worker


def names() -> Generator[str, None, None]:
    for _ in range(3):
        yield threading.current_thread().name


def test_one_thread_takes_every_step() -> None:
    async def listen() -> list[str]:
        with Worker() as worker:
            first = [name async for name in worker.iterate(names())]
            return first + [name async for name in worker.iterate(names())]

    found = asyncio.run(listen())
    assert len(found) == 6
    assert len(set(found)) == 1
    assert threading.current_thread().name not in found


def test_errors_arrive() -> None:
    def fails() -> Generator[int, None, None]:
        yield 1
        raise KeyError("x")

    async def listen() -> None:
        with Worker() as worker:
            async for _ in worker.iterate(fails()):
                pass

    with pytest.raises(KeyError):
        asyncio.run(listen())


def test_the_loop_goes_on_meanwhile_and_leaving_does_not_wait() -> None:
    release, ended = threading.Event(), threading.Event()

    def slow() -> Generator[int, None, None]:
        try:
            yield 1
            release.wait()
            yield 2
        finally:
            ended.set()

    async def listen() -> None:
        with Worker() as worker:
            events = worker.iterate(slow())
            assert await anext(events) == 1
            waiting = asyncio.create_task(anext(events))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not ended.is_set()

    asyncio.run(listen())
    release.set()
    assert ended.wait(10)
