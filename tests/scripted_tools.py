"""Tools for a scripted engine, and replies in which it calls them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from gptoss_mlx.conversation import Dialogue, Settings
from gptoss_mlx.events import Done, Event, Reply
from gptoss_mlx.harmony import Tool, ToolNamespace
from gptoss_mlx.toolbox import Toolbox, ToolLike
from gptoss_mlx.tools import RunnableTool, ToolResult
from scripted import Script, call

TIDE = call("functions.tide", '{"port":"BES"}')


class Tide(RunnableTool):
    """Answers with the port's height and notes who asked."""

    functions = (Tool("tide", "Tide at a port."), Tool("ports", "All ports."))
    instructions = "Heights are in metres."

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.threads: list[str] = []

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        await asyncio.sleep(0)
        self.asked.append((recipient, arguments))
        self.threads.append(threading.current_thread().name)
        return ToolResult("4.1")


class Notebook(RunnableTool):
    """Stands for a built-in tool."""

    namespace = ToolNamespace("python", "Runs code.")

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        return ToolResult("42", images=(b"png",))


def dialogue(script: Script, *tools: ToolLike, context: int = 100_000, **settings: Any) -> Dialogue:
    box = Toolbox(tools)
    return Dialogue(script.backend(context), box.conversation("q"), box, Settings(**settings))


def run(script: Script, *tools: ToolLike, **settings: Any) -> tuple[list[Event], Reply]:
    events = list(dialogue(script, *tools, **settings).events())
    last = events[-1]
    assert isinstance(last, Done)
    return events, last.reply


def shapes(reply: Reply) -> list[tuple[str, str | None, str | None, str]]:
    return [(m.author.name or m.role.value, m.channel, m.recipient, m.text) for m in reply.messages]
