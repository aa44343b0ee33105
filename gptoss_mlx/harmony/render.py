"""A conversation as the tokens that the model was trained to read.

Each piece of text is encoded by itself, as plain text; the control tokens between the pieces come from here alone.
The result equals the openai-harmony package's token for token (with its dropping rule).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from ..errors import HarmonyError
from ..tokenizer import Tokenizer
from .message import (
    FUNCTIONS,
    ChannelConfig,
    Content,
    DeveloperContent,
    Message,
    ResponseFormat,
    Role,
    SystemContent,
    TextContent,
    ToolNamespace,
)
from .typescript import compact_json, function_type

DropAnalysis = Literal["finished", "openai-harmony", "never"]
_CONSTRAIN = "<|constrain|>"
_SEPARATOR = "\n\n"


def render(
    conversation: Iterable[Message],
    tokenizer: Tokenizer,
    next_role: Role | str | None = "assistant",
    drop_analysis: DropAnalysis = "finished",
    *,
    training: bool = False,
) -> list[int]:
    """Tokens of `conversation`, then the opening of a message of `next_role` (None: no opening).

    `drop_analysis` says which messages of the channel analysis are left out:
    - "finished": those of every turn that ended in a final answer; the turn in progress keeps its own. This is
      what the format's documentation asks for.
    - "openai-harmony": that package's own rule: if the last message of the assistant is final, those before the
      *first* final message, and nothing otherwise.
    - "never": none.

    `training` closes a last message of the assistant in the channel final with `<|return|>`, as the model should
    generate it; a history has `<|end|>` there. Raises HarmonyError for what harmony cannot express.
    """
    messages = tuple(conversation)
    kept = drop(messages, drop_analysis)
    functions = any(map(_declares_functions, messages))
    tokens: list[int] = []
    for message in kept:
        tokens += render_message(message, tokenizer, functions=functions)
    last = kept[-1] if kept else None
    if training and last is not None and last.role is Role.ASSISTANT and last.channel == "final":
        tokens[-1] = tokenizer.return_
    if next_role is not None:
        tokens += [tokenizer.start, *tokenizer.encode(Role.of(next_role).value)]
    return tokens


def drop(messages: Sequence[Message], rule: DropAnalysis) -> list[Message]:
    """The messages that are left after dropping analysis by `rule`; see `render`."""
    if rule not in get_args(DropAnalysis):
        raise HarmonyError(f"drop_analysis: expected one of {', '.join(get_args(DropAnalysis))}, found {rule!r}")
    finals = [i for i, message in enumerate(messages) if message.channel == "final"]
    until = 0
    if rule == "finished" and finals:
        until = finals[-1]
    if rule == "openai-harmony" and finals:
        spoken = [message for message in messages if message.role is Role.ASSISTANT]
        until = finals[0] if spoken and spoken[-1].channel == "final" else 0
    return [message for i, message in enumerate(messages) if i >= until or message.channel != "analysis"]


def render_message(message: Message, tokenizer: Tokenizer, *, functions: bool = False) -> list[int]:
    """Tokens of one message from `<|start|>` to its closing token.

    `functions` says that the conversation declares functions, which a system message then tells the model.
    """
    tokens = _header(message, tokenizer)
    for part in message.content:
        for text in _texts(part, message.role, functions):
            tokens += tokenizer.encode(text)
    is_call = message.role is Role.ASSISTANT and message.recipient is not None
    return [*tokens, tokenizer.call if is_call else tokenizer.end]


def _header(message: Message, tokenizer: Tokenizer) -> list[int]:
    tokens = [tokenizer.start, *tokenizer.encode(_author(message))]
    if message.recipient is not None and message.recipient != "all":
        tokens += tokenizer.encode(f" to={message.recipient}")
    if message.channel is not None:
        tokens += [tokenizer.channel, *tokenizer.encode(message.channel)]
    kind = message.content_type
    if kind is not None and kind.startswith(_CONSTRAIN):
        kind = kind.removeprefix(_CONSTRAIN)
        tokens += [*tokenizer.encode(" "), tokenizer.constrain, *tokenizer.encode(kind)]
    elif kind is not None:
        tokens += tokenizer.encode(f" {kind}")
    return [*tokens, tokenizer.message]


def _author(message: Message) -> str:
    name = message.author.name
    if message.role is Role.TOOL:
        if name is None:
            raise HarmonyError("a tool message needs its tool's name, for instance functions.get_weather; found none")
        return name
    return message.role.value if name is None else f"{message.role.value}:{name}"


def _texts(part: Content, role: Role, functions: bool) -> Iterator[str]:
    if isinstance(part, TextContent):
        yield part.text
    elif isinstance(part, SystemContent):
        if role is not Role.SYSTEM:
            raise HarmonyError(f"system content belongs into a system message, found it in one of {role.value}")
        yield system_text(part, functions=functions)
    else:
        if role is not Role.DEVELOPER:
            raise HarmonyError(f"developer content belongs into a developer message, found it in one of {role.value}")
        yield from developer_texts(part)


def _declares_functions(message: Message) -> bool:
    namespaces = (ns for part in message.content if isinstance(part, DeveloperContent) for ns in part.tools)
    return any(namespace.name == FUNCTIONS and namespace.tools for namespace in namespaces)


def system_text(content: SystemContent, *, functions: bool = False) -> str:
    """The text of a system message; `functions`: send function calls to the channel commentary."""
    about = (
        ("", content.model_identity),
        ("Knowledge cutoff: ", content.knowledge_cutoff),
        ("Current date: ", content.conversation_start_date),
    )
    lines = [label + value for label, value in about if value is not None]
    sections = ["\n".join(lines)] if lines else []
    if content.reasoning_effort is not None:
        sections.append(f"Reasoning: {content.reasoning_effort.value}")
    sections += _tools(content.tools)
    if content.channel_config is not None and content.channel_config.valid_channels:
        sections.append(_channels(content.channel_config, functions))
    return _SEPARATOR.join(sections)


def _channels(config: ChannelConfig, functions: bool) -> str:
    text = f"# Valid channels: {', '.join(config.valid_channels)}."
    if config.channel_required:
        text += " Channel must be included for every message."
    if functions:
        text += f"\nCalls to these tools must go to the commentary channel: '{FUNCTIONS}'."
    return text


def developer_texts(content: DeveloperContent) -> Iterator[str]:
    """The texts of a developer message: its sections, then the response formats, each encoded by itself."""
    sections = [] if content.instructions is None else [f"# Instructions\n\n{content.instructions}"]
    sections += _tools(content.tools)
    if sections:
        yield _SEPARATOR.join(sections)
    if content.response_formats:
        formats = _SEPARATOR.join(["# Response Formats", *map(_response_format, content.response_formats)])
        yield _SEPARATOR + formats if sections else formats


def _response_format(form: ResponseFormat) -> str:
    comment = "" if form.description is None else _commented(form.description)
    return f"## {form.name}\n\n{comment}{compact_json(form.schema)}"


def _tools(namespaces: Iterable[ToolNamespace]) -> list[str]:
    ordered = sorted(namespaces, key=lambda namespace: namespace.name.encode("utf-8", "surrogatepass"))
    return ["# Tools", *map(_namespace, ordered)] if ordered else []


def _namespace(namespace: ToolNamespace) -> str:
    description = namespace.description or ""
    if not namespace.tools:
        return f"## {namespace.name}\n" + "".join(f"\n{line}" for line in _lines(description))
    tools = "".join(
        f"{_commented(tool.description)}{function_type(tool.name, tool.parameters)}\n\n" for tool in namespace.tools
    )
    name = namespace.name
    return f"## {name}\n\n{_commented(description)}namespace {name} {{\n\n{tools}}} // namespace {name}"


def _commented(text: str) -> str:
    return "".join(f"// {line}\n" for line in _lines(text))


def _lines(text: str) -> list[str]:
    """Lines that end at a line feed or at carriage return and line feed; no empty one after the last of these."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]
