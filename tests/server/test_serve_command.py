"""`gptoss-mlx serve`: what it refuses, and a whole life of a server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from serving import CHAT, endless, eventually

from gptoss_mlx import demo
from gptoss_mlx.cli.app import main

QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}


def serve(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments], env={"EXA_API_KEY": ""})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--host", "0.0.0.0"], "--api-key"),
        (["nowhere-to-be-found"], "nowhere-to-be-found"),
        (["--model", "demo"], "ALIAS=PATH"),
        (["demo", "--model", "demo=demo"], "two of 'demo'"),
        (["demo", "--host", "203.0.113.7", "--insecure"], "cannot be listened at"),
        (["demo", "--api-key", ""], "api_key"),
        (["demo", "--idle-unload", "0"], "idle-unload"),
        (["demo", "--browse", "nowhere-to-be-found"], "no such folder"),
        (["demo", "--search", "exa"], "EXA_API_KEY"),
        (["demo", "--search", "exa", "--web"], "choose one"),
        (["demo", "--store", str(Path(__file__))], "cannot be used"),
        (["demo", "--port", "0", "--mcp", str(Path(__file__))], "JSON"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments: list[str], message: str) -> None:
    result = serve(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = serve("demo", "--port", str(taken.getsockname()[1]))
    assert (result.exit_code, "cannot be listened at" in result.output) == (1, True)


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [name for name in sys.modules if name.startswith("gptoss_mlx.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = serve("demo")
    assert result.exit_code == 1
    assert result.output.splitlines() == [f"Error: serve: {missing} is missing; run pip install 'gptoss-mlx[serve]'"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and address."""
    command = [sys.executable, "-m", "gptoss_mlx", "serve", "--port", "0", *arguments]
    environment = {**os.environ, "GPTOSS_API_KEY": "k"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("{") and json.loads(line)["message"] == "listening":
                    yield process, json.loads(line)["url"]
                    break
            else:
                pytest.fail("the server ended before it listened")
        finally:
            process.kill()


def test_a_server_from_its_beginning_to_its_end() -> None:
    with running("demo", "--model", f"toy={demo.MODEL_FOLDER}") as (process, url):
        with httpx.Client(base_url=url.removesuffix("/v1"), headers={"Authorization": "Bearer k"}) as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["demo", "toy"]
            told: Any = client.post(CHAT, json={**QUESTION, "model": "toy"}).json()
            assert (told["model"], told["choices"][0]["message"]["content"]) == ("toy", "2 + 3 = 5.")
            with client.stream("POST", CHAT, json={**QUESTION, "stream": True}) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(timeout=20) == -signal.SIGTERM
    entries = [json.loads(line) for line in rest.splitlines()]
    assert [entry["path"] for entry in entries if entry["message"] == "request"] == ["/v1/models", CHAT, CHAT]
    assert "2 + 3" not in rest


def test_a_store_survives_a_server_that_is_killed(tmp_path: Path) -> None:
    headers, store = {"Authorization": "Bearer k"}, str(tmp_path / "store")
    with running("demo", "--store", store, "--max-sequences", "1") as (process, url):
        made = httpx.post(f"{url}/responses", headers=headers, json={"input": "What is 2 + 3?"}).json()
        for _ in range(20):  # one after the other, so that the last one is not there yet
            cut = httpx.post(f"{url}/responses", headers=headers, json={"input": "Hi.", "background": True}).json()
        process.kill()
        process.wait()
    with running("demo", "--store", store) as (_, url):
        assert httpx.get(f"{url}/responses/{made['id']}", headers=headers).json() == made
        told = httpx.get(f"{url}/responses/{cut['id']}", headers=headers).json()
        assert (told["status"], "restarted" in told["error"]["message"]) == ("failed", True)


def test_a_server_ends_in_time_and_frees_memory_meanwhile() -> None:
    headers = {"Authorization": "Bearer k"}
    with running("demo", "--drain", "1", "--idle-unload", "0.2") as (process, url):
        health = url.replace("/v1", "/health")
        eventually(lambda: not httpx.get(health).json()["models"]["demo"]["loaded"])
        body = {**endless(), "stream": True}
        with httpx.stream("POST", health.replace("/health", CHAT), headers=headers, json=body) as response:
            lines = response.iter_lines()  # its end would close the connection
            next(lines)
            assert httpx.get(health).json()["models"]["demo"]["loaded"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == -signal.SIGTERM
