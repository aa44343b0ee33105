"""The routes of the Responses API: going on, storing, the background, what is refused, and any body at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseItemList
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from playback import Called, Play, PlaybackBackend, called, play, said
from responses_checks import check_extra, check_response, check_stream, read_frames

from gptoss_mlx.errors import BusyError, ToolError
from gptoss_mlx.harmony import Message, Role
from gptoss_mlx.server.app import create_app
from gptoss_mlx.server.backend import TurnRequest
from gptoss_mlx.server.built_in import BuiltIns
from gptoss_mlx.server.responses import Responses, ResponseStore
from gptoss_mlx.tools import RunnableTool
from gptoss_mlx.tools.browser import BrowserTool, LocalFolder

URL = "/v1/responses"
ANSWER = play(said("analysis", "Simple."), said("final", "Hi"))
TIDE = {"type": "function", "name": "tide", "parameters": {"type": "object", "properties": {}}}


class Http:
    """A client, and the backend behind it."""

    def __init__(self, *plays: Play, store: ResponseStore | None = None, context: int = 4096) -> None:
        self.backend = PlaybackBackend(*(plays or (ANSWER,)), context=context)
        self.app = create_app({"played": self.backend}, kept=Responses(store))
        self.client = TestClient(self.app)

    def create(self, input: Any = "Hello", status: int = 200, **body: Any) -> dict[str, Any]:
        answer = self.client.post(URL, json={"input": input, **body})
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def get(self, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
        answer = self.client.get(f"{URL}/{path}", params=query)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def refusal(self, **body: Any) -> tuple[str | None, str]:
        error = self.create(**body, status=400)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        return error["param"], error["message"]

    @property
    def asked(self) -> TurnRequest:
        return self.backend.requests[-1]

    @property
    def messages(self) -> list[Message]:
        return [message for message in self.asked.messages if isinstance(message, Message)]


# Going on


def test_going_on_from_a_response() -> None:
    http = Http()
    first = http.create("Hello", instructions="Be brief.")
    second = http.create("And?", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert [m.text for m in http.messages] == ["Hello", "Hi", "And?"]
    assert http.asked.instructions is None, "instructions are not carried over"


def test_a_result_finds_its_call_in_the_response_before() -> None:
    call = play(said("analysis", "Ask."), called("functions.tide", "{}"), finish_reason="tool_calls")
    http = Http(call, ANSWER)
    first = http.create("Tide?", tools=[TIDE])
    output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "noon"}
    http.create([output], previous_response_id=first["id"], tools=[TIDE])
    assert [(m.role, m.channel, m.text) for m in http.messages] == [
        (Role.USER, None, "Tide?"),
        (Role.ASSISTANT, "analysis", "Ask."),
        (Role.ASSISTANT, "commentary", "{}"),
        (Role.TOOL, "commentary", "noon"),
    ]


def test_going_on_without_a_store_by_sending_the_items_back() -> None:
    call = play(said("analysis", "Ask."), called("functions.tide", "{}"), finish_reason="tool_calls")
    http = Http(call, ANSWER)
    first = http.create("Tide?", tools=[TIDE], store=False, include=["reasoning.encrypted_content"])
    reasoning, function = first["output"]
    assert http.get(first["id"], 404)["error"]["param"] == "response_id"
    del reasoning["content"]  # as some clients do
    output = {"type": "function_call_output", "call_id": function["call_id"], "output": "noon"}
    http.create([{"role": "user", "content": "Tide?"}, reasoning, function, output], tools=[TIDE], store=False)
    assert [m.text for m in http.messages] == ["Tide?", "Ask.", "{}", "noon"]


def test_items_of_stored_responses_may_be_referred_to() -> None:
    http = Http()
    first = http.create("Hello")
    http.create([{"type": "item_reference", "id": first["output"][1]["id"]}, {"role": "user", "content": "And?"}])
    assert [m.text for m in http.messages] == ["Hi", "And?"]


def test_going_on_from_nothing_is_refused() -> None:
    http = Http()
    error = http.create(previous_response_id="resp_x", status=400)["error"]
    assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
    kept = http.create()
    http.client.delete(f"{URL}/{kept['id']}")
    assert http.create(previous_response_id=kept["id"], status=400)["error"]["code"] == "previous_response_not_found"


def test_a_store_in_a_file_outlives_the_server(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "store")
    first = Http(store=store).create("Hello")
    store.close()
    http = Http(store=ResponseStore(tmp_path / "store"))
    assert http.get(first["id"]) == first
    http.create("And?", previous_response_id=first["id"])
    assert [m.text for m in http.messages] == ["Hello", "Hi", "And?"]


def test_a_call_that_was_cut_off_is_not_gone_on_from() -> None:
    cut = Called("functions.tide", ('{"po',), cut=True)
    http = Http(play(said("analysis", "Ask."), cut, finish_reason="length"), ANSWER)
    first = http.create("Tide?", tools=[TIDE])
    http.create("Go on", previous_response_id=first["id"])
    assert [m.text for m in http.messages] == ["Tide?", "Go on"]


def test_a_failure_is_an_error_of_http_unless_it_is_streamed() -> None:
    http = Http(play(said("final", "Once"), fails=ZeroDivisionError("secret")))
    assert "secret" not in http.create(status=500)["error"]["message"]


# Kept responses


def test_what_is_retrieved_is_what_was_answered() -> None:
    http = Http()
    made = http.create()
    assert http.get(made["id"]) == made
    check_response(made)


def test_a_deleted_response_is_gone() -> None:
    http = Http()
    made = http.create()
    answer = http.client.delete(f"{URL}/{made['id']}")
    assert answer.json() == {"id": made["id"], "object": "response", "deleted": True}
    http.get(made["id"], 404)
    assert http.client.delete(f"{URL}/{made['id']}").status_code == 404


def test_input_items_are_those_of_the_whole_conversation() -> None:
    http = Http()
    first = http.create("Hello")
    second = http.create([{"role": "user", "content": "And?"}], previous_response_id=first["id"])
    listed = http.get(f"{second['id']}/input_items", order="asc")
    check_extra(ResponseItemList.model_validate(listed))
    assert [item["type"] for item in listed["data"]] == ["message", "reasoning", "message", "message"]
    page = http.get(f"{second['id']}/input_items", limit=1)
    assert page["data"][0]["content"] == [{"type": "input_text", "text": "And?"}]
    assert page["has_more"]
    for query in ({"limit": 0}, {"limit": "x"}, {"order": "up"}, {"after": "x"}):
        http.get(f"{second['id']}/input_items", 400, **query)
    http.get("resp_x/input_items", 404)


def test_tokens_of_the_input_are_counted() -> None:
    answer = Http().client.post(f"{URL}/input_tokens", json={"input": "Hello"})
    check_extra(InputTokenCountResponse.model_validate(answer.json()))
    assert answer.json()["input_tokens"] == 10


# The background


@asynccontextmanager
async def talking(http: Http) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(http.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await http.app.state.responses.close()


def test_a_response_is_made_in_the_background() -> None:
    async def scenario() -> None:
        release = asyncio.Event()
        http = Http(replace(ANSWER, waits=release))
        async with talking(http) as client:
            made = (await client.post(URL, json={"input": "Hello", "background": True})).json()
            assert made["status"] == "queued"
            check_response(made)
            early = await client.post(URL, json={"input": "And?", "previous_response_id": made["id"]})
            assert early.status_code == 400
            release.set()
            while (now := (await client.get(f"{URL}/{made['id']}")).json())["status"] in ("queued", "in_progress"):
                check_response(now)
                await asyncio.sleep(0)
            assert now["status"] == "completed"
            check_response(now)
            followed = await client.get(f"{URL}/{made['id']}", params={"stream": "true"})
            events = read_frames(followed.text)
            assert check_stream(events) == now
            assert events[1]["type"] == "response.queued"
            late = await client.get(f"{URL}/{made['id']}", params={"stream": "true", "starting_after": 3})
            assert read_frames(late.text) == events[4:]
            assert http.backend.closed == 1

    asyncio.run(scenario())


def test_a_stream_of_the_background_can_be_followed_while_it_is_made() -> None:
    http = Http()
    answer = http.client.post(URL, json={"input": "Hello", "background": True, "stream": True})
    assert check_stream(read_frames(answer.text))["status"] == "completed"


def test_a_response_in_the_background_can_be_cancelled() -> None:
    async def scenario() -> None:
        http = Http(replace(ANSWER, waits=asyncio.Event()))
        async with talking(http) as client:
            made = (await client.post(URL, json={"input": "Hello", "background": True})).json()
            follower = asyncio.create_task(client.get(f"{URL}/{made['id']}", params={"stream": "true"}))
            while not http.app.state.responses.runs.get(made["id"]).answer.response["output"]:
                await asyncio.sleep(0)
            cancelled = (await client.post(f"{URL}/{made['id']}/cancel")).json()
            assert cancelled["status"] == "cancelled"
            check_response(cancelled)
            assert (await client.get(f"{URL}/{made['id']}")).json() == cancelled
            assert (await client.post(f"{URL}/{made['id']}/cancel")).json() == cancelled
            assert read_frames((await follower).text)[-1]["response"] == cancelled
            assert http.backend.closed == 1

    asyncio.run(scenario())


def test_what_is_made_in_the_background_is_ended_with_its_deletion() -> None:
    async def scenario() -> None:
        http = Http(replace(ANSWER, waits=asyncio.Event()))
        async with talking(http) as client:
            made = (await client.post(URL, json={"input": "Hello", "background": True})).json()
            assert (await client.delete(f"{URL}/{made['id']}")).status_code == 200
            assert http.backend.closed == 1
            assert (await client.get(f"{URL}/{made['id']}")).status_code == 404

    asyncio.run(scenario())


def test_only_the_background_is_cancelled_and_followed() -> None:
    http = Http()
    made = http.create()
    assert http.client.post(f"{URL}/{made['id']}/cancel").status_code == 400
    assert http.client.post(f"{URL}/resp_x/cancel").status_code == 404
    http.get(made["id"], 400, stream="true")
    assert http.refusal(background=True, store=False)[0] == "background"


# Requests


def test_parameters_reach_the_model() -> None:
    http = Http()
    made = http.create(
        reasoning={"effort": "minimal"},
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        parallel_tool_calls=False,
        tools=[{**TIDE, "strict": True}],
        tool_choice={"type": "function", "name": "tide"},
        text={"format": {"type": "json_schema", "name": "port", "schema": {"type": "object"}, "strict": True}},
        metadata={"a": "b"},
        instructions="Be brief.",
    )
    asked = http.asked
    assert (asked.effort, asked.max_tokens, asked.instructions) == ("low", 50, "Be brief.")
    assert (asked.sampling.temperature, asked.sampling.top_p) == (0.5, 0.9)
    assert (asked.parallel_calls, asked.tool_choice) == (False, "tide")
    assert asked.tools[0]["function"]["strict"] is True
    assert asked.response_format["json_schema"]["schema"] == {"type": "object"}
    assert made["text"]["format"]["schema"] == {"type": "object"}
    assert made["metadata"] == {"a": "b"}
    assert made["reasoning"]["effort"] == "minimal"
    check_response(made)


def test_no_effort_is_no_room_for_thoughts() -> None:
    http = Http()
    http.create(reasoning={"effort": "none"})
    assert (http.asked.effort, http.asked.reasoning_budget) == ("low", 0)


def test_null_means_what_leaving_out_means() -> None:
    http = Http()
    names = (
        "previous_response_id",
        "tools",
        "tool_choice",
        "reasoning",
        "text",
        "temperature",
        "conversation",
        "store",
    )
    nothing: dict[str, Any] = dict.fromkeys(names)
    made = http.create(**nothing)
    assert (made["temperature"], made["tool_choice"], made["store"]) == (1.0, "auto", True)


def test_what_changes_nothing_is_taken() -> None:
    Http().create(user="me", service_tier="auto", prompt_cache_key="k", stream_options={"include_obfuscation": False})


def test_allowed_tools_are_the_ones_offered() -> None:
    http = Http()
    other = {**TIDE, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "tide"}]}
    http.create(tools=[TIDE, other], tool_choice=choice)
    assert [tool["function"]["name"] for tool in http.asked.tools] == ["tide"]
    assert http.asked.tool_choice == "required"


def test_a_tool_that_cannot_be_started_ends_those_that_could() -> None:
    ended = []

    class Browser(BrowserTool):
        async def close(self) -> None:
            ended.append(self)

    def python() -> RunnableTool:
        raise ToolError("python: no sandbox works here")

    tools = [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
    http = Http()
    http.app.state.responses.built_ins = BuiltIns(lambda: Browser(LocalFolder(Path(__file__).parent)), python)
    assert "no sandbox" in http.create(tools=tools, status=503)["error"]["message"]
    assert len(ended) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "middle"}, "truncation"),
        ({"include": ["everything"]}, "include[0]"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"tools": [{"type": "image_generation"}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0]"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "tools[0].container"),
        ({"tools": [{"type": "web_search", "filters": {"allowed_domains": []}}]}, "tools[0].filters"),
        ({"tools": [{"type": "web_search", "external_web_access": False}]}, "tools[0].external_web_access"),
        ({"tools": [{"type": "mcp", "server_label": "sea", "server_url": "http://x"}]}, "tools[0].server_url"),
        ({"tools": [{"type": "mcp", "server_label": "sea"}]}, "tools[0].server_label"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**TIDE, "parameters": []}]}, "tools[0].parameters"),
        ({"tools": [{**TIDE, "description": 7}]}, "tools[0].description"),
        ({"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]}, "tools[0].format"),
        ({"tools": [{"type": "namespace", "name": "sea", "tools": {}}]}, "tools[0].tools"),
        ({"tools": [{"type": "namespace", "name": "sea", "tools": [TIDE, {"type": "mcp"}]}]}, "tools[0].tools[1].type"),
        ({"tools": [{"type": "namespace", "name": "sea", "tools": [{"type": "custom"}]}]}, "tools[0].tools[0].name"),
        ({"tool_choice": "tide"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "tide"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"tool_choice": {"type": "magic"}}, "tool_choice.type"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    named, message = Http().refusal(**body)
    assert named == param, message
    assert message.startswith(param)


def test_an_unknown_model_is_not_found() -> None:
    assert Http().create(model="gpt-9", status=404)["error"]["code"] == "model_not_found"


def test_a_full_queue_is_told_before_anything_is_made() -> None:
    http = Http()

    async def busy(request: TurnRequest) -> Any:
        raise BusyError("256 requests wait already; try again later")

    http.backend.start = busy  # type: ignore[method-assign]
    for more in ({}, {"stream": True}, {"background": True}):
        assert http.create(**more, status=429)["error"]["type"] == "rate_limit_error"


def test_truncation_leaves_out_the_oldest_turns() -> None:
    http = Http(context=80)  # 60 tokens of prompt, which are six messages
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(5) for role in ("user", "assistant")]
    items = [{"role": "developer", "content": "Be brief."}, *turns, {"role": "user", "content": "last"}]
    http.create(items, truncation="auto")
    assert [m.text for m in http.messages][1:] == ["user 3", "assistant 3", "user 4", "assistant 4", "last"]
    assert http.messages[0].role is Role.DEVELOPER
    http.create(items)
    assert len(http.messages) == 12


# Any body


NAMES = st.sampled_from(
    ["model", "input", "tools", "tool_choice", "text", "reasoning", "include", "stream", "store", "background",
     "metadata", "temperature", "previous_response_id", "truncation", "instructions", "x"]
)  # fmt: skip
KEYS = st.sampled_from(["type", "role", "content", "name", "format", "effort", "id", "container", "tools"])
WORDS = st.sampled_from(["message", "user", "function", "mcp", "custom", "text", "json_schema", "auto", "web_search"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def any_client() -> TestClient:
    return Http().client


@settings(max_examples=40)
@given(body=st.dictionaries(NAMES, JSON, max_size=4) | JSON, raw=st.none() | st.binary(max_size=20))
def test_no_body_is_an_internal_error(any_client: TestClient, body: Any, raw: bytes | None) -> None:
    content = json.dumps(body).encode() if raw is None else raw
    answer = any_client.post(URL, content=content, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
