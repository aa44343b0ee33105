"""A response's input, items of the API -> harmony messages.

Fields that an item has beyond what is read here are let pass: items come back as this server or another one wrote
them. What would be lost with an item, such as a picture, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import DeveloperContent, Message, Role
from gptoss_mlx.harmony.message import FUNCTIONS
from gptoss_mlx.tools.mcp import function_name

from ..errors import brief
from ..sealing import unseal
from .items import name_of, new_id

TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Parts of a content that are text, and the field that holds it."""
THOUGHTS = ("content", "encrypted_content", "summary")
"""Where an item of reasoning may have thoughts, the best first."""
IGNORED = ("web_search_call", "mcp_list_tools")
"""Items that hold nothing which the model would read again: what a search found is not in its item."""
PREFIXES = {
    "message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco",
    "custom_tool_call": "ctc", "custom_tool_call_output": "ctco",
}  # fmt: skip


class InputReader:
    """Reads items one after the other, and remembers the calls that later results refer to.

    Args:
        mcp: tools of MCP servers: label and name -> how the model calls it.
    """

    def __init__(self, mcp: Mapping[tuple[str, str], str] | None = None) -> None:
        self._mcp = mcp or {}
        self._callers: dict[str, str] = {}

    def know(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Remember the calls among earlier items."""
        for item in items:
            if item.get("type") in ("function_call", "custom_tool_call"):
                self._callers[str(item.get("call_id"))] = f"{FUNCTIONS}.{_called(item, str(item.get('name')))}"

    def read(self, items: Sequence[Mapping[str, Any]], where: str = "input") -> list[Message]:
        """The messages that the items stand for.

        Raises:
            RequestError: an item is of a kind that means nothing here, or lacks what its kind must have.
        """
        messages: list[Message] = []
        for position, item in enumerate(items):
            before_call = item.get("role") == Role.ASSISTANT.value and _calls_next(items[position + 1 :])
            messages += self._item(item, f"{where}[{position}]", before_call)
        return messages

    def _item(self, item: Mapping[str, Any], where: str, before_call: bool) -> Iterator[Message]:
        match kind := item.get("type", "message"):
            case "message":
                yield _message(item, where, before_call)
            case "reasoning":
                yield from _reasoning(item, where)
            case "function_call" | "custom_tool_call":
                yield self._call(item, where)
            case "function_call_output" | "custom_tool_call_output":
                yield self._result(item, where)
            case "code_interpreter_call":
                yield from _cell(item, where)
            case "mcp_call":
                yield from self._mcp_call(item, where)
            case _ if kind in IGNORED:
                return
            case _:
                raise RequestError(f"{where}.type: an item that this server knows expected, {brief(kind)} found")

    def _call(self, item: Mapping[str, Any], where: str) -> Message:
        recipient = f"{FUNCTIONS}.{_called(item, _field(item, 'name', where))}"
        self._callers[_field(item, "call_id", where)] = recipient
        if item["type"] == "custom_tool_call":
            text = {"input": _field(item, "input", where, empty=True)}
            return Message.call(recipient, json.dumps(text, ensure_ascii=False))
        return Message.call(recipient, _field(item, "arguments", where, empty=True))

    def _result(self, item: Mapping[str, Any], where: str) -> Message:
        number = _field(item, "call_id", where)
        if number not in self._callers:
            raise RequestError(
                f"{where}.call_id: the id of an earlier call expected, {number[:80]!r} found; "
                "send the call as well, or previous_response_id"
            )
        return Message.tool(self._callers[number], _text(item.get("output"), f"{where}.output"))

    def _mcp_call(self, item: Mapping[str, Any], where: str) -> Iterator[Message]:
        label, name = _field(item, "server_label", where), _field(item, "name", where)
        recipient = f"{FUNCTIONS}.{self._mcp.get((label, name)) or function_name(label, name, ())}"
        yield Message.call(recipient, _field(item, "arguments", where, empty=True))
        output = item.get("output") if item.get("error") is None else item["error"]
        if output is not None:
            yield Message.tool(recipient, output if isinstance(output, str) else json.dumps(output))


def thoughts_in_progress(messages: Sequence[Message]) -> list[Message]:
    """The messages with those thoughts that the model is to read again: of the turn that waits for a call's result.

    Thoughts of turns before the last answer are left out when the conversation is rendered.
    """
    if messages and messages[-1].role is Role.TOOL:
        return list(messages)
    return [m for m in messages if m.channel != "analysis" or m.recipient is not None or m.role is not Role.ASSISTANT]


def resolve(
    given: str | Sequence[Mapping[str, Any]], referred: Callable[[str], Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """Input as the API lists it: whole items with types, ids and statuses, contents as parts.

    Args:
        given: a question, or items.
        referred: the stored item of an id; None where there is none.

    Raises:
        RequestError: a reference leads to nothing.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_resolved(item, f"input[{position}]", referred) for position, item in enumerate(given)]


