"""What people hold a conversation in -> harmony messages.

A history is a text (one question), a list of chat dictionaries in OpenAI's form, a list of harmony messages, or a
harmony Conversation; messages and conversations may also be in the JSON form of the openai-harmony package, which
names channels and recipients.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from .chat_form import ChatReader
from .errors import RequestError
from .harmony import (
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    Tool,
    ToolNamespace,
)
from .harmony.json_form import read_message
from .harmony.message import FUNCTIONS

History = str | Conversation | Mapping[str, Any] | Sequence[Mapping[str, Any] | Message]
Declaration = Tool | Mapping[str, Any]
"""A function in our own form or in OpenAI's."""

TODAY = "today"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
HARMONY_FIELDS = {"channel", "recipient", "content_type"}
HARMONY_PARTS = ("system_content", "developer_content")


def to_conversation(
    history: History,
    *,
    effort: str | None = None,
    instructions: str | None = None,
    tools: Sequence[Declaration] = (),
    date: str | None = None,
    namespaces: Iterable[ToolNamespace] = (),
    hints: Iterable[str] = (),
    formats: Iterable[ResponseFormat] = (),
) -> Conversation:
    """The conversation to render: system message, developer message where there is something to say, history.

    What the history declares already is not declared again, so a reply's conversation can go in with the same
    arguments that it came from.

    Args:
        history: see the module. A system message of harmony's own among it is kept as it is.
        effort: low, medium or high; None leaves it at medium, or at what the history's system message says.
        instructions: put before those that the history brings.
        tools: functions that the model may call.
        date: YYYY-MM-DD for the system message, None for none.
        namespaces: built-in tools that the model may call.
        hints: put after all instructions, such as how to use a tool well.
        formats: response formats that the model is told of.

    Raises:
        RequestError: a message has no role, an unknown field or a content that is no text; or namespaces are to be
            declared in a system message that is a plain text; or the instructions are no text.
        HarmonyError: an effort or role that does not exist.
    """
    if instructions is not None and not isinstance(instructions, str):
        raise RequestError(f"instructions: a text expected, {instructions!r} found")
    messages = list(_messages(history, [as_tool(tool).name for tool in tools]))
    systems = [m for m in messages if m.role is Role.SYSTEM]
    rest = [m for m in messages if m.role is not Role.SYSTEM]
    if not systems:
        content = SystemContent(conversation_start_date=date)
        systems = [Message.system(content)]
    if effort is not None:
        systems = [_with_effort(message, effort) for message in systems]
    systems = _with_namespaces(systems, tuple(namespaces))
    leading = list(takewhile(_is_developer, rest))
    added = DeveloperContent(instructions, _functions([as_tool(tool) for tool in tools]), tuple(formats))
    developer = _merge_developers(leading, added, hints)
    return Conversation((*systems, *developer, *rest[len(leading) :]))


def resolved_date(date: str | None) -> str | None:
    """`date` with "today" as YYYY-MM-DD.

    Raises:
        RequestError: it is neither, nor None.
    """
    if date == TODAY:
        return datetime.date.today().isoformat()
    if date is not None and not (isinstance(date, str) and _DATE.fullmatch(date)):
        raise RequestError(f"date: YYYY-MM-DD, {TODAY!r} or None expected, {date!r} found")
    return date


def as_tool(tool: Declaration) -> Tool:
    """A tool from OpenAI's dictionary (`{"type": "function", "function": {...}}`), or as it is.

    Raises:
        RequestError: it has no name, or is not a function.
    """
    if isinstance(tool, Tool):
        return tool
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, Mapping) else None
    if tool.get("type", "function") != "function" or not isinstance(name, str) or not name:
        raise RequestError(f"tools: a function with a name expected, {json.dumps(dict(tool), default=str)[:80]} found")
    return Tool(name, function.get("description") or "", function.get("parameters"))


def _messages(history: History, functions: Sequence[str]) -> Iterator[Message]:
    if isinstance(history, str):
        yield Message.user(history)
        return
    if isinstance(history, Mapping) and "role" not in history:
        yield from Conversation.from_dict(history)
        return
    if isinstance(history, (Mapping, bytes)) or not isinstance(history, Iterable):
        raise RequestError(f"messages: a question, a list of messages or a Conversation expected, {history!r} found")
    reader = ChatReader(functions)
    for position, message in enumerate(history):
        where = f"messages[{position}]"
        if isinstance(message, Message):
            yield message
        elif not isinstance(message, Mapping):
            raise RequestError(f"{where}: a dictionary or a Message expected, {message!r} found")
        elif _is_harmony(message):
            yield read_message(message, where)
        else:
            yield from reader.read(message, where)


def _is_harmony(message: Mapping[str, Any]) -> bool:
    """Whether a dictionary is in the form of the openai-harmony package."""
    content = message.get("content")
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else ()
    kinds = [part.get("type") for part in parts if isinstance(part, Mapping)]
    return not HARMONY_FIELDS.isdisjoint(message) or any(kind in HARMONY_PARTS for kind in kinds)


def _is_developer(message: Message) -> bool:
    return message.role is Role.DEVELOPER and all(isinstance(part, DeveloperContent) for part in message.content)


def _with_effort(message: Message, effort: str) -> Message:
    parts = [
        replace(p, reasoning_effort=ReasoningEffort.of(effort)) if isinstance(p, SystemContent) else p
        for p in message.content
    ]
    return replace(message, content=tuple(parts))


def _with_namespaces(systems: list[Message], namespaces: tuple[ToolNamespace, ...]) -> list[Message]:
    """The system messages, the first of which declares `namespaces` as well."""
    if not namespaces:
        return systems
    first = systems[0].content[0] if systems[0].content else None
    if not isinstance(first, SystemContent):
        names = ", ".join(namespace.name for namespace in namespaces)
        raise RequestError(f"tools: {names} must be declared in a system message of SystemContent, a text found")
    added = {namespace.name for namespace in namespaces}
    content = replace(first, tools=(*(n for n in first.tools if n.name not in added), *namespaces))
    return [replace(systems[0], content=(content, *systems[0].content[1:])), *systems[1:]]


def _functions(functions: Sequence[Tool]) -> tuple[ToolNamespace, ...]:
    return (ToolNamespace.functions(functions),) if functions else ()


def _merge_developers(leading: list[Message], added: DeveloperContent, hints: Iterable[str]) -> tuple[Message, ...]:
    """One developer message out of those that open the history, what the caller adds before and after."""
    contents = [part for message in leading for part in message.content if isinstance(part, DeveloperContent)]
    said = "\n\n".join(content.instructions for content in contents if content.instructions)
    texts = [added.instructions if not _says(said, added.instructions) else None, said]
    texts += [hint for hint in hints if not _says(said, hint)]
    every = [*contents, added]
    functions = {tool.name: tool for c in every for n in c.tools if n.name == FUNCTIONS for tool in n.tools}
    others = [n for c in contents for n in c.tools if n.name != FUNCTIONS]
    forms = {form.name: form for c in every for form in c.response_formats}
    merged = DeveloperContent(
        "\n\n".join(text for text in texts if text) or None,
        (*_functions(list(functions.values())), *others),
        tuple(forms.values()),
    )
    return (Message.developer(merged),) if merged != DeveloperContent() else ()


def _says(text: str, part: str | None) -> bool:
    """Whether `part` stands in `text` as paragraphs of its own."""
    return part is not None and f"\n\n{part}\n\n" in f"\n\n{text}\n\n"
