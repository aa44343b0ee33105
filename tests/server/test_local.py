"""The embedded model as a backend: what a client that takes one call at a time sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from playback import Play, called, play, said
from serving import demo_backend

from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, Done, Event
from gptoss_mlx.runtime import GptOss
from gptoss_mlx.server.backend import Stream, TurnRequest
from gptoss_mlx.tools import ToolResult

TOOLS = [{"type": "function", "function": {"name": "tide"}}]
THREE = play(
    said("analysis", "Hm."),
    called("python", "1", result=ToolResult("1")),
    called("functions.tide", "{}"),
    called("functions.tide", "[]"),
)


def events_of(monkeypatch: pytest.MonkeyPatch, script: Play, parallel: bool) -> list[Event]:
    class Scripted:
        prompt = (1,)

        def aevents(self) -> AsyncGenerator[Event, None]:
            return script.events()

    async def act() -> list[Event]:
        request = TurnRequest("q", tools=TOOLS, parallel_calls=parallel)
        async with await demo_backend().start(request) as stream:
            return [event async for event in stream]

    monkeypatch.setattr(GptOss, "dialogue", lambda *_, **__: Scripted())
    return asyncio.run(act())


@pytest.mark.parametrize(("parallel", "arguments"), [(True, ["1", "{}", "[]"]), (False, ["1", "{}"])])
def test_one_call_at_a_time_for_who_wants_that(
    monkeypatch: pytest.MonkeyPatch, parallel: bool, arguments: list[str]
) -> None:
    events = events_of(monkeypatch, THREE, parallel)
    assert [event.call.arguments for event in events if isinstance(event, CallCompleted)] == arguments
    assert [event.text for event in events if isinstance(event, CallDelta)] == arguments
    assert len([event for event in events if isinstance(event, CallStarted)]) == len(arguments)
    last = events[-1]
    assert isinstance(last, Done)
    assert [call.arguments for call in last.reply.calls] == arguments[1:]


def test_a_stream_frees_its_place_once_in_whatever_state_it_ends() -> None:
    released: list[int] = []
    seen: list[int] = []

    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(3):
            if number == 2:
                raise ValueError("lost")
            yield number

    def stream() -> Stream[int]:
        return Stream(numbers(), lambda: released.append(1)).watch(seen.append, lambda: released.append(2))

    async def act() -> None:
        async with stream():
            pass
        async with stream() as opened:
            async for _ in opened:
                break
        with pytest.raises(ValueError, match="lost"):
            async with stream() as failing:
                assert [number async for number in failing]

    asyncio.run(act())
    assert released == [2, 1] * 3
    assert seen == [0, 0, 1]
