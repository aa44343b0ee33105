"""Figures, places, clients that go away, and weights that are let go."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playback import PlaybackBackend, play, said
from serving import CHAT, demo_backend, endless, eventually, metric, served, talk

from gptoss_mlx.errors import RequestError
from gptoss_mlx.server.app import create_app
from gptoss_mlx.server.settings import Settings

SHORT = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}


def test_figures_count_what_happens(demo: httpx.Client) -> None:
    before = {name: metric(demo, name, model="demo") for name in NAMES}
    usage = demo.post(CHAT, json=SHORT).json()["usage"]
    usage_again = demo.post(CHAT, json={**SHORT, "stream": True, "stream_options": {"include_usage": True}})
    assert usage_again.status_code == 200
    after = {name: metric(demo, name, model="demo") - before[name] for name in NAMES}
    assert after["gptoss_prompt_tokens_total"] == 2 * usage["prompt_tokens"]
    assert after["gptoss_completion_tokens_total"] == 2 * usage["completion_tokens"]
    assert after["gptoss_reasoning_tokens_total"] == 2 * usage["completion_tokens_details"]["reasoning_tokens"]
    assert after["gptoss_prompt_tokens_cached_total"] > 0
    assert after["gptoss_time_to_first_token_seconds_count"] == 2
    assert after["gptoss_replies_total"] == 2
    refused = metric(demo, "gptoss_requests_total", route=CHAT, status="400")
    demo.post(CHAT, json={})
    assert metric(demo, "gptoss_requests_total", route=CHAT, status="400") == refused + 1
    assert metric(demo, "gptoss_loaded", model="demo") == 1


NAMES = [
    "gptoss_prompt_tokens_total", "gptoss_completion_tokens_total", "gptoss_reasoning_tokens_total",
    "gptoss_prompt_tokens_cached_total", "gptoss_time_to_first_token_seconds_count", "gptoss_replies_total",
]  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_frees_its_place_at_once(demo: httpx.Client, streamed: bool) -> None:
    aborted = metric(demo, "gptoss_replies_total", finish_reason="aborted")
    body = {**endless(), "stream": streamed}
    if streamed:
        with demo.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()  # its end would close the connection
            next(lines)
            eventually(lambda: metric(demo, "gptoss_running", model="demo") == 1)
    else:
        with pytest.raises(httpx.ReadTimeout):
            demo.post(CHAT, json=body, timeout=0.5)
    eventually(lambda: metric(demo, "gptoss_running", model="demo") == 0)
    eventually(lambda: metric(demo, "gptoss_replies_total", finish_reason="aborted") == aborted + 1)
    assert demo.post(CHAT, json=SHORT).json()["choices"][0]["message"]["content"] == "2 + 3 = 5."


def test_a_client_that_goes_from_the_queue_leaves_it() -> None:
    with (
        served({"demo": demo_backend(max_sequences=1)}) as url,
        httpx.Client(base_url=url) as client,
        client.stream("POST", CHAT, json={**endless(), "stream": True}) as running,
    ):
        lines = running.iter_lines()  # its end would close the connection
        next(lines)
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=SHORT, timeout=0.3)
        eventually(lambda: metric(client, "gptoss_waiting", model="demo") == 0)
        assert metric(client, "gptoss_running", model="demo") == 1


def test_who_finds_no_place_is_told_when_to_come_back() -> None:
    with served({"demo": demo_backend(max_sequences=1, max_waiting=0)}) as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", CHAT, json={**endless(), "stream": True}) as running:
            lines = running.iter_lines()  # its end would close the connection
            next(lines)
            for streamed in (False, True):
                refused = client.post(CHAT, json={**SHORT, "stream": streamed})
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
                assert refused.json()["error"]["code"] == "queue_full"
        eventually(lambda: client.post(CHAT, json=SHORT).status_code == 200)


def test_choices_that_find_no_place_free_the_others() -> None:
    with served({"demo": demo_backend(max_sequences=2, max_waiting=0)}) as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", CHAT, json={**endless(), "stream": True}) as running:
            lines = running.iter_lines()  # its end would close the connection
            next(lines)
            assert client.post(CHAT, json={**SHORT, "n": 2}).status_code == 429
            assert client.post(CHAT, json=SHORT).status_code == 200
        eventually(lambda: client.post(CHAT, json={**SHORT, "n": 2}).status_code == 200)


def test_weights_are_let_go_and_come_back() -> None:
    with (
        served({"demo": demo_backend()}, Settings(idle_unload=0.2)) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert client.get("/health").json()["models"] == {"demo": {"loaded": False}}
        for _ in range(2):
            assert client.post(CHAT, json=SHORT).status_code == 200
            eventually(lambda: not client.get("/health").json()["models"]["demo"]["loaded"])


def test_weights_that_are_let_go_are_gone() -> None:
    async def act() -> weakref.ref[Any]:
        backend = demo_backend()
        weights = weakref.ref((await backend.ready()).model)
        assert not await backend.unload_if_idle(60)
        assert await backend.unload_if_idle(0)
        assert not backend.load.loaded
        return weights

    weights = asyncio.run(act())
    gc.collect()
    assert weights() is None


def test_prompts_are_kept_from_one_server_to_the_next(tmp_path: Path) -> None:
    async def act(client: httpx.AsyncClient) -> int:
        told = (await client.post(CHAT, json=SHORT)).json()
        return int(told["usage"]["prompt_tokens_details"]["cached_tokens"])

    def live() -> int:
        backend = demo_backend(prompt_cache=tmp_path)
        cached = talk(backend, act)
        asyncio.run(backend.close())
        return cached

    assert live() == 0
    assert live() > 20


def test_models_are_loaded_when_they_are_asked_for() -> None:
    first, second = demo_backend(), demo_backend()
    second.model_id = "other"

    async def act(client: httpx.AsyncClient) -> list[bool]:
        response = await client.post(CHAT, json={**SHORT, "model": "other"})
        assert response.json()["model"] == "other"
        return [first.load.loaded, second.load.loaded]

    assert talk({"demo": first, "other": second}, act) == [False, True]


def test_a_server_needs_models_by_their_names() -> None:
    for backends in ({}, {"another": PlaybackBackend(play(said("final", "So.")))}):
        with pytest.raises(RequestError, match="backends"):
            create_app(backends)


def test_requests_in_progress_end_before_the_server_does() -> None:
    with ExitStack() as server:
        url = server.enter_context(served({"demo": demo_backend()}))
        with httpx.stream("POST", url + CHAT, json={**SHORT, "stream": True}) as response:
            lines = response.iter_lines()
            assert "assistant" in next(lines)
            stopping = threading.Thread(target=server.close)
            stopping.start()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        stopping.join()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/health")
