"""Chat Completions against written replies: every object is one of OpenAI's, in the right order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from playback import PlaybackBackend, called, play, said, with_logprobs
from serving import CHAT, post, talk

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.errors import BusyError, GptOssError, RequestError
from gptoss_mlx.server.backend import Stream, TurnRequest
from gptoss_mlx.server.settings import Settings

USER = [{"role": "user", "content": "q"}]
TIDE = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
ANSWER = play(said("analysis", "I ", "think."), said("final", "It is", " so."))
CALL = play(
    said("analysis", "Hm."),
    said("commentary", "I look."),
    called("functions.tide", '{"a"', ":1}"),
    finish_reason="tool_calls",
)


def ask(backend: PlaybackBackend, **body: Any) -> dict[str, Any]:
    """The answer to a request, which the openai package must know in every field."""
    response = post(backend, CHAT, {"messages": USER, **body})
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    known = ChatCompletion.model_validate(told, strict=False)
    assert known.model_dump(exclude_unset=True) == told
    return told


def stream(backend: PlaybackBackend, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which the openai package must know in every field."""
    response = post(backend, CHAT, {"messages": USER, "stream": True, **body})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    for chunk in chunks:
        assert ChatCompletionChunk.model_validate(chunk).model_dump(exclude_unset=True) == chunk
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    return chunks


def deltas(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]


def test_an_answer() -> None:
    told = ask(PlaybackBackend(ANSWER))
    assert told["object"] == "chat.completion"
    assert told["model"] == "played"
    assert told["id"].startswith("chatcmpl-")
    [choice] = told["choices"]
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "It is so.",
            "refusal": None,
            "reasoning_content": "I think.",
            "reasoning": "I think.",
        },
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert told["usage"] == {
        "prompt_tokens": 40,
        "completion_tokens": 12,
        "total_tokens": 52,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }


