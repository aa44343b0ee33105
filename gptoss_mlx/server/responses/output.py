"""The events of a reply -> the items of a response, and the events that tell of them as they come to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, Done, Event, Reply, TextDelta, ToolCall, ToolOutput
from gptoss_mlx.harmony.message import FUNCTIONS
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools.browser import BrowserTool

from ..chat import token_logprob
from .items import (
    CallItem,
    CodeItem,
    CustomItem,
    FunctionItem,
    Item,
    Json,
    McpItem,
    ReasoningItem,
    SearchItem,
    TextItem,
    new_id,
)

BROWSER, PYTHON = "browser", "python"


@dataclass(frozen=True)
class Shown:
    """What a response shows of a reply, and as what."""

    functions: frozenset[str] = frozenset()
    """Functions that the client runs."""
    custom: frozenset[str] = frozenset()
    """Tools of the client's that take plain text."""
    namespaced: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Those of either that are in a namespace: how the model calls them -> the namespace, and the name in it."""
    mcp: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Tools of MCP servers: how the model calls them -> the server's label, and the server's name for it."""
    browser: BrowserTool | None = None
    python: bool = False
    container: str = field(default_factory=lambda: new_id("cntr"))
    """What the notebook is called."""
    outputs: bool = False
    """Whether to show what the notebook's cells printed."""
    logprobs: bool = False
    summary: bool = False
    """Whether to give thoughts as a summary too."""
    sealed: bool = False
    """Whether to give thoughts as `encrypted_content` too."""


class Output:
    """Collects a response's output.

    Args:
        shown: what clients see of it.
        tokenizer: spells the tokens of log-probabilities.
    """

    def __init__(self, shown: Shown, tokenizer: Tokenizer) -> None:
        self._shown = shown
        self._tokenizer = tokenizer
        self._items: list[Item] = []
        self._text: TextItem | ReasoningItem | None = None  # the one that is being written
        self._channel = ""
        self._calls: dict[str, CallItem] = {}  # those that are open, by the ids of calls
        self._told: set[str] = set()  # ids of calls that have items

    @property
    def items(self) -> list[Json]:
        """The output as it is now."""
        return [dict(item.body) for item in self._items]

    def push(self, event: Event) -> Iterator[Json]:
        """Take an event of the reply, and say what a client is told."""
        match event:
            case TextDelta(channel, _, _):
                if channel != self._channel:
                    yield from self._close_text("completed")
                yield from self._add_text(event)
            case CallStarted(_, id, recipient, _):
                yield from self._close_text("completed")
                if not recipient.startswith(f"{BROWSER}."):
                    yield from self._begin_call(ToolCall.to(recipient, id=id))
            case CallDelta(_, id, _, text) if id in self._calls and text:
                yield from self._calls[id].add(text)
            case CallCompleted(_, call):
                yield from self._complete_call(call)
            case ToolOutput(call, result) if call.id in self._calls:
                yield from self._calls.pop(call.id).answer(result)
            case Done(reply):
                yield from self._finish(reply)

    def close(self) -> Iterator[Json]:
        """End what is open, as when a response fails."""
        yield from self._close_text("incomplete")
        for item in self._calls.values():
            yield from item.close("incomplete")
        self._calls.clear()

    def _add_text(self, delta: TextDelta) -> Iterator[Json]:
        if self._text is None:
            self._channel = delta.channel
            yield from self._begin(self._new_text())
        if isinstance(self._text, ReasoningItem):
            yield from self._text.add(delta.text)
        elif self._text is not None:
            told = delta.logprobs if self._shown.logprobs else ()
            logprobs = [token_logprob(self._tokenizer, each) for each in told]
            yield self._text.add(delta.text, logprobs)

    def _new_text(self) -> TextItem | ReasoningItem:
        index = len(self._items)
        if self._channel == "analysis":
            self._text = ReasoningItem(index, self._shown.summary, self._shown.sealed)
        else:
            self._text = TextItem(index, "commentary" if self._channel == "commentary" else "final_answer")
        return self._text

    def _begin(self, item: Item) -> Iterator[Json]:
        self._items.append(item)
        yield from item.open()

    def _close_text(self, status: str) -> Iterator[Json]:
        text, self._text, self._channel = self._text, None, ""
        if isinstance(text, TextItem):
            browser = self._shown.browser
            yield from text.finish(status, browser.citations(text.text) if browser is not None else ())
        elif text is not None:
            yield from text.finish(status)

    def _begin_call(self, call: ToolCall) -> Iterator[Json]:
        item = self._new_call(call)
        if item is not None:
            self._calls[call.id] = item
            self._told.add(call.id)
            yield from self._begin(item)

    def _new_call(self, call: ToolCall) -> CallItem | None:
        """The item of a call; None for calls of what does not exist, which only the model is told."""
        index, shown = len(self._items), self._shown
        namespace, _, name = call.recipient.partition(".")
        if namespace == BROWSER and shown.browser is not None:
            return SearchItem(index, name, call.arguments, shown.browser)
        if call.recipient == PYTHON and shown.python:
            return CodeItem(index, shown.container, shown.outputs)
        if namespace != FUNCTIONS:
            return None
        if name in shown.mcp:
            return McpItem(index, *shown.mcp[name])
        if name not in shown.custom | shown.functions:
            return None
        kind: type[FunctionItem | CustomItem] = CustomItem if name in shown.custom else FunctionItem
        if name in shown.namespaced:
            space, name = shown.namespaced[name]
            return kind(index, name, call.id, namespace=space)
        return kind(index, name, call.id)

    def _complete_call(self, call: ToolCall) -> Iterator[Json]:
        if call.id not in self._told:
            yield from self._begin_call(call)
        item = self._calls.get(call.id)
        if item is not None:
            yield from item.complete(call.arguments)
            if not item.answered_here:
                del self._calls[call.id]

    def _finish(self, reply: Reply) -> Iterator[Json]:
        """The end: whatever is still open was cut off, but for the answer of a reply that is whole."""
        yield from self._close_text("completed" if reply.finish_reason in ("stop", "tool_calls") else "incomplete")
        yield from self.close()
        for call in reply.calls:
            if call.id not in self._told:  # what nobody here answers is the client's to answer
                item = FunctionItem(len(self._items), call.name, call.id)
                self._told.add(call.id)
                yield from self._begin(item)
                yield from item.complete(call.arguments)


def usage_of(reply: Reply) -> dict[str, Any]:
    """A reply's usage as the API writes it."""
    usage = reply.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
