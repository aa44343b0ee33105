"""Messages of Anthropic's API -> harmony messages.

Thinking blocks are thoughts, text beside a tool_use is a preamble, tool_result blocks are results. `cache_control` and
citations of blocks are let pass, as they change nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import DeveloperContent, Message
from gptoss_mlx.harmony.message import FUNCTIONS

from .errors import brief
from .sealing import unseal


class MessageReader:
    """Reads messages one after the other, and remembers the calls that results refer to."""

    def __init__(self) -> None:
        self._callers: dict[str, str] = {}

    def read(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The harmony messages that all of them stand for.

        Raises:
            RequestError: a role or block that means nothing here, or an answer that is only begun.
        """
        if messages and messages[-1].get("role") == "assistant":
            raise RequestError("messages: a last message of the user expected; an answer cannot be begun for the model")
        return [read for i, message in enumerate(messages) for read in self._message(message, f"messages[{i}]")]

    def _message(self, message: Mapping[str, Any], where: str) -> Iterator[Message]:
        unknown = next((key for key in message if key not in ("role", "content")), None)
        if unknown is not None:
            raise RequestError(f"{where}.{unknown}: role and content expected, another field found")
        blocks = as_blocks(message.get("content"), f"{where}.content")
        match message.get("role"):
            case "user":
                yield from self._user(blocks, f"{where}.content")
            case "assistant":
                yield from self._assistant(blocks, f"{where}.content")
            case "system":
                yield Message.developer(DeveloperContent(joined_text(blocks, f"{where}.content")))
            case role:
                raise RequestError(f"{where}.role: user, assistant or system expected, {brief(role)} found")

    def _user(self, blocks: Sequence[Mapping[str, Any]], where: str) -> Iterator[Message]:
        texts: list[str] = []
        for i, block in enumerate(blocks):
            if block.get("type") == "tool_result":
                yield self._result(block, f"{where}[{i}]")
            else:
                texts.append(_text_of(block, f"{where}[{i}]"))
        if texts or not blocks:
            yield Message.user("\n\n".join(texts))

    def _assistant(self, blocks: Sequence[Mapping[str, Any]], where: str) -> Iterator[Message]:
        channel = "commentary" if any(block.get("type") == "tool_use" for block in blocks) else "final"
        for i, block in enumerate(blocks):
            match block.get("type"):
                case "thinking":
                    thoughts = _string(block, "thinking", f"{where}[{i}]") or unseal(str(block.get("signature"))) or ""
                    yield from (Message.assistant(text, "analysis") for text in (thoughts,) if text)
                case "redacted_thinking":
                    thoughts = unseal(_string(block, "data", f"{where}[{i}]")) or ""
                    yield from (Message.assistant(text, "analysis") for text in (thoughts,) if text)
                case "tool_use":
                    yield self._call(block, f"{where}[{i}]")
                case _:
                    yield Message.assistant(_text_of(block, f"{where}[{i}]"), channel)

    def _call(self, block: Mapping[str, Any], where: str) -> Message:
        recipient = f"{FUNCTIONS}.{_string(block, 'name', where)}"
        self._callers[_string(block, "id", where)] = recipient
        arguments = block.get("input", {})
        if not isinstance(arguments, Mapping):
            raise RequestError(f"{where}.input: an object expected, {brief(arguments)} found")
        return Message.call(recipient, json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))

    def _result(self, block: Mapping[str, Any], where: str) -> Message:
        number = _string(block, "tool_use_id", where)
        if number not in self._callers:
            raise RequestError(f"{where}.tool_use_id: the id of an earlier tool_use expected, {number[:80]!r} found")
        text = joined_text(as_blocks(block.get("content") or "", f"{where}.content"), f"{where}.content")
        return Message.tool(self._callers[number], f"Error: {text}" if block.get("is_error") is True else text)


def as_blocks(content: Any, where: str) -> list[Mapping[str, Any]]:
    """A content as blocks; RequestError if it is neither a text nor a list of them."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(block, Mapping) for block in content):
        return content
    raise RequestError(f"{where}: a text or a list of blocks expected, {brief(content)} found")


def joined_text(blocks: Sequence[Mapping[str, Any]], where: str) -> str:
    """The text of blocks that must all be text."""
    return "\n\n".join(_text_of(block, f"{where}[{i}]") for i, block in enumerate(blocks))


def _text_of(block: Mapping[str, Any], where: str) -> str:
    source = block.get("source")
    match block.get("type"):
        case "text":
            return _string(block, "text", where)
        case "document" if isinstance(source, Mapping) and source.get("type") == "text":
            title = block.get("title")
            return "\n".join(part for part in (title, _string(source, "data", where)) if isinstance(part, str))
        case kind:
            raise RequestError(f"{where}: text expected, {brief(kind)} found; gpt-oss reads text only")


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{where}.{name}: a text expected, {brief(value)} found")
    return value
