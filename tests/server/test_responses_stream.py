"""The events of the Responses API, in their order, against the types of OpenAI's client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playback import Called, Play, PlaybackBackend, called, demo_tokenizer, play, said, with_logprobs
from responses_checks import check_response, check_stream, read_frames

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.errors import RequestError
from gptoss_mlx.events import CallCompleted, CallStarted, Done, Event, Reply, ToolCall, ToolOutput, Usage
from gptoss_mlx.harmony import Conversation, Tool, ToolNamespace
from gptoss_mlx.server.app import create_app
from gptoss_mlx.server.built_in import BuiltIns
from gptoss_mlx.server.responses import Responses
from gptoss_mlx.server.responses.output import Output, Shown
from gptoss_mlx.tools import RunnableTool, ToolResult
from gptoss_mlx.tools.browser import BrowserTool, LocalFolder
from gptoss_mlx.tools.mcp import McpTools

TIDE = {
    "type": "function",
    "name": "tide",
    "parameters": {"type": "object", "properties": {"port": {"type": "string"}}},
}


class Notebook(RunnableTool):
    """Stands for the notebook; nothing is run."""

    namespace = ToolNamespace.python()
    closed = 0

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        raise NotImplementedError

    async def close(self) -> None:
        Notebook.closed += 1


class Servers(McpTools):
    """Stands for the tools of an MCP server; nothing is run."""

    def __init__(self) -> None:
        super().__init__([])
        self.functions = (Tool("sea_tides", "Tides."), Tool("sea_waves", "Waves."))

    @property
    def origins(self) -> dict[str, tuple[str, str]]:
        return {"sea_tides": ("sea", "tides"), "sea_waves": ("sea", "waves")}


def client(*plays: Play, built_ins: BuiltIns | None = None) -> TestClient:
    backend = PlaybackBackend(*plays)
    app = create_app({"played": backend}, kept=Responses(built_ins=built_ins))
    app.state.backend = backend
    return TestClient(app)


def stream(http: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = http.post("/v1/responses", json={"input": "Hello", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return read_frames(answer.text)


def told(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


MESSAGE = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
           "output_item.done"]  # fmt: skip
THOUGHTS = ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
            "content_part.done", "output_item.done"]  # fmt: skip
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


def test_thoughts_and_an_answer() -> None:
    events = stream(client(play(said("analysis", "Simple."), said("final", "Hi", "!"))))
    message = [*MESSAGE[:3], *MESSAGE[2:]]
    assert told(events) == ["created", "in_progress", *THOUGHTS, *message, "completed"]
    final = check_stream(events)
    reasoning, answer = final["output"]
    assert reasoning["type"] == "reasoning"
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Simple."}]
    assert reasoning["summary"] == []
    assert answer["role"] == "assistant"
    assert answer["phase"] == "final_answer"
    assert answer["content"][0]["text"] == "Hi!"
    assert {item["status"] for item in final["output"]} == {"completed"}
    assert final["usage"] == {
        "input_tokens": 40,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 52,
    }
    assert final["completed_at"] >= final["created_at"]


def test_a_preamble_is_a_message_before_the_call() -> None:
    parts = said("analysis", "Ask."), said("commentary", "I ask."), called("functions.tide", '{"port":', '"Brest"}')
    events = stream(client(play(*parts, finish_reason="tool_calls")), tools=[TIDE])
    call = [*CALL[:2], *CALL[1:]]
    assert told(events) == ["created", "in_progress", *THOUGHTS, *MESSAGE, *call, "completed"]
    final = check_stream(events)
    _, preamble, function = final["output"]
    assert preamble["phase"] == "commentary"
    assert function["name"] == "tide"
    assert function["arguments"] == '{"port":"Brest"}'
    assert function["call_id"].startswith("call_")
    assert function["id"].startswith("fc_")
    assert final["status"] == "completed"


def test_several_calls_have_items_of_their_own() -> None:
    calls = called("functions.tide", "{}"), called("functions.tide", '{"port":"Brest"}')
    final = check_stream(stream(client(play(*calls, finish_reason="tool_calls")), tools=[TIDE]))
    assert [item["arguments"] for item in final["output"]] == ["{}", '{"port":"Brest"}']
    assert len({item["call_id"] for item in final["output"]}) == 2


def test_a_call_without_arguments_ends_as_well() -> None:
    final = check_stream(stream(client(play(called("functions.tide"), finish_reason="tool_calls")), tools=[TIDE]))
    assert final["output"][0]["arguments"] == ""


def test_summaries_are_the_thoughts_themselves() -> None:
    http = client(play(said("analysis", "Sim", "ple."), said("final", "Hi")))
    events = stream(http, reasoning={"summary": "auto", "effort": "high"})
    final = check_stream(events)
    assert final["output"][0]["summary"] == [{"type": "summary_text", "text": "Simple."}]
    assert told(events)[2:13] == [
        "output_item.added", "content_part.added", "reasoning_summary_part.added",
        "reasoning_text.delta", "reasoning_summary_text.delta", "reasoning_text.delta", "reasoning_summary_text.delta",
        "reasoning_text.done", "content_part.done", "reasoning_summary_text.done", "reasoning_summary_part.done",
    ]  # fmt: skip
    assert final["reasoning"] == {"effort": "high", "summary": "auto"}


def test_an_answer_that_is_cut_off_is_incomplete() -> None:
    events = stream(client(play(said("final", "Once upon"), finish_reason="length")))
    assert told(events)[-1] == "incomplete"
    final = check_stream(events)
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["output"][0]["status"] == "incomplete"


def test_a_call_that_is_cut_off_is_incomplete() -> None:
    cut = Called("functions.tide", ('{"por',), cut=True)
    final = check_stream(stream(client(play(cut, finish_reason="length")), tools=[TIDE]))
    assert final["status"] == "incomplete"
    assert (final["output"][0]["status"], final["output"][0]["arguments"]) == ("incomplete", '{"por')


def test_a_failure_on_the_way_is_told_and_ends_what_is_open() -> None:
    http = client(play(said("final", "Once"), fails=RequestError("engine: it stopped")))
    events = stream(http)
    assert told(events) == ["created", "in_progress", *MESSAGE, "failed"]
    final = check_stream(events)
    assert final["error"] == {"code": "server_error", "message": "engine: it stopped"}
    assert http.app.state.backend.closed == 1  # type: ignore[attr-defined]


def test_an_unexpected_failure_tells_nothing_of_its_insides() -> None:
    final = check_stream(stream(client(play(said("final", "Once"), fails=ZeroDivisionError("secret")))))
    assert "secret" not in str(final)


def test_without_a_stream_the_response_is_the_same() -> None:
    parts = said("analysis", "Simple."), said("final", "Hi")
    answer = client(play(*parts)).post("/v1/responses", json={"input": "Hello"})
    assert answer.status_code == 200
    whole = answer.json()
    streamed = check_stream(stream(client(play(*parts))))
    check_response(whole)
    for response in (whole, streamed):
        del response["id"], response["created_at"], response["completed_at"]
        for item in response["output"]:
            del item["id"]
    assert whole == streamed


def test_log_probabilities_stand_beside_the_text() -> None:
    one = TokenLogprobs(72, -0.5, ((72, -0.5), (73, -1.5)))
    http = client(play(with_logprobs("final", "i", one)))
    events = stream(http, top_logprobs=2)
    final = check_stream(events)
    delta = next(event for event in events if event["type"].endswith("text.delta"))
    assert delta["logprobs"][0]["logprob"] == -0.5
    assert final["output"][0]["content"][0]["logprobs"] == delta["logprobs"]
    assert [each["logprob"] for each in delta["logprobs"][0]["top_logprobs"]] == [-0.5, -1.5]
    assert http.app.state.backend.requests[0].logprobs == 2  # type: ignore[attr-defined]


def test_code_runs_as_a_code_interpreter_call() -> None:
    cell = called("python", "print(", "1)", result=ToolResult("1\n", images=(b"PNG",)))
    before = Notebook.closed
    http = client(play(cell, said("final", "1")), built_ins=BuiltIns(python=Notebook))
    tools = [{"type": "code_interpreter", "container": {"type": "auto"}}]
    events = stream(http, tools=tools, include=["code_interpreter_call.outputs"])
    assert told(events)[2:9] == [
        "output_item.added", "code_interpreter_call.in_progress", "code_interpreter_call_code.delta",
        "code_interpreter_call_code.delta", "code_interpreter_call_code.done", "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
    ]  # fmt: skip
    item = check_stream(events)["output"][0]
    assert item["code"] == "print(1)"
    assert item["outputs"] == [
        {"type": "logs", "logs": "1\n"},
        {"type": "image", "url": "data:image/png;base64,UE5H"},
    ]
    assert Notebook.closed == before + 1


def test_code_outputs_are_left_out_unless_asked_for() -> None:
    http = client(play(called("python", "1", result=ToolResult("1"))), built_ins=BuiltIns(python=Notebook))
    final = check_stream(stream(http, tools=[{"type": "code_interpreter", "container": {"type": "auto"}}]))
    assert final["output"][0]["outputs"] is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tides.md").write_text("# Tides\n\nHigh at noon.\n")
    return tmp_path


def test_looks_into_the_browser_are_web_search_calls(folder: Path) -> None:
    parts = (
        called("browser.search", '{"query":"tides"}', result=ToolResult("...")),
        called("browser.open", '{"id":"https://a.example/"}', result=ToolResult("...")),
        called("browser.find", '{"pattern":"noon","cursor":7}', result=ToolResult("no page", failed=True)),
        said("final", "At noon."),
    )
    http = client(play(*parts), built_ins=BuiltIns(browser=lambda: BrowserTool(LocalFolder(folder))))
    events = stream(http, tools=[{"type": "web_search"}])
    assert told(events)[2:7] == [
        "output_item.added", "web_search_call.in_progress", "web_search_call.searching", "web_search_call.completed",
        "output_item.done",
    ]  # fmt: skip
    search, opened, found, _ = check_stream(events)["output"]
    assert search["action"] == {"type": "search", "query": "tides", "queries": ["tides"]}
    assert opened["action"] == {"type": "open_page", "url": "https://a.example/"}
    assert found["action"] == {"type": "find_in_page", "pattern": "noon", "url": ""}
    assert [item["status"] for item in (search, opened, found)] == ["completed", "completed", "failed"]


def test_pages_that_an_answer_cites_are_its_annotations(folder: Path) -> None:
    browser = BrowserTool(LocalFolder(folder))
    result = asyncio.run(browser.run("browser.search", '{"query":"tides"}'))
    assert not result.failed
    opened = asyncio.run(browser.run("browser.open", '{"id":0,"cursor":0}'))
    assert not opened.failed
    text = "At noon【1†L2】."
    http = client(play(said("final", text)), built_ins=BuiltIns(browser=lambda: browser))
    events = stream(http, tools=[{"type": "web_search"}])
    final = check_stream(events)
    part = final["output"][0]["content"][0]
    (annotation,) = part["annotations"]
    assert text[annotation["start_index"] : annotation["end_index"]] == "【1†L2】"
    assert annotation["url"].endswith("tides.md")
    assert told(events)[4:6] == ["output_text.delta", "output_text.annotation.added"]


def test_mcp_tools_are_mcp_calls() -> None:
    parts = (
        called("functions.sea_tides", '{"port":"Brest"}', result=ToolResult("noon")),
        called("functions.sea_tides", "{}", result=ToolResult("no port", failed=True)),
    )
    http = client(play(*parts), built_ins=BuiltIns(mcp=Servers()))
    tool = {"type": "mcp", "server_label": "sea", "allowed_tools": ["tides"], "require_approval": "never"}
    events = stream(http, tools=[tool])
    good, bad = check_stream(events)["output"]
    assert (good["server_label"], good["name"], good["output"]) == ("sea", "tides", "noon")
    assert (bad["status"], bad["output"]) == ("failed", None)
    assert bad["error"]["content"] == [{"type": "text", "text": "no port"}]
    assert [f.name for f in http.app.state.backend.requests[0].built_in[0].functions] == ["sea_tides"]  # type: ignore[attr-defined]


def test_custom_tools_take_plain_text() -> None:
    call = called("functions.note", '{"input":', '"a \\"b\\""}')
    tool = {"type": "custom", "name": "note", "description": "Writes a note."}
    events = stream(client(play(call, finish_reason="tool_calls")), tools=[tool])
    assert told(events)[2:6] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done",
    ]  # fmt: skip
    assert check_stream(events)["output"][0]["input"] == 'a "b"'


def test_tools_of_a_namespace_are_shown_by_their_own_names() -> None:
    parts = [called("functions.sea__tide", "{}"), called("functions.sea__note", "{}"), called("functions.tide", "{}")]
    note = {"type": "custom", "name": "note"}
    tools = [{"type": "namespace", "name": "sea", "description": "The sea.", "tools": [TIDE, note]}, TIDE]
    http = client(play(*parts, finish_reason="tool_calls"))
    output = check_stream(stream(http, tools=tools))["output"]
    assert [(item["type"], item.get("namespace"), item["name"]) for item in output] == [
        ("function_call", "sea", "tide"), ("custom_tool_call", "sea", "note"), ("function_call", None, "tide"),
    ]  # fmt: skip
    offered = [tool["function"] for tool in http.app.state.backend.requests[0].tools]  # type: ignore[attr-defined]
    assert [(tool["name"], tool["description"]) for tool in offered] == [
        ("sea__tide", "The sea."), ("sea__note", "The sea."), ("tide", ""),
    ]  # fmt: skip


def test_calls_of_what_does_not_exist_are_between_model_and_runtime() -> None:
    wrong = called("container.exec", "{}", result=ToolResult("container.exec does not exist", failed=True))
    final = check_stream(stream(client(play(wrong, said("final", "Sorry.")))))
    assert [item["type"] for item in final["output"]] == ["message"]


def test_a_call_that_nobody_answered_is_the_clients() -> None:
    final = check_stream(stream(client(play(called("functions.other", "{}"), finish_reason="tool_calls"))))
    assert [(item["type"], item["name"]) for item in final["output"]] == [("function_call", "other")]


def test_a_call_may_begin_before_another_has_its_result() -> None:
    """Several calls of one turn: their results come after all of them."""
    cell, tide = ToolCall.to("python", "1"), ToolCall.to("functions.tide", "{}")
    output = Output(Shown(functions=frozenset({"tide"}), python=True), demo_tokenizer())
    events: list[Event] = [
        CallStarted(0, cell.id, cell.recipient, cell.name),
        CallCompleted(0, cell),
        CallStarted(1, tide.id, tide.recipient, tide.name),
        CallCompleted(1, tide),
        ToolOutput(cell, ToolResult("1")),
        Done(Reply((), Conversation(), Usage(), "tool_calls", (tide,))),
    ]
    kinds = [(told["type"], told["output_index"]) for event in events for told in output.push(event)]
    assert kinds[-2:] == [("response.code_interpreter_call.completed", 0), ("response.output_item.done", 0)]
    assert [item["status"] for item in output.items] == ["completed", "completed"]
