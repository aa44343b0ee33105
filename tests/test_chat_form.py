"""Chat dictionaries and harmony messages turn into each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.chat_form import BUILT_IN, ChatReader, to_chat
from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import DeveloperContent, Message, SystemContent
from gptoss_mlx.harmony.message import CONSTRAINED_JSON


def read(chat: Sequence[Any], functions: Sequence[str] = ()) -> list[Message]:
    reader = ChatReader(functions)
    return [message for i, each in enumerate(chat) for message in reader.read(each, f"messages[{i}]")]


def asked(name: str, number: str | None = "c1", arguments: Any = "{}") -> dict[str, Any]:
    call = {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "content",
    [
        "xy",
        ["x", {"type": "text", "text": "y"}],
        [{"type": "input_text", "text": "x"}, {"type": "output_text", "text": "y", "annotations": []}],
        [{"text": "x"}, {"type": "refusal", "refusal": "y"}],
    ],
)
def test_content_in_every_form(content: Any) -> None:
    assert read([{"role": "user", "content": content}]) == [Message.user("xy")]


def test_what_the_openai_client_dumps() -> None:
    dumped: dict[str, Any] = {
        "role": "assistant", "content": None, "refusal": "No.", "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None,
    }  # fmt: skip
    assert read([dumped]) == [Message.assistant("No.")]
    assert read([{**dumped, "parsed": {"answer": "No."}}]) == [Message.assistant("No.")]


def test_the_old_form_of_calls() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "tide", "arguments": "{}"}}
    answered = [old, {"role": "function", "name": "tide", "content": "4.1"}]
    assert read(answered) == [Message.call("functions.tide", "{}"), Message.tool("functions.tide", "4.1")]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tools_keep_their_channel(name: str) -> None:
    kind = "code" if name == "python" else CONSTRAINED_JSON
    call, result = read([asked(name), {"role": "tool", "tool_call_id": "c1", "content": "42"}])
    assert call == Message.call(name, "{}", "analysis", kind)
    assert result == Message.tool(name, "42", "analysis")
    own, _ = read([asked(name), {"role": "tool", "name": name, "content": "42"}], functions=[name])
    assert own == Message.call(f"functions.{name}", "{}")


def test_arguments_as_an_object() -> None:
    assert read([asked("f", arguments={"é": 1})])[0].text == '{"é": 1}'


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user", "content": 3}, "text or a list of text parts"),
        ({"role": "user", "content": b"x"}, "text or a list of text parts"),
        ({"role": "user", "content": [{"type": "text"}]}, r"content\[0\]: a part of type text, input_text"),
        ({"role": "user", "content": [{"type": ["x"]}]}, r"content\[0\]: a part"),
        ({"role": "user", "content": "x", "name": 3}, "name: a text expected, 3 found"),
        ({"role": "user", "content": "x", 3: 4}, "unknown field '3'"),
        ({"role": "assistant", "audio": {"id": "x"}}, "audio: nothing expected"),
        ({"role": "assistant", "tool_calls": "f"}, "tool_calls: a list expected"),
        ({"role": "assistant", "tool_calls": [3]}, "function.name, 3 found"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}, "function.name"),
        ({"role": "assistant", "thinking": 3}, "thinking: text"),
        ({"role": "tool", "tool_call_id": ["x"], "content": "x"}, "tool_call_id of an earlier call"),
        ({"role": ["user"]}, "role system, developer"),
    ],
)
def test_bad_messages(message: Any, says: str) -> None:
    with pytest.raises(RequestError, match=rf"^messages\[0\].*{says}"):
        read([message])


# There and back


def test_a_round_of_calls_is_two_dictionaries() -> None:
    messages = [
        Message.developer("Be kind."),
        Message.user("Tide?", "kim"),
        Message.assistant("Need the tool.", "analysis"),
        Message.assistant("One moment.", "commentary"),
        Message.call("functions.tide", '{"port":"BES"}'),
        Message.call("python", "6 * 7", "analysis", "code"),
        Message.tool("python", "42", "analysis"),
        Message.tool("functions.tide", "4.1"),
        Message.assistant("So.", "analysis"),
        Message.assistant("4.1 m."),
    ]
    chat = to_chat(messages)
    first, second = (
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate([("tide", '{"port":"BES"}'), ("python", "6 * 7")])
    )
    assert chat == [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "name": "kim", "content": "Tide?"},
        {
            "role": "assistant", "content": "One moment.", "reasoning": "Need the tool.",
            "tool_calls": [first, second],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "tool", "tool_call_id": "call_0", "content": "4.1"},
        {"role": "assistant", "content": "4.1 m.", "reasoning": "So."},
    ]  # fmt: skip
    assert read(chat) == messages


def test_what_has_no_place_is_left_out() -> None:
    messages = [Message.system(SystemContent()), Message.developer(DeveloperContent()), Message.user("")]
    assert to_chat(messages) == [{"role": "user", "content": ""}]


TEXT = st.text(min_size=1, max_size=8)
NAMES = st.sampled_from(["f", "a.b", "python", "browser.search"])
RECIPIENTS = NAMES.map(lambda name: f"functions.{name}") | st.sampled_from(BUILT_IN)


@st.composite
def calls(draw: st.DrawFn) -> list[Message]:
    """Thoughts, perhaps a preamble, calls and the results of some of them."""
    made = []
    for recipient in draw(st.lists(RECIPIENTS, min_size=1, max_size=3)):
        own = recipient.startswith("functions.")
        kind = "code" if recipient == "python" else CONSTRAINED_JSON
        made.append(Message.call(recipient, draw(TEXT), "commentary" if own else "analysis", kind))
    results = [Message.tool(str(call.recipient), draw(TEXT), call.channel) for call in made]
    opening = [Message.assistant(draw(TEXT), "analysis")] if draw(st.booleans()) else []
    preamble = [Message.assistant(draw(TEXT), "commentary")] if draw(st.booleans()) else []
    return [*opening, *preamble, *made, *draw(st.permutations(results))]


ONE = (
    st.builds(Message.user, TEXT, st.none() | TEXT)
    | st.builds(Message.assistant, TEXT, st.sampled_from(["analysis", "final"]))
    | st.builds(Message.developer, TEXT)
)
TALKS = st.lists(ONE.map(lambda message: [message]) | calls(), max_size=8)


@given(TALKS)
def test_messages_come_back(parts: list[list[Message]]) -> None:
    messages = [message for part in parts for message in part]
    chat = to_chat(messages)
    assert read(chat) == messages
    assert to_chat(read(chat)) == chat
