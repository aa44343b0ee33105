"""Servers for tests: in this process without a socket, or at a port of the loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import uvicorn

from gptoss_mlx import demo
from gptoss_mlx.engine import EngineOptions
from gptoss_mlx.server.app import create_app
from gptoss_mlx.server.backend import Backend
from gptoss_mlx.server.local import LocalBackend
from gptoss_mlx.server.responses import Responses
from gptoss_mlx.server.run import KEEP_ALIVE
from gptoss_mlx.server.settings import Settings

T = TypeVar("T")
CHAT = "/v1/chat/completions"


def talk(
    backend: Backend | Mapping[str, Backend],
    act: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]],
    settings: Settings | None = None,
) -> T:
    """What `act` returns, who gets a client of an application with one or more models."""
    backends = backend if isinstance(backend, Mapping) else {backend.model_id: backend}

    async def with_client() -> T:
        transport = httpx.ASGITransport(create_app(backends, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await act(client)

    return asyncio.run(with_client())


def post(backend: Backend, path: str, body: Any, settings: Settings | None = None) -> httpx.Response:
    """One request, answered to its end."""
    return talk(backend, lambda client: client.post(path, json=body), settings)


def demo_backend(**options: Any) -> LocalBackend:
    """The embedded model."""
    return LocalBackend("demo", demo.MODEL_FOLDER, EngineOptions(**options))


@contextmanager
def served(
    backends: Mapping[str, Backend], settings: Settings | None = None, kept: Responses | None = None
) -> Iterator[str]:
    """The address of a server in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(backends, settings, kept)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5, timeout_keep_alive=KEEP_ALIVE)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """A figure of `/metrics`, the sum over all labels that are not given."""
    total = 0.0
    for line in client.get("/metrics").text.splitlines():
        key, _, value = line.rpartition(" ")
        if key.partition("{")[0] == name and all(f'{label}="{told}"' in key for label, told in labels.items()):
            total += float(value)
    return total


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; it fails after ten seconds."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def endless() -> dict[str, Any]:
    """A request whose answer takes the whole budget: every token that could end it is forbidden."""
    ends = demo_backend().tokenizer.special.values()
    return {
        "messages": [{"role": "user", "content": "Tell."}],
        "temperature": 2.0,
        "max_tokens": 16000,
        "logit_bias": {str(token): -100 for token in ends},
    }
