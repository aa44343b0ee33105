"""Chat dictionaries of OpenAI's form <-> harmony messages.

In that form `system` means what harmony calls developer, thoughts travel as `reasoning`, `reasoning_content` or
`thinking`, and calls as `tool_calls`; content may be null, a text or a list of text parts, and lists may be empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .errors import RequestError
from .harmony import DeveloperContent, Message, Role
from .harmony.message import CONSTRAINED_JSON, FUNCTIONS

THOUGHTS = ("reasoning", "reasoning_content", "thinking")
KNOWN = {
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "annotations", "audio",
    "parsed", *THOUGHTS,
}  # fmt: skip
"""Fields of a message; `parsed` is what OpenAI's packages add to an answer: the content, read as JSON."""
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Parts of a content that are text, and the field that holds it."""
BUILT_IN = ("python", "browser.search", "browser.open", "browser.find")
"""Names of calls that mean the tools that the model was trained with, unless a function has the name."""


class ChatReader:
    """Reads chat dictionaries, and remembers the calls that later results refer to.

    Args:
        functions: names of declared functions.
    """

    def __init__(self, functions: Sequence[str] = ()) -> None:
        self._functions = functions
        self._calls: dict[str, Message] = {}

    def read(self, message: Mapping[str, Any], where: str) -> Iterator[Message]:
        """The harmony messages that one dictionary stands for.

        Raises:
            RequestError: it has no role, an unknown field, or a content that is no text; `where` names it.
        """
        unknown = sorted(map(str, set(message) - KNOWN))
        if unknown:
            raise RequestError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(KNOWN))}")
        if message.get("audio"):
            raise RequestError(f"{where}.audio: nothing expected, as gpt-oss reads text only")
        text = _text(message.get("content"), where) or _text(message.get("refusal"), f"{where}.refusal")
        match message.get("role"):
            case "system" | "developer":
                yield Message.developer(DeveloperContent(text))
            case "user":
                yield Message.user(text, _name(message, where))
            case "assistant":
                yield from self._assistant(message, text, where)
            case "tool" | "function":
                yield self._result(message, text, where)
            case role:
                expected = "role system, developer, user, assistant or tool"
                raise RequestError(f"{where}: {expected} expected, {role!r} found")

    def _assistant(self, message: Mapping[str, Any], text: str, where: str) -> Iterator[Message]:
        for field in THOUGHTS:
            if message.get(field):
                yield Message.assistant(_text(message[field], f"{where}.{field}"), channel="analysis")
                break
        calls = message.get("tool_calls") or ()
        if not _is_list(calls):
            raise RequestError(f"{where}.tool_calls: a list expected, {_brief(calls)} found")
        if message.get("function_call"):
            calls = [{"function": message["function_call"]}]
        if text:
            yield Message.assistant(text, channel="commentary" if calls else "final")
        for call in calls:
            yield self._call(call, where)

    def _call(self, call: Any, where: str) -> Message:
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise RequestError(f"{where}: a tool call needs function.name, {_brief(call)} found")
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False, default=str)
        message = self._addressed(name, arguments)
        if isinstance(call.get("id"), str):
            self._calls[call["id"]] = message
        return message

    def _result(self, message: Mapping[str, Any], text: str, where: str) -> Message:
        number = message.get("tool_call_id")
        call = self._calls.get(number) if isinstance(number, str) else None
        name = _name(message, where)
        if call is None and name:
            call = self._addressed(name, "")
        if call is None or call.recipient is None:
            raise RequestError(f"{where}: a tool message needs the tool_call_id of an earlier call, or a name")
        return Message.tool(call.recipient, text, call.channel)

    def _addressed(self, name: str, arguments: str) -> Message:
        """A call of what goes by `name` in chat dictionaries."""
        if name in BUILT_IN and name not in self._functions:
            return Message.call(name, arguments, "analysis", "code" if name == "python" else CONSTRAINED_JSON)
        return Message.call(name if name.startswith(f"{FUNCTIONS}.") else f"{FUNCTIONS}.{name}", arguments)


def _name(message: Mapping[str, Any], where: str) -> str | None:
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise RequestError(f"{where}.name: a text expected, {_brief(name)} found")
    return name


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if _is_list(content):
        return "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    raise RequestError(f"{where}: text or a list of text parts expected; gpt-oss reads text only")


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    text = part.get(TEXT_PARTS[kind]) if isinstance(kind, str) and kind in TEXT_PARTS else None
    if not isinstance(text, str):
        known = ", ".join(TEXT_PARTS)
        raise RequestError(f"{where}: a part of type {known} expected, {_brief(part)} found; gpt-oss reads text only")
    return text


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:80]


def to_chat(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Harmony messages as chat dictionaries of OpenAI's form, which `to_conversation` reads back.

    Thoughts become `reasoning`, and calls get ids in their order. That form has no place for a few things: the system
    message with effort and dates, and declared tools, are left out; a preamble without a call after it comes back as
    an answer, and the content type of a call as the usual one.
    """
    writer = _ChatWriter()
    for message in messages:
        writer.write(message)
    return writer.dictionaries


class _ChatWriter:
    """Collects messages of the assistant into one dictionary as long as reading keeps their order."""

    def __init__(self) -> None:
        self.dictionaries: list[dict[str, Any]] = []
        self._open: tuple[str, ...] = ()  # fields that the last dictionary may still get
        self._unanswered: list[tuple[str, str]] = []  # recipient and id of calls
        self._count = 0

    def write(self, message: Message) -> None:
        """Add one message."""
        instructions = [part.instructions for part in message.content if isinstance(part, DeveloperContent)]
        text = message.text or "\n\n".join(text for text in instructions if text)
        if message.role is Role.ASSISTANT:
            self._assistant(message, text)
        elif message.role is Role.TOOL:
            self._add({"role": "tool", **self._answered(message.author.name or ""), "content": text})
        elif text or message.role is Role.USER:
            named = {"name": message.author.name} if message.author.name and message.role is Role.USER else {}
            self._add({"role": message.role.value, **named, "content": text})

    def _assistant(self, message: Message, text: str) -> None:
        if message.recipient is not None:
            calls = self._fields("tool_calls", ("tool_calls",)).setdefault("tool_calls", [])
            calls.append(self._call(message.recipient, text))
        elif message.channel == "analysis":
            self._fields("reasoning", ("content", "tool_calls"))["reasoning"] = text
        else:
            self._fields("content", ("tool_calls",) if message.channel == "commentary" else ())["content"] = text

    def _fields(self, field: str, after: tuple[str, ...]) -> dict[str, Any]:
        """The dictionary to put `field` into; `after` are the fields that may follow."""
        if field not in self._open:
            self._add({"role": "assistant", "content": None})
        self._open = after
        return self.dictionaries[-1]

    def _add(self, dictionary: dict[str, Any]) -> None:
        self.dictionaries.append(dictionary)
        self._open = ()

    def _call(self, recipient: str, arguments: str) -> dict[str, Any]:
        number = f"call_{self._count}"
        self._count += 1
        self._unanswered.append((recipient, number))
        name = recipient.removeprefix(f"{FUNCTIONS}.")
        name = recipient if name in BUILT_IN else name  # a function of such a name keeps its prefix
        return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _answered(self, recipient: str) -> dict[str, str]:
        """How a result names the call that it answers: the first one of its recipient without a result."""
        call = next((call for call in self._unanswered if call[0] == recipient), None)
        if call is None:
            return {"name": recipient}
        self._unanswered.remove(call)
        return {"tool_call_id": call[1]}