def as_page(items: Sequence[dict[str, Any]], after: str | None, limit: int, newest_first: bool) -> dict[str, Any]:
    """A page of a list of items.

    Args:
        items: all of them, the oldest first.
        after: the id of the item before the page; None for the first page.
        limit: items at most.
        newest_first: the order.

    Raises:
        RequestError: `after` is no item of the list.
    """
    ordered = list(reversed(items)) if newest_first else list(items)
    ids = [item.get("id") for item in ordered]
    if after is not None and after not in ids:
        raise RequestError(f"after: the id of an item of this list expected, {after[:80]!r} found")
    first = 0 if after is None else ids.index(after) + 1
    page = ordered[first : first + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": page, **ends, "has_more": len(ordered) > first + limit}


def _resolved(
    item: Mapping[str, Any], where: str, referred: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, Any]:
    kind = item.get("type", "message" if "role" in item else "item_reference")
    if kind == "item_reference":
        id = _field(item, "id", where)
        found = referred(id)
        if found is None:
            raise RequestError(f"{where}.id: a stored item's id expected, {id[:80]!r} found; send the item itself")
        return dict(found)
    if kind == "reasoning" and isinstance(item.get("id"), str) and not any(item.get(field) for field in THOUGHTS):
        item = referred(item["id"]) or item  # as clients send thoughts back that they do not show
    listed = {**item, "type": kind}
    if kind == "message":
        listed["content"] = _listed_content(item.get("content"), item.get("role"))
    if kind == "reasoning":
        listed.setdefault("summary", [])
    elif item.get("status") is None:
        listed["status"] = "completed"
    if not isinstance(item.get("id"), str):
        listed["id"] = new_id(PREFIXES.get(str(kind), "item"))
    return listed


def _listed_content(content: Any, role: Any) -> Any:
    """A content as parts of the types that the API lists for the role."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        return content
    more: dict[str, Any] = {"annotations": []} if role == "assistant" else {}
    kind = "output_text" if role == "assistant" else "input_text"
    texts = ("text", "input_text", "output_text")
    return [
        {**more, **part, "type": kind} if isinstance(part, Mapping) and part.get("type") in texts else part
        for part in parts
    ]


def _calls_next(rest: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a call follows, with thoughts at most before it: then what stands before it was a preamble."""
    kinds = (item.get("type") for item in rest)
    return str(next((kind for kind in kinds if kind != "reasoning"), "")).endswith("_call")


def _message(item: Mapping[str, Any], where: str, before_call: bool) -> Message:
    text = _text(item.get("content"), f"{where}.content")
    match item.get("role"):
        case "system" | "developer":
            return Message.developer(DeveloperContent(text))
        case "user":
            return Message.user(text)
        case "assistant":
            phase = item.get("phase")
            said_before = phase == "commentary" or (phase is None and before_call)
            return Message.assistant(text, "commentary" if said_before else "final")
        case role:
            raise RequestError(f"{where}.role: user, assistant, system or developer expected, {brief(role)} found")


def _reasoning(item: Mapping[str, Any], where: str) -> Iterator[Message]:
    sealed = item.get("encrypted_content")
    text = _thoughts(item, "content", where)
    if not text and isinstance(sealed, str):
        text = unseal(sealed) or ""
    text = text or _thoughts(item, "summary", where)
    if text:
        yield Message.assistant(text, "analysis")


def _thoughts(item: Mapping[str, Any], field: str, where: str) -> str:
    parts = item.get(field) or []
    if not isinstance(parts, list) or not all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in parts):
        raise RequestError(f"{where}.{field}: a list of parts with text expected, {brief(parts)} found")
    return "\n\n".join(part["text"] for part in parts)


def _called(item: Mapping[str, Any], name: str) -> str:
    """How the model calls what an item calls by `name`."""
    space = item.get("namespace")
    return name_of(space, name) if isinstance(space, str) and space else name


def _cell(item: Mapping[str, Any], where: str) -> Iterator[Message]:
    yield Message.call("python", _field(item, "code", where, empty=True), "analysis", "code")
    outputs = item.get("outputs")
    if isinstance(outputs, list):
        logs = [o.get("logs") for o in outputs if isinstance(o, Mapping) and isinstance(o.get("logs"), str)]
        yield Message.tool("python", "\n".join(map(str, logs)), "analysis")


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    raise RequestError(f"{where}: a text or a list of text parts expected, {brief(content)} found")


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(TEXTS[kind]) if isinstance(kind, str) and kind in TEXTS else None
    if not isinstance(text, str):
        known = ", ".join(TEXTS)
        raise RequestError(f"{where}: a part of type {known} expected, {brief(part)} found; gpt-oss reads text only")
    return text


def _field(item: Mapping[str, Any], name: str, where: str, empty: bool = False) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise RequestError(f"{where}.{name}: a text expected, {brief(value)} found")
    return value
