"""The loop in the background runs what a program without one asks for."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import threading
import time

import pytest

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tools.loop import BackgroundLoop, in_thread


async def thread() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def fail() -> None:
    raise KeyError("x")


def test_every_coroutine_runs_in_the_same_loop() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with BackgroundLoop() as background:
        assert background.run(thread()) == "gptoss-mlx tools"
        assert background.run(loop()) is background.run(loop())
        with pytest.raises(KeyError):
            background.run(fail())


def test_it_cannot_wait_for_itself() -> None:
    with BackgroundLoop() as background:

        async def inside() -> None:
            background.run(thread())

        with pytest.raises(RequestError, match="cannot wait for itself; await the coroutine instead"):
            background.run(inside())


def test_closing_cancels_what_runs() -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def begin() -> None:
        tasks.append(asyncio.create_task(endless()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    before = set(threading.enumerate())
    background = BackgroundLoop()
    background.run(begin())
    background.close()
    background.close()
    assert ended == ["cancelled"]
    assert set(threading.enumerate()) <= before
    with pytest.raises(RequestError, match="is closed"):
        background.run(thread())


def test_an_interrupt_cancels_the_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    started, ended = threading.Event(), threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupted(futures: object, timeout: float | None = None) -> None:
        started.wait()
        raise KeyboardInterrupt

    with BackgroundLoop() as background:
        monkeypatch.setattr("gptoss_mlx.tools.loop.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            background.run(endless())
        monkeypatch.undo()
        assert ended.wait(10)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends signals to no thread")
def test_an_interrupt_that_another_thread_takes_is_heard() -> None:
    given_up, ended, was_heard = threading.Event(), threading.Event(), []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it

    def take() -> None:
        time.sleep(0.5)  # the main thread waits by now
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        was_heard.append(given_up.wait(10))
        ended.set()

    try:
        with BackgroundLoop() as background:
            with pytest.raises(KeyboardInterrupt):
                background.run(in_thread(take))
            given_up.set()
            assert ended.wait(10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert was_heard == [True]


def test_a_call_in_a_thread_gives_its_value_or_error() -> None:
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place")

    def fails() -> None:
        raise KeyError("x")

    async def ask() -> tuple[str, str]:
        place.set("here")
        with pytest.raises(KeyError):
            await in_thread(fails)
        return await in_thread(lambda: threading.current_thread().name), await in_thread(place.get)

    assert asyncio.run(ask()) == ("gptoss-mlx tool", "here")


def test_a_call_that_never_returns_keeps_no_program_from_ending() -> None:
    program = """
import asyncio, threading
from gptoss_mlx.tools.loop import in_thread

async def main():
    task = asyncio.create_task(in_thread(threading.Event().wait))
    await asyncio.sleep(0.1)
    task.cancel()

asyncio.run(main())
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ended\n"
