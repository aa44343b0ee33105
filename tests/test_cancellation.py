"""What ends a reply before the model does: its reader, a callback, a cancelled task."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from gptoss_mlx.conversation import Backend, Dialogue
from gptoss_mlx.engine import Generated, Request
from gptoss_mlx.toolbox import Toolbox
from gptoss_mlx.tools import ToolResult
from scripted import ANSWER, THOUGHT, Script, call
from scripted_tools import TIDE, Tide, dialogue, run


def test_closing_the_iterator_closes_the_engine() -> None:
    script = Script(THOUGHT + ANSWER)
    events = dialogue(script).events()
    next(events)
    assert script.closed == 0
    events.close()
    assert script.closed == 1
    assert len(script.said) < 5


def test_a_cancelled_reply_keeps_what_was_said() -> None:
    script = Script(THOUGHT + ANSWER)
    _, reply = run(script, cancelled=lambda: len(script.said) > 15)
    assert reply.finish_reason == "cancelled"
    assert len(script.said) == 16
    assert reply.analysis == "I think."[: len(reply.analysis)] != ""


def test_cancelling_between_calls_leaves_the_rest() -> None:
    tide = Tide()
    both = call("functions.ports", "{}", end="<|end|><|start|>assistant") + TIDE
    _, reply = run(Script(both), tide, cancelled=lambda: bool(tide.asked))
    assert reply.finish_reason == "cancelled"
    assert [c.name for c in reply.calls] == ["tide"]
    assert len(tide.asked) == 1


class Endless(Tide):
    """Never answers; notes that it was told to stop."""

    stopped = False

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        self.asked.append((recipient, arguments))
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped = True
        raise AssertionError


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tool_that_never_returns_can_be_cancelled(asynchronous: bool) -> None:
    tool = Endless()
    prepared = dialogue(Script(TIDE), tool, cancelled=lambda: bool(tool.asked))
    reply = asyncio.run(prepared.areply()) if asynchronous else prepared.reply()
    assert (reply.finish_reason, [c.name for c in reply.calls], reply.outputs) == ("cancelled", ["tide"], ())
    assert tool.stopped


def test_a_cancelled_task_stops_its_tool() -> None:
    tool = Endless()

    async def listen() -> None:
        task = asyncio.create_task(dialogue(Script(TIDE), tool).areply())
        while not tool.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(listen())
    assert tool.stopped


def test_a_cancelled_task_stops_the_engine() -> None:
    script = Script("<|channel|>final<|message|>" + "a" * 100_000)

    async def listen() -> None:
        events = dialogue(script, max_tokens=200_000, context=400_000).aevents()
        reader = asyncio.create_task(consume(events))
        while len(script.said) < 20:
            await asyncio.sleep(0.001)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        for _ in range(1000):
            if script.closed:
                return
            await asyncio.sleep(0.005)

    async def consume(events: Any) -> None:
        async for _ in events:
            pass

    asyncio.run(listen())
    assert script.closed == 1
    assert len(script.said) < 100_000


def test_a_cancelled_task_stops_the_reading_of_a_prompt() -> None:
    reading, stopped = threading.Event(), threading.Event()

    def slow(request: Request) -> Generator[Generated, None, None]:
        reading.set()
        while request.cancelled is not None and not request.cancelled():
            time.sleep(0.001)
        stopped.set()
        yield from ()

    async def listen() -> None:
        backend = Backend(slow, Script().tokenizer, 1000)
        task = asyncio.create_task(Dialogue(backend, Toolbox().conversation("q")).areply())
        await asyncio.to_thread(reading.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(listen())
    assert stopped.wait(10)
