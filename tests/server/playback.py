"""A backend that plays back written replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from gptoss_mlx import hub
from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.events import (
    CallCompleted,
    CallDelta,
    CallStarted,
    Done,
    Event,
    Reply,
    TextDelta,
    ToolCall,
    ToolOutput,
    Usage,
)
from gptoss_mlx.harmony import Conversation, Message
from gptoss_mlx.runtime import Token
from gptoss_mlx.server.backend import CompletionRequest, Load, Stream, TurnRequest
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import ToolResult

USAGE = Usage(prompt_tokens=40, completion_tokens=12, reasoning_tokens=5, cached_tokens=8)


@dataclass(frozen=True)
class Said:
    """A text on a channel, in pieces."""

    channel: str
    pieces: tuple[str, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Called:
    """A call, in pieces; with its result where it is answered here, `cut` where the model did not get to its end."""

    recipient: str
    pieces: tuple[str, ...]
    result: ToolResult | None = None
    cut: bool = False


@dataclass(frozen=True)
class Play:
    """A reply."""

    parts: tuple[Said | Called, ...]
    finish_reason: str = "stop"
    usage: Usage = USAGE
    fails: Exception | None = None
    """Raised at the end instead of Done."""
    stop_text: str | None = None
    waits: asyncio.Event | None = field(default=None, compare=False)
    """Waited for before the last part."""

    async def events(self) -> AsyncGenerator[Event, None]:
        """Play it."""
        messages: list[Message] = []
        waiting: list[ToolCall] = []
        index = 0
        for position, part in enumerate(self.parts):
            if self.waits is not None and position == len(self.parts) - 1:
                await self.waits.wait()
            if isinstance(part, Said):
                for piece in part.pieces:
                    yield TextDelta(part.channel, piece, part.logprobs)
                messages.append(Message.assistant("".join(part.pieces), part.channel))
                continue
            call = ToolCall.to(part.recipient, "".join(part.pieces))
            yield CallStarted(index, call.id, call.recipient, call.name)
            for piece in part.pieces:
                yield CallDelta(index, call.id, call.recipient, piece)
            messages.append(Message.call(part.recipient, call.arguments))
            if part.cut:
                continue
            yield CallCompleted(index, call)
            index += 1
            if part.result is not None:
                yield ToolOutput(call, part.result)
                messages.append(Message.tool(part.recipient, part.result.text))
            else:
                waiting.append(call)
        if self.fails is not None:
            raise self.fails
        ending = self.finish_reason, tuple(waiting)
        yield Done(Reply(tuple(messages), Conversation(), self.usage, *ending, stop_text=self.stop_text))


def said(channel: str, *pieces: str) -> Said:
    """A text on a channel."""
    return Said(channel, pieces)


def called(recipient: str, *pieces: str, result: ToolResult | None = None) -> Called:
    """A call."""
    return Called(recipient, pieces, result)


def play(
    *parts: Said | Called,
    finish_reason: str = "stop",
    fails: Exception | None = None,
    stop_text: str | None = None,
) -> Play:
    """A reply."""
    return Play(parts, finish_reason, fails=fails, stop_text=stop_text)


class PlaybackBackend:
    """Plays one reply after the other, the last one again and again, and keeps what it was asked."""

    model_id = "played"
    created = 1_700_000_000
    load = Load()
    places = 64

    def __init__(self, *plays: Play, context: int = 4096) -> None:
        self.context = context
        self.tokenizer = demo_tokenizer()
        self.requests: list[TurnRequest] = []
        self.closed = 0
        self._plays = list(plays)

    async def prompt(self, request: TurnRequest) -> list[int]:
        """Ten tokens for each message."""
        return [0] * 10 * len(list(request.messages))

    async def start(self, request: TurnRequest) -> Stream[Event]:
        """The next reply."""
        self.requests.append(request)
        chosen = self._plays.pop(0) if len(self._plays) > 1 else self._plays[0]
        return Stream(chosen.events(), self._count)

    def _count(self) -> None:
        self.closed += 1

    async def complete(self, request: CompletionRequest) -> Stream[Token]:
        """Not played."""
        raise NotImplementedError

    async def score(self, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Not played."""
        raise NotImplementedError

    async def unload_if_idle(self, seconds: float) -> bool:
        """There is nothing to let go."""
        return False

    async def close(self) -> None:
        """There is nothing to let go."""


@cache
def demo_tokenizer() -> Tokenizer:
    """The embedded model's tokenizer."""
    return Tokenizer.from_folder(hub.find(hub.DEMO))


def with_logprobs(channel: str, piece: str, *tokens: TokenLogprobs) -> Said:
    """A text of one piece with log-probabilities."""
    return replace(said(channel, piece), logprobs=tokens)
