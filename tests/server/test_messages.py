"""Anthropic's Messages API against the types of its client: reading, events in their order, errors, any body at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import MessageTokensCount, RawMessageStreamEvent
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from playback import Play, PlaybackBackend, called, play, said
from pydantic import BaseModel, TypeAdapter

from gptoss_mlx.errors import BusyError, RequestError
from gptoss_mlx.harmony import Message, Role
from gptoss_mlx.server.app import create_app
from gptoss_mlx.server.backend import TurnRequest
from gptoss_mlx.server.messages import tool_input
from gptoss_mlx.server.sealing import seal
from gptoss_mlx.tools import ToolResult

URL = "/v1/messages"
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
ANSWER = play(said("analysis", "Sim", "ple."), said("final", "Hi", "!"))
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
TIDE = {"name": "tide", "description": "Tides.", "input_schema": {"type": "object", "properties": {}}}


class Http:
    """A client, and the backend behind it."""

    def __init__(self, *plays: Play) -> None:
        self.backend = PlaybackBackend(*(plays or (ANSWER,)))
        self.client = TestClient(create_app({"played": self.backend}))

    def post(self, messages: Any = "Hello", status: int = 200, path: str = URL, **body: Any) -> Any:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        given = {"messages": messages, "max_tokens": 100, "model": "played", **body}
        answer = self.client.post(path, json={k: v for k, v in given.items() if v is not ...})
        assert answer.status_code == status, answer.text
        return answer

    def create(self, messages: Any = "Hello", **body: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.post(messages, **body).json()
        check_known(AnthropicMessage.model_validate(made))
        return made

    def stream(self, messages: Any = "Hello", **body: Any) -> list[dict[str, Any]]:
        events = []
        for block in self.post(messages, stream=True, **body).text.strip().split("\n\n"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
        return events

    def refusal(self, messages: Any = "Hello", status: int = 400, **body: Any) -> tuple[str, str]:
        error = self.post(messages, status, **body).json()
        assert set(error) == {"type", "error"}
        assert error["type"] == "error"
        return error["error"]["type"], error["error"]["message"]

    @property
    def asked(self) -> TurnRequest:
        return self.backend.requests[-1]

    @property
    def said(self) -> list[tuple[str, str | None, str]]:
        return [(m.role.value, m.channel, m.text) for m in self.asked.messages if isinstance(m, Message)]


def check_known(read: BaseModel) -> None:
    """That nothing in a validated object is unknown to the client."""
    assert not read.model_extra, read.model_extra
    for value in read.__dict__.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                check_known(each)


def summed(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream, whose order is checked on the way."""
    assert events[0]["type"] == "message_start"
    message = json.loads(json.dumps(events[0]["message"]))
    content: list[dict[str, Any]] = message["content"]
    assert content == []
    is_open = False
    for event in events[1:]:
        if event["type"] != "ping":
            check_known(EVENT.validate_python(event))
        match event["type"]:
            case "content_block_start":
                assert (is_open, event["index"]) == (False, len(content))
                is_open = True
                content.append({**event["content_block"], "partial": ""})
            case "content_block_delta":
                assert (is_open, event["index"]) == (True, len(content) - 1)
                field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature",
                         "input_json_delta": "partial_json"}[event["delta"]["type"]]  # fmt: skip
                into = "partial" if field == "partial_json" else field
                content[-1][into] += event["delta"][field]
            case "content_block_stop":
                assert (is_open, event["index"]) == (True, len(content) - 1)
                is_open = False
                partial = content[-1].pop("partial")
                if partial:
                    content[-1]["input"] = json.loads(partial)
            case "message_delta":
                message |= {**event["delta"], "usage": event["usage"]}
    assert not is_open
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    return dict(message)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


# Answers


def test_an_answer() -> None:
    made = Http().create()
    assert made["id"].startswith("msg_")
    assert made["content"] == [{"type": "text", "text": "Hi!"}], "thoughts only where they are asked for"
    assert (made["stop_reason"], made["stop_sequence"]) == ("end_turn", None)
    assert made["usage"] == {
        "input_tokens": 32,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 8,
        "output_tokens": 12,
        "output_tokens_details": {"thinking_tokens": 5},
    }


