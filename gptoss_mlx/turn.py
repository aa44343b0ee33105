"""One turn: what the model writes until it stops, as events and as messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from .engine import Generated, StopText
from .engine.request import Request, TokenLogprobs
from .events import CallCompleted, CallDelta, CallStarted, Event, TextDelta, ToolCall, Usage, is_call
from .harmony import Author, Message, MessageCompleted, MessageStarted, Role, TextContent
from .harmony import ContentDelta as Delta
from .harmony import Event as Parsed
from .harmony.message import CHANNELS
from .harmony.parser import HarmonyParser
from .tokenizer import Tokenizer

Generate = Callable[[Request], Generator[Generated, None, None]]
"""The engine: yields a request's tokens one by one; closing the generator ends the work."""


class Turn:
    """What the model says to one prompt.

    Stop texts apply to the answer, not to thoughts or calls. The turn is over when the model begins a message in
    somebody else's name, such as a user's question or the result of its own call: that would be invented.

    Args:
        tokenizer: the model's.
        recipients: whom the model may call, as declared.
        first_call: how many calls came before in the same reply.
    """

    def __init__(self, tokenizer: Tokenizer, recipients: Collection[str] = (), first_call: int = 0) -> None:
        self._parser = HarmonyParser(tokenizer, tools=recipients)
        self._recipients = recipients
        self._first_call = first_call
        self.messages: list[Message] = []
        """What is complete."""
        self.calls: list[ToolCall] = []
        """The calls among it; one that was cut off is not."""
        self.ended = self.cancelled = False
        self.usage = Usage()
        self._stop = StopText(())
        self._foreign = False
        self._call = ToolCall.to("")  # the one that is being written
        self._pending: list[str] = []  # text whose channel shows only when its message is complete
        self._final: list[str] = []  # what has been given out of the final message that is being written
        self._logprobs: list[TokenLogprobs] = []  # of tokens whose text has not been given out
        self._tokens = self._thoughts = self._unaccounted = 0

    def run(self, generate: Generate, request: Request) -> Iterator[Event]:
        """Generate and parse until the model stops, `max_tokens`, or `cancelled`, which is asked at each token."""
        self._stop = StopText(request.sampling.stop)
        cancelled = request.cancelled or (lambda: False)
        started = first = time.perf_counter()
        with closing(generate(request)) as steps:
            for step in steps:
                if not self._tokens:
                    first = time.perf_counter()
                yield from self._push(step)
                self.ended = step.stopped or self._stop.hit is not None or self._foreign
                if self.ended or cancelled():
                    break
        self.cancelled = not self.ended and cancelled()
        yield from self._translate(self._parser.finish())
        self.usage = Usage(
            len(request.prompt),
            self._tokens,
            self._thoughts,
            first - started,
            time.perf_counter() - first,
            request.figures.cached_tokens,
        )

    def _push(self, step: Generated) -> Iterator[Event]:
        self._tokens += 1
        self._unaccounted += 1
        inside = self._parser.current is not None
        events = self._parser.push(step.token)
        if step.logprobs is not None and inside and self._parser.current is not None:
            self._logprobs.append(step.logprobs)
        yield from self._translate(events)

    def _translate(self, events: Iterable[Parsed]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, MessageStarted):
                self._foreign = self._foreign or self._is_foreign(event)
            if self._foreign:
                return
            match event:
                case MessageStarted(_, _, recipient):
                    self._logprobs.clear()
                    if recipient is not None:
                        self._call = ToolCall.to(recipient)
                        yield CallStarted(self._index, self._call.id, recipient, self._call.name)
                case Delta(text, channel, None) if channel in CHANNELS:
                    yield from self._text(text, str(channel))
                case Delta(text, _, None):
                    self._pending.append(text)
                case Delta(text, _, str(recipient)):
                    yield CallDelta(self._index, self._call.id, recipient, text)
                case MessageCompleted(message, ended_by):
                    yield from self._complete(_as_assistant(message), ended_by)

    @property
    def stop_text(self) -> str | None:
        """The stop text that ended it, if one did."""
        return self._stop.hit

    @property
    def _index(self) -> int:
        """Which call of the reply is being written."""
        return self._first_call + len(self.calls)

    def _is_foreign(self, started: MessageStarted) -> bool:
        """Whether a message is in somebody else's name; a misspelt role is the assistant's, who alone speaks here."""
        if started.author.role is Role.TOOL:
            return started.recipient == Role.ASSISTANT.value or started.author.name in self._recipients
        return started.author.role is not Role.ASSISTANT

    def _text(self, text: str, channel: str) -> Iterator[Event]:
        if channel == "final":
            text = self._stop.push(text)
            self._final.append(text)
        if text:
            yield self._delta(text, channel)

    def _delta(self, text: str, channel: str) -> TextDelta:
        logprobs, self._logprobs = tuple(self._logprobs), []
        return TextDelta(channel, text, logprobs)

    def _complete(self, message: Message, ended_by: int | None) -> Iterator[Event]:
        if is_call(message):
            yield from self._complete_call(message, ended_by)
        else:
            message = yield from self._complete_text(message)
            if message.channel == "analysis":
                self._thoughts += self._unaccounted
        self._unaccounted = 0
        self.messages.append(message)

    def _complete_call(self, message: Message, ended_by: int | None) -> Iterator[Event]:
        if ended_by is not None:
            self.calls.append(replace(self._call, arguments=message.text))
            yield CallCompleted(self._index - 1, self.calls[-1])

    def _complete_text(self, message: Message) -> Generator[Event, None, Message]:
        """Give out the rest of the text; returns the message with what has been given out."""
        if message.channel not in CHANNELS:
            message = replace(message, channel="final")
        pending, self._pending = "".join(self._pending), []
        if pending:
            yield from self._text(pending, str(message.channel))
        if message.channel != "final":
            return message
        rest = self._stop.flush()
        if rest:
            self._final.append(rest)
            yield self._delta(rest, "final")
        said, self._final = "".join(self._final), []
        return replace(message, content=(TextContent(said),))


def _as_assistant(message: Message) -> Message:
    return message if message.role is Role.ASSISTANT else replace(message, author=Author(Role.ASSISTANT))
