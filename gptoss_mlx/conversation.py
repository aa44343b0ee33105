"""The one place where harmony, the engine and tools become a reply: turns, and the results of calls between them."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import takewhile
from typing import Any, TypeVar

from .engine.budget import ReasoningBudget, closing_tokens
from .engine.grammar import Vocabulary
from .engine.request import MOST_LOGPROBS, Guide, Request
from .engine.structure import Constraint, Rules
from .errors import ContextError, RequestError
from .events import Done, Event, Reply, ToolCall, ToolOutput, Usage, is_call
from .harmony import Conversation, Message, Role, render
from .sampling import SamplingParams
from .tokenizer import Tokenizer
from .toolbox import Toolbox, declarations
from .tools import ToolResult
from .tools.loop import BackgroundLoop, in_thread
from .turn import Generate, Turn
from .worker import Worker

MAX_TOKENS = 16384
"""Tokens of one reply, thoughts included, unless asked otherwise."""
MAX_TURNS = 16
"""How often the model may speak in one reply, unless asked otherwise."""
ANSWER_TOKENS = 1024
"""What is kept for the answer when thoughts would use up everything; a quarter of the room, where that is less."""
POLL_SECONDS = 0.1
"""How often it is asked, while a tool runs, whether to stop."""
GRACE_SECONDS = 5.0
"""What a tool that is to stop gets for it, before it is left alone."""
LONGEST_TOKEN = 16
"""Characters; of a result so long that its tokens would have more of them on average, the rest is not looked at."""

T = TypeVar("T")
Confirm = Callable[[ToolCall], bool | Awaitable[bool]]


@dataclass(frozen=True)
class Backend:
    """What a reply needs of a loaded model."""

    generate: Generate
    tokenizer: Tokenizer
    context: int
    """Tokens that a prompt and its continuation may have together."""


@dataclass(frozen=True)
class Settings:
    """How a reply is made.

    Raises:
        RequestError: a number is out of its range.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = MAX_TOKENS
    """Of all turns together, thoughts included."""
    reasoning_budget: int | None = None
    """Tokens of thoughts, of all turns together; then the answer begins. None sets no limit, but the last
    `ANSWER_TOKENS` of `max_tokens` and the context, or the last quarter where that is less, are always kept for the
    answer: so there is one, however long the model would think. Only a budget of `max_tokens` lets it think to the
    end."""
    max_turns: int = MAX_TURNS
    logprobs: int | None = None
    first: Rules | None = None
    """What the first turn must look like."""
    later: Rules | None = None
    """What those after a call must look like."""
    parse: Callable[[str], Any] | None = None
    """What makes a value of the answer."""
    confirm: Confirm | None = None
    """Asked before each call that would run here."""
    cancelled: Callable[[], bool] | None = None
    """Asked at each token, before each call and while one runs, then from another thread: whether to stop."""

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, SamplingParams):
            raise RequestError(f"sampling: SamplingParams expected, {self.sampling!r} found")
        for name, hook in (("confirm", self.confirm), ("cancelled", self.cancelled)):
            if hook is not None and not callable(hook):
                raise RequestError(f"{name}: a function expected, {hook!r} found")
        for name, value, least, most in (
            ("max_tokens", self.max_tokens, 1, None),
            ("max_turns", self.max_turns, 1, None),
            ("reasoning_budget", self.reasoning_budget, 0, None),
            ("logprobs", self.logprobs, 0, MOST_LOGPROBS),
        ):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and least <= value <= (most or value)):
                expected = f"{least} or more" if most is None else f"{least} to {most}"
                raise RequestError(f"{name}: an integer of {expected} expected, {value!r} found")


