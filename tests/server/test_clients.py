"""The clients of OpenAI and Anthropic against the embedded model, over a socket."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from responses_checks import check_response, check_stream
from serving import demo_backend, served

from gptoss_mlx.harmony import Tool
from gptoss_mlx.server.built_in import BuiltIns
from gptoss_mlx.server.responses import Responses, ResponseStore
from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.mcp import McpTools

MODEL = "demo"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "name": "get_weather", "description": "Get the weather in a city.",
                "parameters": CITY, "strict": True}  # fmt: skip
CLAUDES_WEATHER: Any = {"name": "get_weather", "description": "Get the weather in a city.", "input_schema": CITY}
OSLO = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def client(demo_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(demo_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=demo_url, api_key="none", max_retries=0) as made:
        yield made


def streamed(client: openai.OpenAI, **request: Any) -> Response:
    """A response through the client's own way of adding up a stream."""
    with client.responses.stream(model=MODEL, temperature=0, **request) as stream:
        return stream.get_final_response()


class TestResponses:
    def test_a_streamed_answer(self, client: openai.OpenAI) -> None:
        final = streamed(client, input="What is the capital of France?")
        assert [item.type for item in final.output] == ["reasoning", "message"]
        assert final.output_text == "The capital of France is Paris."
        assert final.usage is not None
        assert 0 < final.usage.output_tokens_details.reasoning_tokens < final.usage.output_tokens

    def test_the_events_of_a_stream(self, client: openai.OpenAI) -> None:
        request: Any = {"model": MODEL, "input": OSLO, "tools": [WEATHER], "temperature": 0, "stream": True}
        events = [event.to_dict() for event in client.responses.create(**request)]
        assert [item["type"] for item in check_stream(events)["output"]] == ["reasoning", "function_call"]

    def test_a_tool_call_over_two_streamed_responses(self, client: openai.OpenAI) -> None:
        first = streamed(client, input=OSLO, tools=[WEATHER])
        assert [item.type for item in first.output] == ["reasoning", "function_call"]
        call = first.output[-1]
        assert call.type == "function_call"
        assert (call.name, call.arguments) == ("get_weather", '{"city":"Oslo"}')
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "7 C, snow"}
        second = streamed(client, input=[result], previous_response_id=first.id, tools=[WEATHER])
        assert "7 C, snow" in second.output_text
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens > 0

    def test_the_same_without_a_store(self, client: openai.OpenAI) -> None:
        items: list[Any] = [{"role": "user", "content": OSLO}]
        for _ in range(2):
            made = client.responses.create(model=MODEL, temperature=0, input=items, tools=[WEATHER], store=False)
            check_response(made.model_dump(exclude_unset=True, by_alias=True))
            items += made.output
            for item in made.output:
                if item.type == "function_call":
                    output = {"type": "function_call_output", "call_id": item.call_id, "output": "7 C, snow"}
                    items.append(output)
        assert "7 C, snow" in made.output_text

    def test_what_is_stored_can_be_listed_and_deleted(self, client: openai.OpenAI) -> None:
        made = client.responses.create(model=MODEL, input="Who are you?", temperature=0, reasoning={"effort": "low"})
        assert client.responses.retrieve(made.id).output_text == made.output_text
        (item,) = client.responses.input_items.list(made.id)
        assert item.type == "message"
        assert client.responses.input_tokens.count(model=MODEL, input="Who are you?").input_tokens > 20
        client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            client.responses.create(model=MODEL, input="And?", previous_response_id=made.id)

    def test_an_answer_of_a_form(self, client: openai.OpenAI) -> None:
        class Sum(BaseModel):
            result: bool

        made = client.responses.parse(model=MODEL, input="What is 2 + 3?", text_format=Sum, temperature=0)
        assert isinstance(made.output_parsed, Sum)

    def test_a_small_limit_makes_it_incomplete(self, client: openai.OpenAI) -> None:
        made = client.responses.create(model=MODEL, input="Who are you?", max_output_tokens=2)
        assert made.status == "incomplete"
        assert made.incomplete_details is not None
        assert made.incomplete_details.reason == "max_output_tokens"

    def test_log_probabilities(self, client: openai.OpenAI) -> None:
        made = client.responses.create(
            model=MODEL, input="What is 2 + 3?", top_logprobs=2, temperature=0, include=["message.output_text.logprobs"]
        )
        message = made.output[-1]
        assert message.type == "message"
        part = message.content[0]
        assert part.type == "output_text"
        assert part.logprobs
        assert b"".join(bytes(each.bytes) for each in part.logprobs).decode() == part.text
        assert all(len(each.top_logprobs) == 2 for each in part.logprobs)

    def test_the_background(self, client: openai.OpenAI) -> None:
        made = client.responses.create(model=MODEL, input="Who are you?", background=True, temperature=0)
        assert made.status == "queued"
        deadline = time.monotonic() + 60
        while made.status in ("queued", "in_progress") and time.monotonic() < deadline:
            made = client.responses.retrieve(made.id)
        assert "gptoss_mlx" in made.output_text
        assert client.responses.cancel(made.id).status == "completed"


