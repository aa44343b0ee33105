"""The one place where harmony and the engine become a turn: a conversation in, events and a Reply out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .engine import Engine, Request, StopText
from .errors import RequestError
from .events import CallCompleted, CallDelta, CallStarted, Done, Event, Reply, TextDelta, ToolCall, Usage, is_call
from .harmony import Conversation, Message, TextContent, render
from .harmony import parser as harmony_events
from .harmony.parser import HarmonyParser
from .sampling import SamplingParams
from .tokenizer import Tokenizer


class Turn:
    """One answer to one conversation."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, conversation: Conversation) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._conversation = conversation
        self._prompt = render(conversation, tokenizer)
        context = engine.model.args.max_position_embeddings
        if len(self._prompt) >= context:
            raise RequestError(
                f"messages: fewer than {context} tokens fit the model's context, {len(self._prompt)} found; "
                "shorten the conversation"
            )
        self._parser = HarmonyParser(tokenizer, tools=_recipients(conversation))
        self._messages: list[Message] = []
        self._pending: list[str] = []  # text whose channel shows only when its message is complete
        self._final: list[str] = []  # what has been given out of the final message that is being written
        self._call = ToolCall.to("")  # the one that is being written
        self._calls: list[ToolCall] = []
        self._tokens = self._thoughts = self._unaccounted = 0

    def run(self, sampling: SamplingParams, max_tokens: int) -> Iterator[Event]:
        """Generate and parse until the model has finished; the last event is `Done`."""
        stop = StopText(sampling.stop)
        started = first = time.perf_counter()
        stopped = False
        boundaries = [i for i, token in enumerate(self._prompt) if token == self._tokenizer.start]
        for step in self._engine.generate(Request(self._prompt, sampling, max_tokens, boundaries)):
            if not self._tokens:
                first = time.perf_counter()
            self._tokens += 1
            self._unaccounted += 1
            yield from self._translate(self._parser.push(step.token), stop)
            stopped = step.stopped or stop.hit is not None
            if stopped:
                break
        yield from self._translate(self._parser.finish(), stop)
        usage = Usage(len(self._prompt), self._tokens, self._thoughts, first - started, time.perf_counter() - first)
        yield Done(self._reply(stopped, usage, stop.hit))

    def _translate(self, events: Iterable[harmony_events.Event], stop: StopText) -> Iterator[Event]:
        for event in events:
            match event:
                case harmony_events.ContentDelta(text, None, None):
                    self._pending.append(text)
                case harmony_events.ContentDelta(text, channel, None):
                    yield from self._text(text, str(channel), stop)
                case harmony_events.MessageStarted(_, _, str(recipient)):
                    self._call = ToolCall.to(recipient)
                    yield CallStarted(len(self._calls), self._call.id, recipient, self._call.name)
                case harmony_events.ContentDelta(text, _, str(recipient)):
                    yield CallDelta(len(self._calls), self._call.id, recipient, text)
                case harmony_events.MessageCompleted(message, ended_by):
                    yield from self._complete(message, stop)
                    if is_call(message) and ended_by is not None:
                        self._calls.append(replace(self._call, arguments=message.text))
                        yield CallCompleted(len(self._calls) - 1, self._calls[-1])

    def _text(self, text: str, channel: str, stop: StopText) -> Iterator[Event]:
        if channel == "final":
            text = stop.push(text)
            self._final.append(text)
        if text:
            yield TextDelta(channel, text)

    def _complete(self, message: Message, stop: StopText) -> Iterator[Event]:
        if message.channel is None and message.recipient is None:
            message = replace(message, channel="final")
        pending, self._pending = "".join(self._pending), []
        if pending:
            yield from self._text(pending, str(message.channel), stop)
        if message.channel == "final" and message.recipient is None:
            rest = stop.flush()
            if rest:
                self._final.append(rest)
                yield TextDelta("final", rest)
            message = replace(message, content=(TextContent("".join(self._final)),))
            self._final = []
        if message.channel == "analysis" and message.recipient is None:
            self._thoughts += self._unaccounted
        self._unaccounted = 0
        self._messages.append(message)

    def _reply(self, stopped: bool, usage: Usage, stop_text: str | None) -> Reply:
        messages = tuple(self._messages)
        reason = "length" if not stopped else "tool_calls" if self._calls else "stop"
        return Reply(
            messages, self._conversation.adding(*messages), usage, reason, tuple(self._calls), stop_text=stop_text
        )


def _recipients(conversation: Conversation) -> tuple[str, ...]:
    """The recipients that calls may have: every declared function, and namespaces that are tools themselves."""
    found = []
    for message in conversation:
        for content in message.content:
            for namespace in getattr(content, "tools", ()):
                found += [f"{namespace.name}.{tool.name}" for tool in namespace.tools] or [namespace.name]
    return tuple(found)
