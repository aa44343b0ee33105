"""What comes out of a conversation with the model: events while it answers, and the Reply at its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .engine.request import TokenLogprobs
from .harmony import Conversation, Message, Role
from .harmony.message import FUNCTIONS
from .tools import Citation, ToolResult


@dataclass(frozen=True)
class ToolCall:
    """Something that the model wants called."""

    name: str
    """What a function was declared as; a built-in tool's recipient, such as `python` or `browser.search`."""
    arguments: str
    """As the model wrote them: JSON text for functions, code for `python`."""
    id: str
    """`call_` and 24 characters, unique."""
    recipient: str
    """Whom harmony addresses: `functions.tide_at`, `python`."""

    @classmethod
    def to(cls, recipient: str, arguments: str = "", id: str | None = None) -> ToolCall:
        """A call with the name that `recipient` means, and an id of its own unless one is given."""
        return cls(recipient.removeprefix(f"{FUNCTIONS}."), arguments, id or new_call_id(), recipient)


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class TextDelta:
    """A piece of text on a channel: `analysis` (thoughts), `commentary` (meant for the user), `final`."""

    channel: str
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the tokens that this text came with, if they were asked for."""


@dataclass(frozen=True)
class CallStarted:
    """The model begins to write a call, the `index`-th of its reply from 0; the arguments follow as `CallDelta`."""

    index: int
    id: str
    recipient: str
    name: str


@dataclass(frozen=True)
class CallDelta:
    """A piece of the arguments of a call."""

    index: int
    id: str
    recipient: str
    text: str


@dataclass(frozen=True)
class CallCompleted:
    """The model has written a whole call. One that was cut off never gets here."""

    index: int
    call: ToolCall


@dataclass(frozen=True)
class ToolOutput:
    """A call has been answered here, and the model goes on with the result, or with the part of it that fits."""

    call: ToolCall
    result: ToolResult


@dataclass(frozen=True)
class Usage:
    """Tokens read and written, and the time that both took, over all turns of a reply."""

    prompt_tokens: int = 0
    """The prompts of all turns: each holds the conversation up to there."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of the completion that were thoughts, their headers included."""
    prompt_seconds: float = 0.0
    completion_seconds: float = 0.0
    cached_tokens: int = 0
    """Those of the prompts that the engine remembered, and did not have to read again."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return self.completion_tokens / self.completion_seconds if self.completion_seconds else 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.prompt_seconds + other.prompt_seconds,
            self.completion_seconds + other.completion_seconds,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True)
class Reply:
    """What the model wrote and what was answered to its calls, and the conversation with that at its end."""

    messages: tuple[Message, ...]
    conversation: Conversation
    usage: Usage
    finish_reason: str
    """`stop`; `length`: cut off by max_tokens, max_turns or the context; `tool_calls`: the caller has to answer
    `calls`; `cancelled`."""
    calls: tuple[ToolCall, ...] = ()
    """The calls that wait for the caller's answer."""
    outputs: tuple[ToolOutput, ...] = ()
    """The calls that were answered here."""
    citations: tuple[Citation, ...] = ()
    """The places in `final` that name a source, which a tool such as the browser has shown."""
    parse: Callable[[str], Any] | None = field(default=None, repr=False, compare=False)
    """What makes `parsed` of the answer, where a response format was asked for."""
    stop_text: str | None = None
    """The stop text that ended the answer, if one did."""

    @property
    def final(self) -> str:
        """The answer."""
        return self._channel("final")

    @property
    def analysis(self) -> str:
        """The thoughts."""
        return self._channel("analysis")

    @cached_property
    def parsed(self) -> Any:
        """The answer as the response format that was asked for: a JSON value, or an object of the class; else None.

        Raises:
            RequestError: the answer is none, because it was cut off or a check of the class refuses it.
        """
        return None if self.parse is None else self.parse(self.final)

    def _channel(self, channel: str) -> str:
        texts = [m.text for m in self.messages if m.channel == channel and m.recipient is None]
        return "\n\n".join(text for text in texts if text)

    def __str__(self) -> str:
        return self.final

    def __repr__(self) -> str:
        """What a person wants to see of it: the whole conversation would fill the screen."""
        calls = f", calls: {', '.join(call.name for call in self.calls)}" if self.calls else ""
        return f"<Reply {self.final!r}: {self.finish_reason}, {self.usage.completion_tokens} tokens{calls}>"

    def _repr_markdown_(self) -> str:
        from .notebook import markdown

        return markdown(self)

    def _repr_html_(self) -> str:
        from .notebook import page

        return page(self)


@dataclass(frozen=True)
class Done:
    """The end of a reply."""

    reply: Reply


Event = TextDelta | CallStarted | CallDelta | CallCompleted | ToolOutput | Done


def is_call(message: Message) -> bool:
    """Whether `message` is the model's call of a tool."""
    return message.role is Role.ASSISTANT and message.recipient is not None
