"""Requests that are too long, too large or too many: told before any answer begins, in the words of each interface."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from serving import CHAT, demo_backend, post

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.demo import MODEL_FOLDER
from gptoss_mlx.errors import ContextError, MemoryLimitError
from gptoss_mlx.server.local import LocalBackend

CONTEXT = ModelConfig.from_folder(MODEL_FOLDER).max_position_embeddings
USER = [{"role": "user", "content": "Hi."}]
LONG = "is " * CONTEXT
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": LONG}]},
    "/v1/responses": {"input": LONG},
    "/v1/completions": {"prompt": [[7] * CONTEXT]},
    "/v1/messages": {"messages": [{"role": "user", "content": LONG}], "max_tokens": 100},
    "/tokenize": {"messages": [{"role": "user", "content": LONG}]},
    "/v1/responses/input_tokens": {"input": LONG},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": LONG}]},
}
PARAMS = {"/v1/responses": "input", "/v1/completions": "prompt", "/v1/responses/input_tokens": "input"}


def streamed(body: dict[str, Any], stream: bool) -> dict[str, Any]:
    return {**body, "stream": True} if stream else body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(PROMPTS)[:4])
def test_a_prompt_longer_than_the_context_is_400_with_its_length(demo: httpx.Client, path: str, stream: bool) -> None:
    check_too_long(demo.post(path, json=streamed(PROMPTS[path], stream)), path)


@pytest.mark.parametrize("path", list(PROMPTS)[4:])
def test_so_it_is_where_tokens_are_counted(demo: httpx.Client, path: str) -> None:
    check_too_long(demo.post(path, json=PROMPTS[path]), path)


def check_too_long(response: httpx.Response, path: str) -> None:
    assert response.status_code == 400
    error = response.json()["error"]
    assert str(CONTEXT - 1) in error["message"]
    if path.startswith("/v1/messages"):
        assert error["type"] == "invalid_request_error"
        assert error["message"].startswith("prompt is too long: ")
        assert error["message"].endswith(f" tokens > {CONTEXT - 1} maximum")
    else:
        param = PARAMS.get(path, "messages")
        assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert error["message"].startswith(f"{param}: at most {CONTEXT - 1} tokens fit")


def test_the_longest_prompt_leaves_room_for_a_token(demo: httpx.Client) -> None:
    refused = demo.post("/v1/completions", json={"prompt": [7] * (CONTEXT + 1), "max_tokens": 1})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    with pytest.raises(ContextError) as told:
        raise ContextError("messages", CONTEXT, CONTEXT - 1)
    assert (told.value.tokens, told.value.limit) == (CONTEXT, CONTEXT - 1)


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> LocalBackend:
    """The embedded model on a machine that has memory for 300 tokens of a sequence."""

    def fits(tokens: int) -> bool:
        if tokens > 300:
            raise MemoryLimitError(f"a sequence of {tokens} tokens: 300 tokens fit")
        return True

    monkeypatch.setattr("gptoss_mlx.memory.admission", lambda *_, **__: fits)
    return demo_backend()


BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_completion_tokens": 1000},
    "/v1/responses": {"input": "Hi.", "max_output_tokens": 1000},
    "/v1/completions": {"prompt": "Hi.", "max_tokens": 1000},
    "/v1/messages": {"messages": USER, "max_tokens": 1000},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(BODIES))
def test_what_memory_can_never_hold_is_400_before_any_event(cramped: LocalBackend, path: str, stream: bool) -> None:
    response = post(cramped, path, streamed(BODIES[path], stream))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].endswith("300 tokens fit")
    if path != "/v1/messages":
        assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")


@pytest.mark.parametrize("path", list(BODIES))
def test_what_it_can_hold_runs(cramped: LocalBackend, path: str) -> None:
    shorter = {name: 40 if value == 1000 else value for name, value in BODIES[path].items()}
    assert post(cramped, path, shorter).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": ["Hi."] * 5}, "prompt"),
        ("/v1/completions", {"prompt": ["Hi."] * 2, "n": 3}, "prompt"),
        ("/v1/completions", {"prompt": "Hi.", "n": 5}, "n"),
        (CHAT, {"messages": USER, "n": 5}, "n"),
    ],
)
def test_more_choices_than_there_are_places_are_400_with_the_limit(path: str, body: dict[str, Any], param: str) -> None:
    response = post(demo_backend(max_sequences=2, max_waiting=2), path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert " 4 " in response.json()["error"]["message"]


def test_a_batch_waits_for_the_places_that_there_are() -> None:
    body = {"prompt": ["What is"] * 7, "max_tokens": 3, "temperature": 0}
    response = post(demo_backend(max_sequences=2, max_waiting=5), "/v1/completions", body)
    assert response.status_code == 200
    assert len({choice["text"] for choice in response.json()["choices"]}) == 1
    assert [choice["index"] for choice in response.json()["choices"]] == list(range(7))