def test_the_events_of_thoughts_and_an_answer() -> None:
    events = Http().stream(**THINKING)
    start, delta, stop = (f"content_block_{each}" for each in ("start", "delta", "stop"))
    thinking, text = [start, delta, delta, delta, stop], [start, delta, delta, stop]
    assert kinds(events) == ["message_start", *thinking, *text, "message_delta", "message_stop"]
    message = summed(events)
    assert message["content"][0] == {"type": "thinking", "thinking": "Simple.", "signature": "gpt-oss"}
    assert events[0]["message"]["usage"] == {"input_tokens": 10, "output_tokens": 0}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((said("analysis", "Simple."), said("final", "Hi")), "stop"),
        (
            (said("analysis", "Ask."), said("commentary", "I ask."), called("functions.tide", '{"a"', ":1}")),
            "tool_calls",
        ),
        ((called("functions.tide", "{}"), called("functions.tide", "nonsense")), "tool_calls"),
        ((said("final", "Once upon"),), "length"),
        ((), "stop"),
    ],
)
@pytest.mark.parametrize("thinking", [{}, THINKING])
def test_a_stream_sums_up_to_the_answer(parts: tuple[Any, ...], reason: str, thinking: dict[str, Any]) -> None:
    http = Http(play(*parts, finish_reason=reason))
    whole, streamed = http.create(tools=[TIDE], **thinking), summed(http.stream(tools=[TIDE], **thinking))
    for message in (whole, streamed):
        del message["id"]
        for block in message["content"]:
            block.pop("id", None)
    assert whole == streamed


def test_calls_are_tool_use_blocks() -> None:
    call = called("functions.tide", '{"port":', '"Brest"}')
    made = Http(play(said("commentary", "I ask."), call, finish_reason="tool_calls")).create(tools=[TIDE])
    preamble, use = made["content"]
    assert preamble == {"type": "text", "text": "I ask."}
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "tide", {"port": "Brest"})
    assert use["id"].startswith("toolu_")
    assert made["stop_reason"] == "tool_use"


def test_calls_that_are_answered_here_are_not_the_clients() -> None:
    wrong = called("container.exec", "{}", result=ToolResult("container.exec does not exist", failed=True))
    made = Http(play(wrong, said("final", "Sorry."))).create(tools=[TIDE])
    assert [block["type"] for block in made["content"]] == ["text"]


def test_arguments_that_are_no_object_are_handed_on() -> None:
    assert tool_input("") == {}
    assert tool_input("[1]") == {"arguments": "[1]"}
    assert tool_input("{") == {"arguments": "{"}
    assert tool_input('{"a": NaN}') == {"a": "NaN"}
    assert tool_input("[" * 100_000) == {"arguments": "[" * 100_000}


def test_omitted_thoughts_travel_in_the_signature() -> None:
    http = Http()
    thinking = {"type": "adaptive", "display": "omitted"}
    made = http.create(thinking=thinking)
    assert made["content"][0] == {"type": "thinking", "thinking": "", "signature": seal("Simple.")}
    assert summed(http.stream(thinking=thinking))["content"][0] == made["content"][0]
    http.create([{"role": "user", "content": "a"}, {"role": "assistant", "content": made["content"]},
                 {"role": "user", "content": "b"}])  # fmt: skip
    assert ("assistant", "analysis", "Simple.") in http.said


def test_the_stop_sequence_is_told() -> None:
    made = Http(play(said("final", "Hi"), stop_text="\n")).create(stop_sequences=["\n", "END"])
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", "\n")


def test_a_failure_in_a_stream_is_an_error_event() -> None:
    events = Http(play(said("final", "Once"), fails=RequestError("engine: it stopped"))).stream()
    assert events[-1] == {"type": "error", "error": {"type": "invalid_request_error", "message": "engine: it stopped"}}
    assert "secret" not in str(Http(play(fails=ZeroDivisionError("secret"))).stream())


def test_a_failure_without_a_stream_is_an_error() -> None:
    kind, message = Http(play(fails=ZeroDivisionError("secret"))).refusal(status=500)
    assert kind == "api_error"
    assert "secret" not in message


def test_tokens_are_counted() -> None:
    answer = Http().post(path=f"{URL}/count_tokens", max_tokens=..., tools=[TIDE])
    check_known(MessageTokensCount.model_validate(answer.json()))
    assert answer.json() == {"input_tokens": 10}


# Requests


