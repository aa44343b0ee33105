"""What a harmony conversation is made of: messages with an author, a channel, a recipient and contents.

Everything is frozen and plain; `render` turns a conversation into tokens and `HarmonyParser` turns tokens into
messages. The JSON form (module `json_form`) is the one of the openai-harmony package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from ..errors import HarmonyError

CHANNELS = ("analysis", "commentary", "final")
CONSTRAINED_JSON = "<|constrain|>json"
"""Content type of a call's arguments, as the model was trained to see it in its history."""
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CUTOFF = "2024-06"
FUNCTIONS = "functions"
"""The namespace of the tools that a developer declares."""


class Role(str, Enum):
    """Who speaks, in the order in which they are obeyed where instructions contradict."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"

    @classmethod
    def of(cls, value: str) -> Role:
        """The role of that name; HarmonyError for another name."""
        try:
            return cls(value)
        except ValueError:
            known = ", ".join(role.value for role in cls)
            raise HarmonyError(f"role: expected one of {known}, found {value!r}") from None


class ReasoningEffort(str, Enum):
    """How long the model thinks before it answers."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @classmethod
    def of(cls, value: str) -> ReasoningEffort:
        """The effort of that name in any case; HarmonyError for another name."""
        try:
            return cls(value.lower())
        except (ValueError, AttributeError):
            known = ", ".join(effort.value for effort in cls)
            raise HarmonyError(f"reasoning effort: expected one of {known}, found {value!r}") from None


@dataclass(frozen=True)
class Author:
    """A role, and a name: a tool's (`functions.tide_at`), or for other roles an optional one."""

    role: Role
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role.of(self.role))


@dataclass(frozen=True)
class Tool:
    """A function that the model may call: name, description, JSON schema of its arguments (None: takes none)."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class ToolNamespace:
    """A group of tools under a name, with a description of its own."""

    name: str
    description: str | None = None
    tools: tuple[Tool, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", tuple(self.tools))

    @classmethod
    def functions(cls, tools: Iterable[Tool]) -> ToolNamespace:
        """The namespace of a developer's own functions."""
        return cls(FUNCTIONS, tools=tuple(tools))

    @classmethod
    def browser(cls) -> ToolNamespace:
        """The built-in web browser in the wording that the model was trained on."""
        return _built_in("browser")

    @classmethod
    def python(cls) -> ToolNamespace:
        """The built-in Python notebook in the wording that the model was trained on."""
        return _built_in("python")


@cache
def _built_in(name: str) -> ToolNamespace:
    from openai_harmony import ToolNamespaceConfig  # here: it costs 0.2 s, and few conversations need it

    config = {"browser": ToolNamespaceConfig.browser, "python": ToolNamespaceConfig.python}[name]()
    tools = tuple(Tool(tool.name, tool.description, tool.parameters) for tool in config.tools)
    return ToolNamespace(config.name, config.description, tools)


@dataclass(frozen=True)
class TextContent:
    """Plain text: whatever it spells, it never becomes a control token."""

    text: str


@dataclass(frozen=True)
class ChannelConfig:
    """The channels that the system message allows, and whether each message must name one."""

    valid_channels: tuple[str, ...] = CHANNELS
    channel_required: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "valid_channels", tuple(self.valid_channels))


@dataclass(frozen=True)
class SystemContent:
    """The system message: identity, dates, effort, built-in tools, channels. None leaves a part out."""

    model_identity: str | None = IDENTITY
    knowledge_cutoff: str | None = CUTOFF
    conversation_start_date: str | None = None
    """YYYY-MM-DD."""
    reasoning_effort: ReasoningEffort | None = ReasoningEffort.MEDIUM
    tools: tuple[ToolNamespace, ...] = ()
    channel_config: ChannelConfig | None = field(default_factory=ChannelConfig)

    def __post_init__(self) -> None:
        if self.reasoning_effort is not None:
            object.__setattr__(self, "reasoning_effort", ReasoningEffort.of(self.reasoning_effort))
        object.__setattr__(self, "tools", _namespaces(self.tools))


