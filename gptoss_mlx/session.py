"""A conversation that is kept from question to question.

Everything that stands before the history stays as it is, the date included, so that each prompt begins with the one
before and the engine has to read only what is new.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field, fields
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .conversation import MAX_TOKENS, MAX_TURNS, Confirm, Dialogue
from .errors import RequestError
from .events import Done, Event, Reply
from .harmony import Conversation, DeveloperContent, Message, Role, SystemContent, Tool
from .harmony.message import FUNCTIONS
from .history import TODAY, resolved_date
from .sampling import SamplingParams
from .toolbox import Toolbox, ToolLike

if TYPE_CHECKING:
    from .runtime import GptOss


@dataclass
class ChatSession:
    """A conversation with a model. The settings are those of `GptOss.dialogue`; they may change between questions.

    An answer that is not heard to its end, because the iterator was closed or an error came, is forgotten together
    with its question.
    """

    model: GptOss
    effort: str | None = None
    instructions: str | None = None
    tools: Sequence[ToolLike] = ()
    sampling: SamplingParams | None = None
    max_tokens: int = MAX_TOKENS
    reasoning_budget: int | None = None
    max_turns: int = MAX_TURNS
    confirm: Confirm | None = None
    cancelled: Callable[[], bool] | None = None
    date: str | None = TODAY
    messages: list[Message] = field(default_factory=list)
    """What has been said; the results of calls that were left to the caller are to be added here."""
    declared: tuple[Tool, ...] = field(default=(), init=False)
    """Functions of a conversation that was loaded, left to the caller unless `tools` has them."""

    def __post_init__(self) -> None:
        self.date = resolved_date(self.date)

    def stream(self, question: str | None = None, **options: Any) -> Generator[Event, None, None]:
        """Ask, and answer piece by piece.

        Args:
            question: None goes on from where the conversation stands.
            options: of `GptOss.dialogue`, such as `response_format`, for this question alone.

        Raises:
            RequestError, HarmonyError: see `GptOss.dialogue`; there is nothing to go on from.
        """
        asked = self._asked(question)
        return self._heard(asked, self._dialogue(asked, options).events())

    def say(self, question: str | None = None, **options: Any) -> Reply:
        """Ask, and answer at once; see `stream`."""
        asked = self._asked(question)
        return self._remember(asked, self._dialogue(asked, options).reply())

    def astream(self, question: str | None = None, **options: Any) -> AsyncGenerator[Event, None]:
        """`stream` without blocking the event loop."""
        asked = self._asked(question)
        return self._aheard(asked, self._dialogue(asked, options).aevents())

    async def asay(self, question: str | None = None, **options: Any) -> Reply:
        """`say` without blocking the event loop."""
        asked = self._asked(question)
        return self._remember(asked, await self._dialogue(asked, options).areply())

    def undo(self) -> str | None:
        """Forget the last question and everything after it; returns the question, None if there is none."""
        last = max((i for i, message in enumerate(self.messages) if message.role is Role.USER), default=None)
        if last is None:
            return None
        question = self.messages[last].text
        del self.messages[last:]
        return question

    def clear(self) -> None:
        """Forget everything that has been said."""
        self.messages = [message for message in self.messages if message.role is Role.SYSTEM]

    @property
    def conversation(self) -> Conversation:
        """Everything as the model reads it: system message, developer message, history."""
        return Toolbox(self._offered()).conversation(
            self.messages, effort=self.effort, instructions=self.instructions, date=self.date
        )

    def to_dict(self) -> dict[str, Any]:
        """The conversation in the JSON form of the openai-harmony package. Tools are declared in it, and no more."""
        return self.conversation.to_dict()

    @classmethod
    def from_dict(cls, model: GptOss, data: Mapping[str, Any], **settings: Any) -> ChatSession:
        """Go on with a conversation of that form.

        Args:
            model: who goes on.
            data: from `to_dict`, or of openai-harmony.
            settings: those of the class, but for `messages`; instructions and effort come from the data. Functions that
                it declares, and that `tools` does not have, are left to the caller.

        Raises:
            HarmonyError: it is not of that form.
        """
        session = cls(model, **settings)
        session.restore(data)
        return session

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on with another conversation of that form, and with its instructions and effort; see `from_dict`."""
        conversation = Conversation.from_dict(data)
        systems = [message for message in conversation if message.role is Role.SYSTEM]
        rest = [message for message in conversation if message.role is not Role.SYSTEM]
        plain = list(takewhile(_is_plain, rest))
        contents = [part for message in plain for part in message.content if isinstance(part, DeveloperContent)]
        self.declared = tuple(tool for part in contents for namespace in part.tools for tool in namespace.tools)
        instructions = "\n\n".join(content.instructions for content in contents if content.instructions)
        self.instructions = instructions or None
        self.effort = _effort(systems)
        self.messages = [*systems, *rest[len(plain) :]]

    def _dialogue(self, asked: list[Message], options: dict[str, Any]) -> Dialogue:
        kept = ("model", "messages", "declared")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in kept}
        return self.model.dialogue(asked, **settings | {"tools": self._offered()} | options)

    def _offered(self) -> list[ToolLike]:
        known = {function.name for function in Toolbox(self.tools).functions}
        return [*self.tools, *(tool for tool in self.declared if tool.name not in known)]

    def _asked(self, question: str | None) -> list[Message]:
        if question is not None:
            return [*self.messages, Message.user(question)]
        if not any(message.role is not Role.SYSTEM for message in self.messages):
            raise RequestError("question: a text expected to begin the conversation, none found")
        return list(self.messages)

    def _heard(self, asked: list[Message], events: Generator[Event, None, None]) -> Generator[Event, None, None]:
        with closing(events):
            for event in events:
                if isinstance(event, Done):
                    self._remember(asked, event.reply)
                yield event

    async def _aheard(self, asked: list[Message], events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Done):
                    self._remember(asked, event.reply)
                yield event

    def _remember(self, asked: list[Message], reply: Reply) -> Reply:
        self.messages = [*asked, *reply.messages]
        return reply


def _is_plain(message: Message) -> bool:
    """Whether a developer message holds instructions and functions, and nothing else."""
    return message.role is Role.DEVELOPER and all(
        isinstance(part, DeveloperContent) and all(namespace.name == FUNCTIONS for namespace in part.tools)
        for part in message.content
    )


def _effort(systems: Sequence[Message]) -> str | None:
    contents = [part for message in systems for part in message.content if isinstance(part, SystemContent)]
    return next((part.reasoning_effort.value for part in contents if part.reasoning_effort is not None), None)