def test_a_conversation_with_a_tool_is_read() -> None:
    http = Http()
    cached = {"cache_control": {"type": "ephemeral"}}
    noon = {"type": "text", "text": "noon"}
    http.create(
        [
            {"role": "user", "content": [{"type": "text", "text": "Tide?", **cached}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Ask.", "signature": "x"},
                    {"type": "redacted_thinking", "data": seal("Really.")},
                    {"type": "text", "text": "I ask."},
                    {"type": "tool_use", "id": "t1", "name": "tide", "input": {"port": "Brést"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [noon],
                        **cached,
                    },
                    {"type": "text", "text": "Be quick."},
                ],
            },
        ],
        system=[{"type": "text", "text": "Be brief.", **cached}, {"type": "text", "text": "Be kind."}],
        tools=[{**TIDE, **cached, "strict": True, "input_examples": []}],
    )
    assert http.said == [
        ("user", None, "Tide?"),
        ("assistant", "analysis", "Ask."),
        ("assistant", "analysis", "Really."),
        ("assistant", "commentary", "I ask."),
        ("assistant", "commentary", '{"port":"Brést"}'),
        ("tool", "commentary", "noon"),
        ("user", None, "Be quick."),
    ]
    assert http.asked.instructions == "Be brief.\n\nBe kind."
    function = {"name": "tide", "description": "Tides.", "parameters": TIDE["input_schema"], "strict": True}
    assert list(http.asked.tools) == [{"type": "function", "function": function}]


def test_failed_results_say_so() -> None:
    http = Http()
    use = {"type": "tool_use", "id": "t1", "name": "tide", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no port", "is_error": True}
    http.create([{"role": "user", "content": "?"}, {"role": "assistant", "content": [use]},
                 {"role": "user", "content": [result]}])  # fmt: skip
    assert http.said[-1] == ("tool", "commentary", "Error: no port")


def test_documents_of_text_and_later_instructions_are_read() -> None:
    http = Http()
    document = {"type": "document", "title": "Tides", "source": {"type": "text", "media_type": "x", "data": "noon"}}
    http.create([{"role": "user", "content": [document]}, {"role": "system", "content": "Be brief."}])
    assert http.said[0] == ("user", None, "Tides\nnoon")
    assert [m.role for m in http.asked.messages if isinstance(m, Message)][1] is Role.DEVELOPER


@pytest.mark.parametrize(
    ("body", "effort", "budget"),
    [
        ({}, None, None),
        ({"thinking": {"type": "disabled"}}, "low", 0),
        ({"thinking": {"type": "adaptive"}}, None, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low", 1024),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "medium", 8000),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high", 31999),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "max"}}, "high", 1024),
    ],
)
def test_thinking_is_effort_and_budget(body: dict[str, Any], effort: str | None, budget: int | None) -> None:
    http = Http()
    http.create(**body)
    assert (http.asked.effort, http.asked.reasoning_budget) == (effort, budget)


def test_parameters_reach_the_model() -> None:
    http = Http()
    schema = {"type": "object"}
    http.create(
        temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["END"], tools=[TIDE], metadata={"user_id": "me"},
        tool_choice={"type": "tool", "name": "tide", "disable_parallel_tool_use": True}, thinking=None,
        output_config={"format": {"type": "json_schema", "schema": schema}}, service_tier="auto",
    )  # fmt: skip
    asked = http.asked
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k) == (0.5, 0.9, 7)
    assert (asked.sampling.stop, asked.max_tokens) == (("END",), 100)
    assert (asked.tool_choice, asked.parallel_calls) == ("tide", False)
    assert asked.response_format["json_schema"]["schema"] == schema
    http.create(tools=[TIDE], tool_choice={"type": "any"})
    assert http.asked.tool_choice == "required"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "content": "The best answer is ("}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool", "name": "tide"}}, "tool_choice.name"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(body: dict[str, Any], where: str) -> None:
    kind, message = Http().refusal(**body)
    assert kind == "invalid_request_error"
    assert message.startswith(f"{where}: ")


def test_errors_have_anthropics_names() -> None:
    http = Http()
    assert http.refusal(model="claude", status=404)[0] == "not_found_error"

    async def busy(request: TurnRequest) -> Any:
        raise BusyError("256 requests wait already; try again later")

    http.backend.start = busy  # type: ignore[method-assign]
    assert http.refusal(status=429)[0] == "rate_limit_error"


NAMES = st.sampled_from(
    ["model", "messages", "system", "tools", "tool_choice", "thinking", "max_tokens", "stream", "x"]
)
KEYS = st.sampled_from(["type", "role", "content", "name", "id", "input", "text", "tool_use_id", "source"])
WORDS = st.sampled_from(
    ["user", "assistant", "text", "tool_use", "tool_result", "thinking", "document", "tool", "played"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": WORDS, "content": JSON}), max_size=3)


@settings(max_examples=40)
@given(body=st.dictionaries(NAMES, JSON, max_size=4), messages=MESSAGES)
def test_no_body_is_an_internal_error(body: dict[str, Any], messages: list[Any]) -> None:
    answer = ANY.post(URL, json={"max_tokens": 10, "messages": messages, **body})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]


ANY = Http().client