class TestMessages:
    def test_a_streamed_answer_with_thoughts(self, claude: anthropic.Anthropic) -> None:
        question: Any = [{"role": "user", "content": "What is the capital of France?"}]
        thinking: Any = {"type": "enabled", "budget_tokens": 1024}
        request: dict[str, Any] = {"model": MODEL, "max_tokens": 2000, "messages": question, "thinking": thinking}
        with claude.messages.stream(**request, extra_body={"temperature": 0}) as stream:
            kinds = [event.type for event in stream]
            message = stream.get_final_message()
        assert {"thinking", "text", "signature", "message_stop"} <= set(kinds)
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert stream.get_final_text() == "The capital of France is Paris."
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 10

    def test_a_tool_over_two_streamed_turns(self, claude: anthropic.Anthropic) -> None:
        messages: list[Any] = [{"role": "user", "content": OSLO}]
        common: dict[str, Any] = {"model": MODEL, "max_tokens": 2000, "tools": [CLAUDES_WEATHER]}
        body = {"temperature": 0, "thinking": {"type": "adaptive"}}
        with claude.messages.stream(messages=messages, extra_body=body, **common) as stream:
            first = stream.get_final_message()
        assert first.stop_reason == "tool_use"
        use = first.content[-1]
        assert use.type == "tool_use"
        assert (use.name, use.input) == ("get_weather", {"city": "Oslo"})
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "7 C, snow"}
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        with claude.messages.stream(messages=messages, extra_body=body, **common) as stream:
            assert "7 C, snow" in stream.get_final_text()

    def test_a_stop_sequence_ends_the_answer(self, claude: anthropic.Anthropic) -> None:
        question: Any = [{"role": "user", "content": "What is the capital of France?"}]
        made = claude.messages.create(
            model=MODEL,
            max_tokens=2000,
            messages=question,
            stop_sequences=["Rome", " is"],
            extra_body={"temperature": 0},
        )
        assert (made.stop_reason, made.stop_sequence) == ("stop_sequence", " is")
        assert made.content[0].type == "text"
        assert made.content[0].text == "The capital of France"

    def test_tokens_and_errors(self, claude: anthropic.Anthropic) -> None:
        question: Any = [{"role": "user", "content": "Who are you?"}]
        wrong: Any = [{"role": "user", "content": [{"type": "x"}]}]
        assert claude.messages.count_tokens(model=MODEL, messages=question).input_tokens > 20
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            claude.messages.create(model="claude", max_tokens=5, messages=question)
        with pytest.raises(anthropic.BadRequestError, match="messages\\[0\\]"):
            claude.messages.create(model=MODEL, max_tokens=5, messages=wrong)


class WeatherServer(McpTools):
    """Stands for an MCP server."""

    def __init__(self) -> None:
        super().__init__([])
        self.functions = (Tool("get_weather", "Get the weather in a city.", CITY),)

    @property
    def origins(self) -> dict[str, tuple[str, str]]:
        return {"get_weather": ("sky", "weather")}

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        return ToolResult(f"7 C, snow ({arguments})")


def test_tools_of_the_server_run_there() -> None:
    tool: Any = {"type": "mcp", "server_label": "sky", "require_approval": "never"}
    request: Any = {"model": MODEL, "input": OSLO, "tools": [tool], "temperature": 0, "stream": True}
    kept = Responses(built_ins=BuiltIns(mcp=WeatherServer()))
    with served({"demo": demo_backend()}, kept=kept) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        final = check_stream([event.to_dict() for event in client.responses.create(**request)])
        again = client.responses.create(model=MODEL, input="Who are you?", previous_response_id=final["id"])
    kinds = [item["type"] for item in final["output"]]
    assert kinds == ["reasoning", "mcp_call", "reasoning", "message"]
    call = final["output"][1]
    assert (call["name"], call["arguments"], call["status"]) == ("weather", '{"city":"Oslo"}', "completed")
    assert call["output"] == '7 C, snow ({"city":"Oslo"})'
    assert "7 C, snow" in final["output"][3]["content"][0]["text"]
    assert again.status == "completed"


KILLED = """
import sys
from pathlib import Path
import openai
from serving import demo_backend, served
from gptoss_mlx.server.responses import ResponseStore, Responses
with served({"demo": demo_backend()}, kept=Responses(ResponseStore(Path(sys.argv[1])))) as url:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    made = client.responses.create(model="demo", input="What is the capital of France?", temperature=0)
    print(made.id, flush=True)
    sys.stdin.read()
"""


def test_a_conversation_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        id = process.stdout.readline().strip()
        process.kill()
    kept = Responses(ResponseStore(tmp_path / "store"))
    with served({"demo": demo_backend()}, kept=kept) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        made = client.responses.create(model="demo", input="And of Spain?", previous_response_id=id, temperature=0)
    assert "Madrid" in made.output_text
