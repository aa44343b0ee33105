"""Messages are plain frozen values with checked parts."""

from __future__ import annotations

import dataclasses

import pytest

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import (
    CONSTRAINED_JSON,
    Author,
    Conversation,
    DeveloperContent,
    Message,
    Role,
    SystemContent,
    TextContent,
    Tool,
    ToolNamespace,
)


def test_convenience_constructors_say_what_they_mean() -> None:
    assert Message.user("hi") == Message(Author(Role.USER), (TextContent("hi"),))
    assert Message.system() == Message(Author(Role.SYSTEM), (SystemContent(),))
    assert Message.system("word for word").content == (TextContent("word for word"),)
    assert Message.developer("Be brief.").content == (DeveloperContent("Be brief."),)
    tools = Message.developer("", [Tool("f")]).content
    assert tools == (DeveloperContent(None, (ToolNamespace("functions", None, (Tool("f"),)),)),)
    call = Message.call("functions.f", "{}")
    assert (call.channel, call.recipient, call.content_type) == ("commentary", "functions.f", CONSTRAINED_JSON)
    result = Message.tool("functions.f", "42")
    assert (result.author.name, result.recipient, result.channel) == ("functions.f", "assistant", "commentary")
    assert Message.assistant("a").channel == "final"


def test_roles_may_be_given_by_name_and_contents_as_text() -> None:
    message = Message(Author("user"), "hi")  # type: ignore[arg-type]
    assert message == Message.user("hi")
    assert message.role is Role.USER
    with pytest.raises(HarmonyError, match="found 'bot'"):
        Author("bot")  # type: ignore[arg-type]


def test_text_joins_the_text_parts() -> None:
    parts = (TextContent("a"), DeveloperContent("no"), TextContent("b"))
    assert Message(Author(Role.DEVELOPER), parts).text == "ab"


def test_messages_are_frozen_and_may_be_keys() -> None:
    tool = Tool("f", "", {"type": "object"})
    message = Message.developer("Hi", [tool])
    assert {message: 1}[Message.developer("Hi", [tool])] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.channel = "final"  # type: ignore[misc]


def test_conversations_grow_by_copies() -> None:
    first = Conversation((Message.user("q"),))
    second = first.adding(Message.assistant("a"))
    assert (len(first), len(second)) == (1, 2)
    assert [message.text for message in second] == ["q", "a"]