@dataclass(frozen=True)
class ResponseFormat:
    """A JSON schema that the answer should follow. It informs the model; it does not bind it."""

    name: str
    schema: Mapping[str, Any] = field(hash=False)
    description: str | None = None


@dataclass(frozen=True)
class DeveloperContent:
    """The developer message: what other interfaces call the system prompt, functions, response formats."""

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", _namespaces(self.tools))
        object.__setattr__(self, "response_formats", tuple(self.response_formats))


def _namespaces(tools: Iterable[ToolNamespace]) -> tuple[ToolNamespace, ...]:
    namespaces = tuple(tools)
    names = [namespace.name for namespace in namespaces]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise HarmonyError(f"tool namespace {twice!r} is declared twice; put its tools into one")
    return namespaces


Content = TextContent | SystemContent | DeveloperContent


@dataclass(frozen=True)
class Message:
    """One message. `channel`, `recipient` and `content_type` are None where the header does not name them.

    A text may stand for its content.
    """

    author: Author
    content: tuple[Content, ...] = ()
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    def __post_init__(self) -> None:
        content: Iterable[Content] | str = self.content
        parts = (TextContent(content),) if isinstance(content, str) else tuple(content)
        object.__setattr__(self, "content", parts)

    @property
    def role(self) -> Role:
        """The author's role."""
        return self.author.role

    @property
    def text(self) -> str:
        """The text contents, joined."""
        return "".join(part.text for part in self.content if isinstance(part, TextContent))

    @classmethod
    def system(cls, content: SystemContent | str | None = None) -> Message:
        """A system message; the library's usual one without an argument, a text word for word."""
        parts = TextContent(content) if isinstance(content, str) else content or SystemContent()
        return cls(Author(Role.SYSTEM), (parts,))

    @classmethod
    def developer(cls, content: DeveloperContent | str, tools: Iterable[Tool] = ()) -> Message:
        """A developer message; a text becomes its instructions, `tools` the functions it declares."""
        if isinstance(content, str):
            declared = tuple(tools)
            content = DeveloperContent(content or None, (ToolNamespace.functions(declared),) if declared else ())
        return cls(Author(Role.DEVELOPER), (content,))

    @classmethod
    def user(cls, text: str, name: str | None = None) -> Message:
        """What a user says."""
        return cls(Author(Role.USER, name), (TextContent(text),))

    @classmethod
    def assistant(
        cls,
        text: str,
        channel: str | None = "final",
        recipient: str | None = None,
        content_type: str | None = None,
    ) -> Message:
        """What the model said: thoughts (`channel="analysis"`), a preamble (`"commentary"`), or its answer."""
        return cls(Author(Role.ASSISTANT), (TextContent(text),), channel, recipient, content_type)

    @classmethod
    def call(
        cls,
        recipient: str,
        arguments: str,
        channel: str = "commentary",
        content_type: str | None = CONSTRAINED_JSON,
    ) -> Message:
        """A tool call of the model, for instance to `functions.tide_at` with JSON text as arguments."""
        return cls.assistant(arguments, channel, recipient, content_type)

    @classmethod
    def tool(cls, name: str, text: str, channel: str | None = "commentary") -> Message:
        """The result of a call, raw: `name` is the recipient of the call, `channel` the call's channel."""
        return cls(Author(Role.TOOL, name), (TextContent(text),), channel, "assistant")


@dataclass(frozen=True)
class Conversation:
    """Messages in their order."""

    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def adding(self, *messages: Message) -> Conversation:
        """This conversation with `messages` after it."""
        return Conversation((*self.messages, *messages))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conversation:
        """Read the openai-harmony package's JSON; HarmonyError for fields or values that it does not have."""
        from .json_form import read_conversation

        return read_conversation(data)

    def to_dict(self) -> dict[str, Any]:
        """Write the openai-harmony package's JSON. Response formats become a text that renders the same."""
        from .json_form import write_message

        return {"messages": [write_message(message) for message in self.messages]}
