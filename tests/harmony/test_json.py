"""The JSON form: what the openai-harmony package writes is read, what is written that package reads."""

from __future__ import annotations

import json
from typing import Any

import openai_harmony
import pytest
from harmony_examples import BUILT_IN, EXAMPLES
from harmony_strategies import conversations, turns
from hypothesis import given, settings

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import Conversation, DeveloperContent, Message, ResponseFormat, SystemContent, Tool, render
from tiny_tokenizer import tiny_tokenizer

TINY = tiny_tokenizer()


def through_the_package(data: dict[str, Any]) -> dict[str, Any]:
    """What the package writes after it has read `data`."""
    text: str = openai_harmony.Conversation.from_json(json.dumps(data)).to_json()
    read: dict[str, Any] = json.loads(text)
    return read


@given(conversations | turns())
@settings(max_examples=150)
def test_round_trips(conversation: Conversation) -> None:
    written = conversation.to_dict()
    read = Conversation.from_dict(json.loads(json.dumps(written)))
    assert read.to_dict() == written
    assert Conversation.from_dict(through_the_package(written)) == read
    assert render(read, TINY) == render(conversation, TINY)


@pytest.mark.parametrize("name", [*EXAMPLES, *BUILT_IN])
def test_examples_come_back_as_they_were(name: str) -> None:
    conversation = (EXAMPLES | BUILT_IN)[name]
    assert Conversation.from_dict(conversation.to_dict()) == conversation


def test_reads_what_the_package_builds() -> None:
    theirs = openai_harmony.Conversation.from_messages(
        [
            openai_harmony.Message.from_role_and_content(
                openai_harmony.Role.SYSTEM, openai_harmony.SystemContent.new().with_python_tool()
            ),
            openai_harmony.Message.from_role_and_content(
                openai_harmony.Role.DEVELOPER,
                openai_harmony.DeveloperContent.new()
                .with_instructions("Be brief.")
                .with_function_tools([openai_harmony.ToolDescription.new("f", "F.", {"type": "object"})]),
            ),
            openai_harmony.Message.from_role_and_content(openai_harmony.Role.USER, "hi"),
        ]
    )
    ours = Conversation.from_dict(json.loads(theirs.to_json()))
    assert ours.messages[1] == Message.developer("Be brief.", [Tool("f", "F.", {"type": "object"})])
    assert ours.messages[2] == Message.user("hi")
    system = ours.messages[0].content[0]
    assert isinstance(system, SystemContent)
    assert [namespace.name for namespace in system.tools] == ["python"]


def test_content_may_be_a_text() -> None:
    data = {"messages": [{"role": "assistant", "content": "x", "channel": "final"}]}
    assert Conversation.from_dict(data).messages == (Message.assistant("x"),)


def test_absent_system_fields_are_none_and_stay_so_in_the_package() -> None:
    nothing = SystemContent(None, None, None, None, (), None)
    bare = {"messages": [{"role": "system", "content": [{"type": "system_content"}]}]}
    assert Conversation.from_dict(bare).messages[0].content == (nothing,)
    written = Conversation((Message.system(nothing),)).to_dict()
    theirs = openai_harmony.Conversation.from_json(json.dumps(written))
    assert theirs.messages[0].content[0].model_identity is None


def test_response_formats_become_a_text_that_renders_the_same() -> None:
    content = DeveloperContent("Hi", (), (ResponseFormat("r", {"type": "object"}),))
    conversation = Conversation((Message.developer(content),))
    read = Conversation.from_dict(conversation.to_dict())
    assert len(read.messages[0].content) == 2
    assert render(read, TINY) == render(conversation, TINY)


def message(**fields: Any) -> dict[str, Any]:
    """A conversation of one user message, with other or more fields."""
    return {"messages": [{"role": "user", "content": "x"} | fields]}


def part(**fields: Any) -> dict[str, Any]:
    """A conversation whose message has one part with these fields."""
    return message(content=[fields])


def tool(**fields: Any) -> dict[str, Any]:
    """A conversation with a developer's tool of these fields."""
    namespaces = {"functions": {"name": "functions", "tools": [fields]}}
    return part(type="developer_content", tools=namespaces)


BAD: dict[str, tuple[Any, str]] = {
    "no object": ([], r"conversation: expected an object, found \[\]"),
    "no messages": ({}, r"conversation\.messages: expected a list, found nothing"),
    "unknown field": ({"messages": [], "extra": 1}, r"conversation: expected the fields messages, found extra"),
    "unknown field of a message": (message(tool_calls=[]), r"messages\[0\]: expected the fields .*, found tool_calls"),
    "unknown role": (message(role="bot"), r"role: expected one of .*, found 'bot'"),
    "no role": ({"messages": [{"content": "x"}]}, r"messages\[0\]\.role: expected a text, found nothing"),
    "null content": (message(content=None), r"messages\[0\]\.content: expected a list, found nothing"),
    "channel": (message(channel=3), r"messages\[0\]\.channel: expected a text, found 3"),
    "part": (part(type="image"), r"content\[0\]: expected a content of type text, .* found 'image'"),
    "part without text": (part(type="text"), r"content\[0\]\.text: expected a text, found nothing"),
    "effort": (part(type="system_content", reasoning_effort="huge"), r"reasoning effort: expected one of"),
    "unknown field of a system message": (part(type="system_content", date="x"), r"content\[0\]: .* found date"),
    "channels": (
        part(type="system_content", channel_config={"valid_channels": [1], "channel_required": True}),
        r"channel_config\.valid_channels: expected texts",
    ),
    "required": (
        part(type="system_content", channel_config={"valid_channels": [], "channel_required": 1}),
        r"channel_config\.channel_required: expected true or false, found 1",
    ),
    "namespace of another name": (
        part(type="developer_content", tools={"a": {"name": "b", "tools": []}}),
        r"tools\.a: expected a namespace of that name, found 'b'",
    ),
    "tool without description": (tool(name="f"), r"tools\[0\]\.description: expected a text, found nothing"),
    "parameters": (tool(name="f", description="", parameters=[1]), r"parameters: expected a JSON schema object"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_form_does_not_have_is_refused_with_its_place(case: str) -> None:
    data, told = BAD[case]
    with pytest.raises(HarmonyError, match=told) as caught:
        Conversation.from_dict(data)
    assert "\n" not in str(caught.value)