def test_a_streamed_answer() -> None:
    chunks = stream(PlaybackBackend(ANSWER))
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "I ", "reasoning": "I "},
        {"reasoning_content": "think.", "reasoning": "think."},
        {"content": "It is"},
        {"content": " so."},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [*[None] * 5, "stop"]
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_of_a_stream_comes_last_where_it_is_wanted() -> None:
    chunks = stream(PlaybackBackend(ANSWER), stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == ask(PlaybackBackend(ANSWER))["usage"]


def test_a_call() -> None:
    [choice] = ask(PlaybackBackend(CALL), tools=[TIDE])["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "tide", "arguments": '{"a":1}'}
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I look.", "tool_calls")
    chunks = stream(PlaybackBackend(CALL), tools=[TIDE])
    told = [each["tool_calls"][0] for each in deltas(chunks) if "tool_calls" in each]
    assert told[0]["id"].startswith("call_")
    assert told == [
        {"index": 0, "id": told[0]["id"], "type": "function", "function": {"name": "tide", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]


def test_an_answer_without_text_is_empty_and_a_call_without_text_has_none() -> None:
    assert ask(PlaybackBackend(play(said("analysis", "Hm."))))["choices"][0]["message"]["content"] == ""
    only = PlaybackBackend(play(called("functions.tide", "{}"), finish_reason="tool_calls"))
    assert ask(only, tools=[TIDE])["choices"][0]["message"]["content"] is None


def test_calls_of_what_was_not_offered_stay_here() -> None:
    answered = play(called("functions.other", "{}"), called("python", "1"), said("final", "So."))
    [choice] = ask(PlaybackBackend(answered), tools=[TIDE])["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"] == "So."


def test_several_calls_have_indices_of_their_own() -> None:
    two = play(called("functions.other", "{}"), called("functions.tide", "1"), called("functions.tide", "2"))
    [choice] = ask(PlaybackBackend(two), tools=[TIDE])["choices"]
    assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == ["1", "2"]
    chunks = stream(PlaybackBackend(two), tools=[TIDE])
    assert [each["tool_calls"][0]["index"] for each in deltas(chunks) if "tool_calls" in each] == [0, 0, 1, 1]


def test_a_preamble_and_the_answer_are_paragraphs() -> None:
    both = play(said("commentary", "First", " this."), said("final", "Then", " that."))
    assert ask(PlaybackBackend(both))["choices"][0]["message"]["content"] == "First this.\n\nThen that."
    assert "".join(each.get("content", "") for each in deltas(stream(PlaybackBackend(both)))) == (
        "First this.\n\nThen that."
    )


def test_choices_share_their_prompt() -> None:
    backend = PlaybackBackend(ANSWER, CALL, ANSWER)
    told = ask(backend, n=3, seed=5, tools=[TIDE])
    assert [choice["finish_reason"] for choice in told["choices"]] == ["stop", "tool_calls", "stop"]
    assert [request.sampling.seed for request in backend.requests] == [5, 6, 7]
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (40, 36)
    assert backend.closed == 3
    chunks = stream(PlaybackBackend(ANSWER), n=2)
    assert deltas(chunks, 0) == deltas(chunks, 1) == deltas(stream(PlaybackBackend(ANSWER)))


def test_logprobs() -> None:
    likely = TokenLogprobs(5, -0.25, ((5, -0.25), (6, -float("inf"))))
    backend = PlaybackBackend(play(said("analysis", "Hm."), with_logprobs("final", "a", likely)))
    [choice] = ask(backend, logprobs=True, top_logprobs=2)["choices"]
    text = backend.tokenizer.decode([5])
    [entry] = choice["logprobs"]["content"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == (text, list(text.encode()), -0.25)
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.25, -9999.0]
    assert backend.requests[0].logprobs == 2
    chunks = stream(backend, logprobs=True)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert told == [choice["logprobs"]]
    assert ask(PlaybackBackend(ANSWER))["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_asked_for_reaches_the_model(streamed: bool) -> None:
    backend = PlaybackBackend(ANSWER)
    strict = {"type": "function", "function": {"name": "tide", "description": "Tides.", "strict": True}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
    body = {
        "messages": USER, "model": "played", "reasoning_effort": "high", "tools": [strict], "tool_choice": "required",
        "parallel_tool_calls": False, "response_format": wanted, "max_completion_tokens": 9, "max_tokens": 7,
        "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": 1,
        "frequency_penalty": -1, "seed": -1, "stop": "x", "logit_bias": {"4": 2}, "logprobs": True,
        "reasoning_budget": 11, "user": "me", "store": False, "metadata": {}, "stream": streamed,
    }  # fmt: skip
    assert post(backend, CHAT, body).status_code == 200
    [request] = backend.requests
    assert (list(request.messages), request.effort, request.tool_choice) == (USER, "high", "required")
    assert (request.parallel_calls, request.max_tokens, request.logprobs, request.reasoning_budget) == (False, 9, 0, 11)
    assert (request.tools, request.response_format) == ((strict,), wanted)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 3, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.5, 1, -1)
    assert (sampling.seed, sampling.stop, sampling.logit_bias) == (2**64 - 1, ("x",), {4: 2})


@pytest.mark.parametrize(
    ("asked", "effort", "budget"),
    [("none", "low", 0), ("minimal", "low", None), ("high", "high", None), ("xhigh", "high", None), (None, None, None)],
)
def test_efforts_of_other_models_have_a_meaning(asked: str | None, effort: str | None, budget: int | None) -> None:
    backend = PlaybackBackend(ANSWER)
    ask(backend, reasoning_effort=asked)
    assert (backend.requests[0].effort, backend.requests[0].reasoning_budget) == (effort, budget)


OTHER = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        ("none", "none", ["tide", "other"]),
        ({"type": "function", "function": {"name": "other"}}, "other", ["tide", "other"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}}, "required", ["other"]),
    ],
)
def test_choices_among_tools(choice: Any, expected: str, names: list[str]) -> None:
    backend = PlaybackBackend(ANSWER)
    ask(backend, tools=[TIDE, OTHER], tool_choice=choice)
    assert backend.requests[0].tool_choice == expected
    assert [tool["function"]["name"] for tool in backend.requests[0].tools] == names


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "tide"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"verbosity": "low"}, "verbosity"),
        ({"functions": []}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    backend = PlaybackBackend(ANSWER)
    response = post(backend, CHAT, {"messages": USER, **change})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(param)
    assert "\n" not in error["message"]
    assert not backend.requests


class Refusing(PlaybackBackend):
    """Cannot begin."""

    def __init__(self, error: Exception) -> None:
        super().__init__(ANSWER)
        self.error = error

    async def start(self, request: TurnRequest) -> Stream[Any]:
        raise self.error


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("messages: fewer expected"), 400, "invalid_request_error"),
        (BusyError("all places are taken"), 429, "rate_limit_error"),
        (GptOssError("no memory"), 503, "server_error"),
        (ZeroDivisionError("secret"), 500, "server_error"),
    ],
)
def test_failures_before_the_answer_have_a_status(error: Exception, status: int, kind: str, streamed: bool) -> None:
    response = post(Refusing(error), CHAT, {"messages": USER, "stream": streamed})
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert ("retry-after" in response.headers) == (status == 429)
    assert "secret" not in response.text


def test_a_failure_in_a_stream_is_its_last_event() -> None:
    backend = PlaybackBackend(play(said("final", "It"), fails=RequestError("guide: lost")))
    response = post(backend, CHAT, {"messages": USER, "stream": True})
    last = response.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "guide: lost"
    assert backend.closed == 1
    response = post(PlaybackBackend(play(fails=ZeroDivisionError("secret"))), CHAT, {"messages": USER})
    assert (response.status_code, "secret" in response.text) == (500, False)


def test_a_failure_touches_no_other_request() -> None:
    bad, good = Refusing(ZeroDivisionError()), PlaybackBackend(ANSWER)
    bad.model_id = "bad"

    async def act(client: httpx.AsyncClient) -> list[int]:
        asked = ["bad", "played", "bad", "played"]
        return [(await client.post(CHAT, json={"messages": USER, "model": each})).status_code for each in asked]

    assert talk({"bad": bad, "played": good}, act) == [500, 200, 500, 200]


def test_a_silent_stream_gets_comments() -> None:
    waits = asyncio.Event()

    async def act(client: httpx.AsyncClient) -> str:
        asyncio.get_running_loop().call_later(0.1, waits.set)
        return (await client.post(CHAT, json={"messages": USER, "stream": True})).text

    text = talk(PlaybackBackend(replace(ANSWER, waits=waits)), act, Settings(ping_seconds=0.01))
    assert text.count(": still here\n\n") > 1
    assert text.endswith("data: [DONE]\n\n")
