"""Conversations as JSON: reading and writing the form of the openai-harmony package.

The form is strict in both directions: a field that it does not have is an error and not dropped. A field of a
system message that is absent is None, as where that package renders; writing states such a field as null, because
its Python side would otherwise fill in a default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..errors import HarmonyError
from .message import (
    Author,
    ChannelConfig,
    Content,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    TextContent,
    Tool,
    ToolNamespace,
)
from .render import developer_texts

T = TypeVar("T")
Json = Mapping[str, Any]
_SYSTEM_FIELDS = (
    "type", "model_identity", "knowledge_cutoff", "conversation_start_date", "reasoning_effort", "tools",
    "channel_config",
)  # fmt: skip


def read_conversation(data: Json) -> Conversation:
    """`{"messages": [...]}` as a Conversation."""
    fields = _Fields(data, "conversation", ("messages",))
    return Conversation(tuple(fields.items("messages", read_message)))


def read_message(data: Json, where: str = "message") -> Message:
    """One message object; its content is a text or a list of parts."""
    known = ("role", "name", "content", "channel", "recipient", "content_type")
    fields = _Fields(data, where, known)
    role = Role.of(fields.required("role", str))
    if isinstance(data.get("content"), str):
        parts: Iterable[Content] = (TextContent(data["content"]),)
    else:
        parts = fields.items("content", _read_part)
    channel, recipient = fields.text("channel"), fields.text("recipient")
    return Message(Author(role, fields.text("name")), tuple(parts), channel, recipient, fields.text("content_type"))


def _read_part(data: Json, where: str) -> Content:
    kind = data.get("type") if isinstance(data, Mapping) else None
    if kind == "text":
        return TextContent(_Fields(data, where, ("type", "text")).required("text", str))
    if kind == "system_content":
        return _read_system(data, where)
    if kind == "developer_content":
        fields = _Fields(data, where, ("type", "instructions", "tools"))
        return DeveloperContent(fields.text("instructions"), _read_namespaces(fields))
    expected = "text, system_content or developer_content"
    raise HarmonyError(f"{where}: expected a content of type {expected}, found {_brief(kind)}")


def _read_system(data: Json, where: str) -> SystemContent:
    fields = _Fields(data, where, _SYSTEM_FIELDS)
    effort = fields.text("reasoning_effort")
    return SystemContent(
        model_identity=fields.text("model_identity"),
        knowledge_cutoff=fields.text("knowledge_cutoff"),
        conversation_start_date=fields.text("conversation_start_date"),
        reasoning_effort=None if effort is None else ReasoningEffort.of(effort),
        tools=_read_namespaces(fields),
        channel_config=fields.optional("channel_config", _read_channels),
    )


def _read_channels(data: Json, where: str) -> ChannelConfig:
    fields = _Fields(data, where, ("valid_channels", "channel_required"))
    channels = tuple(fields.required("valid_channels", list))
    if not all(isinstance(channel, str) for channel in channels):
        raise HarmonyError(f"{where}.valid_channels: expected texts, found {_brief(channels)}")
    return ChannelConfig(channels, fields.required("channel_required", bool))


def _read_namespaces(fields: _Fields) -> tuple[ToolNamespace, ...]:
    if fields.data.get("tools") is None:
        return ()
    found = fields.required("tools", dict)
    where = f"{fields.where}.tools"
    namespaces = {key: _read_namespace(value, f"{where}.{key}") for key, value in found.items()}
    for key, namespace in namespaces.items():
        if key != namespace.name:
            raise HarmonyError(f"{where}.{key}: expected a namespace of that name, found {namespace.name!r}")
    return tuple(namespaces.values())


def _read_namespace(data: Json, where: str) -> ToolNamespace:
    fields = _Fields(data, where, ("name", "description", "tools"))
    return ToolNamespace(
        fields.required("name", str), fields.text("description"), tuple(fields.items("tools", _read_tool))
    )


def _read_tool(data: Json, where: str) -> Tool:
    fields = _Fields(data, where, ("name", "description", "parameters"))
    parameters = fields.optional("parameters", lambda value, _: value)
    if parameters is not None and not isinstance(parameters, Mapping):
        raise HarmonyError(f"{where}.parameters: expected a JSON schema object, found {_brief(parameters)}")
    return Tool(fields.required("name", str), fields.required("description", str), parameters)


class _Fields:
    """An object of the JSON whose fields are read with a check; messages name the place."""

    def __init__(self, data: Json, where: str, known: Iterable[str]) -> None:
        if not isinstance(data, Mapping):
            raise HarmonyError(f"{where}: expected an object, found {_brief(data)}")
        names = tuple(known)
        unknown = [str(name) for name in data if name not in names]
        if unknown:
            raise HarmonyError(f"{where}: expected the fields {', '.join(names)}, found {', '.join(unknown)}")
        self.data, self.where = data, where

    def required(self, name: str, kind: type[T]) -> T:
        """The value of a field that must be there."""
        value = self.data.get(name)
        if not isinstance(value, kind):
            raise HarmonyError(f"{self.where}.{name}: expected {_KINDS[kind]}, found {_brief(value)}")
        return value

    def text(self, name: str) -> str | None:
        """The value of a text field that may be absent or null."""
        return None if self.data.get(name) is None else self.required(name, str)

    def optional(self, name: str, read: Callable[[Any, str], T]) -> T | None:
        """What `read` makes of a field that may be absent or null."""
        value = self.data.get(name)
        return None if value is None else read(value, f"{self.where}.{name}")

    def items(self, name: str, read: Callable[[Any, str], T]) -> list[T]:
        """What `read` makes of each item of a list that must be there."""
        values: list[Any] = self.required(name, list)
        return [read(value, f"{self.where}.{name}[{i}]") for i, value in enumerate(values)]


_KINDS: Mapping[type, str] = {str: "a text", list: "a list", bool: "true or false", dict: "an object"}


def _brief(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_message(message: Message) -> dict[str, Any]:
    """One message as an object of the package's form."""
    content = [part for item in message.content for part in _write_part(item)]
    out: dict[str, Any] = {"role": message.role.value, "name": message.author.name, "content": content}
    header = {name: getattr(message, name) for name in ("channel", "recipient", "content_type")}
    return out | {name: value for name, value in header.items() if value is not None}


