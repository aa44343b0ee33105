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
from .render import DropAnalysis, drop, render, render_message

__all__ = [
    "CONSTRAINED_JSON",
    "Author",
    "ChannelConfig",
    "Content",
    "Conversation",
    "DeveloperContent",
    "DropAnalysis",
    "Message",
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
