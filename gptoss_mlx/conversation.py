"""The one place where harmony and the engine become a turn: a conversation in, events and a Reply out."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .engine import Engine, Request, StopText
from .errors import RequestError
from .harmony import Conversation, Message, TextContent, render
from .harmony import parser as harmony_events
from .harmony.parser import HarmonyParser
from .sampling import SamplingParams
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """A piece of text on a channel: `analysis` (thoughts), `commentary` (meant for the user), `final`."""

    channel: str
    text: str


@dataclass(frozen=True)
class CallDelta:
    """A piece of the arguments of a call to `recipient`, such as `functions.tide_at`."""

    recipient: str
    text: str


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called: its name without `functions.`, its arguments as the model wrote them."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Usage:
    """Tokens read and written, and the time that both took."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    """Those of the completion that were thoughts, their headers included."""
    prompt_seconds: float
    completion_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return self.completion_tokens / self.completion_seconds if self.completion_seconds else 0.0


@dataclass(frozen=True)
class Reply:
    """The model's turn: the messages that it wrote, and the conversation with them at its end."""

    messages: tuple[Message, ...]
    conversation: Conversation
    usage: Usage
    finish_reason: str
    """`stop`, `length` (cut off by max_tokens or the context) or `tool_calls`."""

    @property
    def final(self) -> str:
        """The answer."""
        return self._channel("final")

    @property
    def analysis(self) -> str:
        """The thoughts."""
        return self._channel("analysis")

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model asks for."""
        return tuple(
            ToolCall(message.recipient.removeprefix("functions."), message.text)
            for message in self.messages
            if message.recipient is not None
        )

    def _channel(self, channel: str) -> str:
        texts = [m.text for m in self.messages if m.channel == channel and m.recipient is None]
        return "\n\n".join(text for text in texts if text)

    def __str__(self) -> str:
        return self.final

    def _repr_markdown_(self) -> str:
        thoughts = html.escape(self.analysis)
        folded = f"<details><summary>analysis</summary>\n\n<pre>{thoughts}</pre>\n\n</details>\n\n" if thoughts else ""
        calls = "".join(f"\n\n`{call.name}({call.arguments})`" for call in self.calls)
        return folded + self.final + calls


@dataclass(frozen=True)
class Done:
    """The end of a turn."""

    reply: Reply


Event = TextDelta | CallDelta | Done


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
        yield Done(self._reply(stopped, usage))

    def _translate(self, events: Iterable[harmony_events.Event], stop: StopText) -> Iterator[Event]:
        for event in events:
            match event:
                case harmony_events.ContentDelta(text, None, None):
                    self._pending.append(text)
                case harmony_events.ContentDelta(text, channel, None):
                    yield from self._text(text, str(channel), stop)
                case harmony_events.ContentDelta(text, _, str(recipient)):
                    yield CallDelta(recipient, text)
                case harmony_events.MessageCompleted(message, _):
                    yield from self._complete(message, stop)

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

    def _reply(self, stopped: bool, usage: Usage) -> Reply:
        messages = tuple(self._messages)
        called = any(message.recipient is not None for message in messages[-1:])
        reason = "tool_calls" if called and stopped else "stop" if stopped else "length"
        return Reply(messages, self._conversation.adding(*messages), usage, reason)


def _recipients(conversation: Conversation) -> tuple[str, ...]:
    """The recipients that calls may have: every declared function, and namespaces that are tools themselves."""
    found = []
    for message in conversation:
        for content in message.content:
            for namespace in getattr(content, "tools", ()):
                found += [f"{namespace.name}.{tool.name}" for tool in namespace.tools] or [namespace.name]
    return tuple(found)