def _write_part(part: Content) -> list[dict[str, Any]]:
    if isinstance(part, TextContent):
        return [{"type": "text", "text": part.text}]
    if isinstance(part, SystemContent):
        return [_write_system(part)]
    out = {"type": "developer_content", "instructions": part.instructions, "tools": _write_namespaces(part.tools)}
    written = {name: value for name, value in out.items() if value is not None}
    if not part.response_formats:
        return [written]
    return [written, {"type": "text", "text": list(developer_texts(part))[-1]}]


def _write_system(part: SystemContent) -> dict[str, Any]:
    config, effort = part.channel_config, part.reasoning_effort
    channels = None
    if config is not None:
        channels = {"valid_channels": list(config.valid_channels), "channel_required": config.channel_required}
    out: dict[str, Any] = {
        "type": "system_content",
        "model_identity": part.model_identity,
        "reasoning_effort": None if effort is None else effort.value.capitalize(),
        "knowledge_cutoff": part.knowledge_cutoff,
        "channel_config": channels,
    }
    if part.conversation_start_date is not None:
        out["conversation_start_date"] = part.conversation_start_date
    if part.tools:
        out["tools"] = _write_namespaces(part.tools)
    return out


def _write_namespaces(namespaces: Iterable[ToolNamespace]) -> dict[str, Any] | None:
    return {namespace.name: _write_namespace(namespace) for namespace in namespaces} or None


def _write_namespace(namespace: ToolNamespace) -> dict[str, Any]:
    out: dict[str, Any] = {"name": namespace.name, "tools": [_write_tool(tool) for tool in namespace.tools]}
    return out if namespace.description is None else out | {"description": namespace.description}


def _write_tool(tool: Tool) -> dict[str, Any]:
    out: dict[str, Any] = {"name": tool.name, "description": tool.description}
    return out if tool.parameters is None else out | {"parameters": dict(tool.parameters)}