class Dialogue:
    """The model's dialogue with its tools until it has answered; `events` or `aevents` runs it, once.

    Args:
        backend: the model.
        conversation: what has been said, with the declarations of `tools`.
        tools: what runs here.
        settings: how.

    Raises:
        RequestError: the conversation is empty, or does not fit the context (ContextError).
    """

    def __init__(
        self,
        backend: Backend,
        conversation: Conversation,
        tools: Toolbox | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._backend = backend
        self._conversation = conversation
        self._tools = tools or Toolbox()
        self._settings = settings or Settings()
        if all(message.role is Role.SYSTEM for message in conversation):
            raise RequestError("messages: something to answer expected, an empty conversation found")
        self._declared = declarations(conversation)
        self._prompt = render(conversation, backend.tokenizer)
        if len(self._prompt) >= backend.context:
            raise ContextError("messages", len(self._prompt), backend.context - 1)
        self._messages: list[Message] = []
        self._open: list[tuple[ToolCall, str | None]] = []  # calls to be answered here, and their channels
        self._waiting: list[ToolCall] = []
        self._outputs: list[ToolOutput] = []
        self._turns = self._calls = self._thoughts = 0
        self._filled = len(self._prompt)  # tokens of the context that are taken, but for a few of headers
        self._usage = Usage()
        self._reason: str | None = None
        self._stop_text: str | None = None
        self._gone = False

    @property
    def prompt(self) -> Sequence[int]:
        """Tokens that the model reads before its next turn."""
        return self._prompt

    def events(self) -> Generator[Event, None, None]:
        """Everything that happens, at last `Done`; closing the iterator ends the work."""
        while self._reason is None:
            yield from self._turn()
            while self._has_call():
                result = self._refusal() or tool_loop().run(self._answer())
                if result is not None:
                    yield self._record(result)
            self._conclude()
        yield Done(self._done())

    async def aevents(self) -> AsyncGenerator[Event, None]:
        """The same without blocking the event loop: the model works in a thread, and tools are awaited."""
        with Worker() as worker:
            try:
                while self._reason is None:
                    async with aclosing(worker.iterate(self._turn())) as events:
                        async for event in events:
                            yield event
                    while self._has_call():
                        result = await self._arefusal() or await self._answer()
                        if result is not None:
                            yield self._record(result)
                    self._conclude()
            finally:
                self._gone = self._reason is None  # closed or cancelled: the thread shall not go on for long
        yield Done(self._done())

    def reply(self) -> Reply:
        """Run it to its end."""
        *_, last = self.events()
        return _reply_of(last)

    async def areply(self) -> Reply:
        """Run it to its end without blocking the event loop."""
        return _reply_of([event async for event in self.aevents()][-1])

    # Turns

    def _turn(self) -> Generator[Event, None, None]:
        settings, first = self._settings, self._turns == 0
        room = min(settings.max_tokens - self._usage.completion_tokens, self._backend.context - len(self._prompt))
        guide = self._guide(settings.first if first else settings.later, room)
        request = Request(
            prompt=self._prompt,
            sampling=settings.sampling,
            max_tokens=room,
            boundaries=tuple(i for i, token in enumerate(self._prompt) if token == self._backend.tokenizer.start),
            guide=guide,
            logprobs=settings.logprobs,
            cancelled=self._is_cancelled,
        )
        turn = Turn(self._backend.tokenizer, self._declared, self._calls)
        yield from turn.run(self._backend.generate, request)
        self._thoughts += guide.reasoning_tokens
        self._take(turn)

    def _guide(self, rules: Rules | None, room: int) -> ReasoningBudget:
        tokenizer = self._backend.tokenizer
        inner: Guide | None = None if rules is None else Constraint(Vocabulary.of(tokenizer), rules)
        opening: list[int] | None = None
        if rules is not None and rules.must_call:  # there may be no answer: open a call, as far as all agree
            opening = _common_beginning([tokenizer.encode(f" to={recipient}") for recipient in rules.calls])
        closing = closing_tokens(tokenizer, opening)
        asked = self._settings.reasoning_budget
        budget = room if asked is None else max(0, asked - self._thoughts)
        free = asked is not None and asked >= self._settings.max_tokens  # to think to the end
        deadline = None if free else max(0, room - min(ANSWER_TOKENS, room // 4) - len(closing))
        return ReasoningBudget(tokenizer, budget, inner, closing, deadline)

    def _take(self, turn: Turn) -> None:
        """Remember what a turn brought, and decide how it goes on."""
        self._turns += 1
        self._calls += len(turn.calls)
        self._usage += turn.usage
        self._filled = len(self._prompt) + turn.usage.completion_tokens
        self._stop_text = turn.stop_text
        self._say(*turn.messages)
        calls = list(zip(turn.calls, filter(is_call, turn.messages), strict=False))  # the last may be cut off
        if turn.cancelled or not turn.ended:
            self._reason = "cancelled" if turn.cancelled else "length"
        elif not calls:
            self._reason = "stop"
        else:
            self._open = [(call, message.channel) for call, message in calls if self._is_answered_here(call)]
        here = [call for call, _ in self._open]
        self._waiting = [call for call in turn.calls if call not in here]

    def _conclude(self) -> None:
        """After the calls of a turn: whether there is another turn."""
        if self._reason is not None:
            return
        self._prompt = render(self._conversation, self._backend.tokenizer)
        left = self._settings.max_tokens - self._usage.completion_tokens
        if self._open or self._is_cancelled():
            self._reason = "cancelled"
            self._waiting += [call for call, _ in self._open]
        elif self._waiting:
            self._reason = "tool_calls"
        elif self._turns == self._settings.max_turns or left < 1 or len(self._prompt) >= self._backend.context:
            self._reason = "length"

    def _say(self, *messages: Message) -> None:
        self._messages += messages
        self._conversation = self._conversation.adding(*messages)

    def _is_cancelled(self) -> bool:
        return self._gone or (self._settings.cancelled is not None and self._settings.cancelled())

    def _done(self) -> Reply:
        reply = Reply(
            tuple(self._messages),
            self._conversation,
            self._usage,
            self._reason or "stop",
            calls=tuple(self._waiting),
            outputs=tuple(self._outputs),
            parse=self._settings.parse,
            stop_text=self._stop_text,
        )
        return replace(reply, citations=tuple(self._tools.citations(reply.final)))

    # Calls

    def _is_answered_here(self, call: ToolCall) -> bool:
        """Whether a call runs here, or is addressed to nothing, which the model is told."""
        return self._tools.runner(call.recipient) is not None or call.recipient not in self._declared

    def _has_call(self) -> bool:
        """Whether a call is to be answered, the first of `_open`."""
        return bool(self._open) and not self._is_cancelled()

    def _refusal(self) -> ToolResult | None:
        """What the model reads instead of a result, if the caller does not allow the call."""
        call, _ = self._open[0]
        confirm = self._settings.confirm
        if confirm is None or self._tools.runner(call.recipient) is None:
            return None
        allowed = confirm(call)
        return _refused(tool_loop().run(_awaited(allowed)) if isinstance(allowed, Awaitable) else allowed)

    async def _arefusal(self) -> ToolResult | None:
        call, _ = self._open[0]
        confirm = self._settings.confirm
        if confirm is None or self._tools.runner(call.recipient) is None:
            return None
        allowed = confirm(call) if inspect.iscoroutinefunction(confirm) else await in_thread(lambda: confirm(call))
        return _refused(await allowed if isinstance(allowed, Awaitable) else allowed)

    async def _answer(self) -> ToolResult | None:
        """What the first open call gives; None where the reply has been cancelled before."""
        call, _ = self._open[0]
        tool = self._tools.runner(call.recipient)
        if tool is None:
            known = ", ".join(self._declared)
            there_is = f"you can call {known}" if known else "there is nothing that you can call"
            return ToolResult(f"{call.recipient} does not exist; {there_is}.", failed=True)
        running = asyncio.ensure_future(tool.run(call.recipient, call.arguments))
        try:
            while not (await asyncio.wait({running}, timeout=POLL_SECONDS))[0]:
                if self._is_cancelled():
                    self._gone = True
                    return None
        finally:
            if running.cancel():
                await asyncio.wait({running}, timeout=GRACE_SECONDS)
        return running.result()

    def _record(self, result: ToolResult) -> ToolOutput:
        call, channel = self._open.pop(0)
        self._say(Message.tool(call.recipient, self._readable(result.text), channel))
        self._outputs.append(ToolOutput(call, result))
        return self._outputs[-1]

    def _readable(self, text: str) -> str:
        """What the model reads of a result: so much that half of the context that is left stays free."""
        tokenizer, room = self._backend.tokenizer, max(0, self._backend.context - self._filled) // 2
        begun = text[: room * LONGEST_TOKEN]
        tokens = tokenizer.encode(begun)
        self._filled += min(len(tokens), room)
        if len(tokens) <= room and len(begun) == len(text):
            return text
        kept = tokenizer.decode(tokens[:room]).rstrip("\ufffd")
        return f"{kept}\n[{len(text) - len(kept)} more characters do not fit the context and are left out]"


def _common_beginning(sequences: Sequence[list[int]]) -> list[int]:
    return [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))]


def _reply_of(event: Event) -> Reply:
    if not isinstance(event, Done):
        raise RuntimeError("a dialogue ended without its Done event")
    return event.reply


def _refused(allowed: bool) -> ToolResult | None:
    return None if allowed else ToolResult("The user did not allow this call.", failed=True)


async def _awaited(value: Awaitable[T]) -> T:
    return await value


def tool_loop() -> BackgroundLoop:
    """The event loop in which everything that is not asynchronous runs its tools, one for the process.

    Whatever keeps a connection must be opened in it: `tool_loop().run(McpTools.connect(config))`.
    """
    with _LOCK:
        return _tool_loop()


@cache
def _tool_loop() -> BackgroundLoop:
    loop = BackgroundLoop()
    atexit.register(loop.close)
    return loop


_LOCK = threading.Lock()  # two threads must not make two loops
