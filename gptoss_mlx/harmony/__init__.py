"""Harmony, the conversation format of gpt-oss: messages, rendering to tokens, parsing from tokens."""

from .message import (
    CONSTRAINED_JSON,
    Author,
    ChannelConfig,
    Content,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    TextContent,
    Tool,
    ToolNamespace,
)
from .parser import ContentDelta, Event, HarmonyParser, MessageCompleted, MessageStarted
from .render import DropAnalysis, drop, render, render_message

__all__ = [
    "CONSTRAINED_JSON",
    "Author",
    "ChannelConfig",
    "Content",
    "ContentDelta",
    "Conversation",
    "DeveloperContent",
    "DropAnalysis",
    "Event",
    "HarmonyParser",
    "Message",
    "MessageCompleted",
    "MessageStarted",
    "ReasoningEffort",
    "ResponseFormat",
    "Role",
    "SystemContent",
    "TextContent",
    "Tool",
    "ToolNamespace",
    "drop",
    "render",
    "render_message",
]
