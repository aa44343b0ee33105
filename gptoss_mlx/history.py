"""What people hold a conversation in -> harmony messages.

A history is a text (one question), a list of chat dictionaries in OpenAI's form, a list of harmony messages, or a
harmony Conversation. In OpenAI's form `system` means what harmony calls developer, thoughts travel as `reasoning`,
`reasoning_content` or `thinking`, and calls as `tool_calls`; content may be null and lists may be empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from .errors import RequestError
from .harmony import Conversation, DeveloperContent, Message, ReasoningEffort, Role, SystemContent, Tool, ToolNamespace
from .harmony.message import FUNCTIONS

History = str | Conversation | Sequence[Mapping[str, Any] | Message]
ToolLike = Tool | Mapping[str, Any]

THOUGHTS = ("reasoning", "reasoning_content", "thinking")
KNOWN = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "annotations", "audio", *THOUGHTS}


def to_conversation(
    history: History,
    *,
    effort: str | None = None,
    instructions: str | None = None,
    tools: Sequence[ToolLike] = (),
    date: str | None = None,
) -> Conversation:
    """The conversation to render: system message, developer message where there is something to say, history.

    Args:
        history: see the module. A system message of harmony's own among it is kept as it is.
        effort: low, medium or high; None leaves it at medium, or at what the history's system message says.
        instructions: put before those that the history brings.
        tools: functions that the model may call.
        date: YYYY-MM-DD for the system message, None for none.

    Raises:
        RequestError: a message has no role, an unknown field or a content that is no text.
        HarmonyError: an effort or role that does not exist.
    """
    messages = list(_messages(history))
    systems = [m for m in messages if m.role is Role.SYSTEM]
    rest = [m for m in messages if m.role is not Role.SYSTEM]
    if not systems:
        content = SystemContent(conversation_start_date=date)
        systems = [Message.system(content)]
    if effort is not None:
        systems = [_with_effort(message, effort) for message in systems]
    leading = list(takewhile(_is_developer, rest))
    developer = _merge_developers(leading, instructions, [as_tool(tool) for tool in tools])
    return Conversation((*systems, *developer, *rest[len(leading) :]))


def as_tool(tool: ToolLike) -> Tool:
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


def _messages(history: History) -> Iterator[Message]:
    if isinstance(history, str):
        yield Message.user(history)
        return
    callers: dict[str, str] = {}
    for position, message in enumerate(history):
        if isinstance(message, Message):
            yield message
        elif isinstance(message, Mapping):
            yield from _from_chat(message, f"messages[{position}]", callers)
        else:
            raise RequestError(f"messages[{position}]: a dictionary or a Message expected, {message!r} found")


def _from_chat(message: Mapping[str, Any], where: str, callers: dict[str, str]) -> Iterator[Message]:
    unknown = sorted(set(message) - KNOWN)
    if unknown:
        raise RequestError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(KNOWN))}")
    text = _text(message.get("content"), where)
    match message.get("role"):
        case "system" | "developer":
            yield Message.developer(DeveloperContent(text))
        case "user":
            yield Message.user(text, message.get("name"))
        case "assistant":
            yield from _from_assistant(message, text, where, callers)
        case "tool" | "function":
            name = message.get("name") or callers.get(message.get("tool_call_id") or "")
            if not name:
                raise RequestError(f"{where}: a tool message needs the tool_call_id of an earlier call, or a name")
            yield Message.tool(_qualified(name), text)
        case role:
            raise RequestError(f"{where}: role system, developer, user, assistant or tool expected, {role!r} found")


def _from_assistant(message: Mapping[str, Any], text: str, where: str, callers: dict[str, str]) -> Iterator[Message]:
    for field in THOUGHTS:
        if message.get(field):
            yield Message.assistant(_text(message[field], f"{where}.{field}"), channel="analysis")
            break
    calls = message.get("tool_calls") or ()
    if text:
        yield Message.assistant(text, channel="commentary" if calls else "final")
    for call in calls:
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments", "{}")
        if not name:
            raise RequestError(f"{where}: a tool call needs function.name, {json.dumps(call, default=str)[:80]} found")
        if call.get("id"):
            callers[call["id"]] = name
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        yield Message.call(_qualified(name), arguments)


def _qualified(name: str) -> str:
    return name if name.startswith(f"{FUNCTIONS}.") else f"{FUNCTIONS}.{name}"


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
    raise RequestError(f"{where}: text or a list of text parts expected; gpt-oss reads text only")


def _is_developer(message: Message) -> bool:
    return message.role is Role.DEVELOPER and all(isinstance(part, DeveloperContent) for part in message.content)


def _with_effort(message: Message, effort: str) -> Message:
    parts = [
        replace(p, reasoning_effort=ReasoningEffort.of(effort)) if isinstance(p, SystemContent) else p
        for p in message.content
    ]
    return replace(message, content=tuple(parts))


def _merge_developers(leading: list[Message], instructions: str | None, tools: list[Tool]) -> tuple[Message, ...]:
    """One developer message out of those that open the history, what the caller adds in front."""
    contents = [part for message in leading for part in message.content if isinstance(part, DeveloperContent)]
    texts = [instructions, *(content.instructions for content in contents)]
    functions = [t for c in contents for n in c.tools if n.name == FUNCTIONS for t in n.tools] + tools
    others = [n for c in contents for n in c.tools if n.name != FUNCTIONS]
    merged = DeveloperContent(
        "\n\n".join(text for text in texts if text) or None,
        (*((ToolNamespace.functions(functions),) if functions else ()), *others),
        tuple(form for content in contents for form in content.response_formats),
    )
    return (Message.developer(merged),) if merged != DeveloperContent() else ()
