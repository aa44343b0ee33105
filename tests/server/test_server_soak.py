"""A short form of `examples/server_soak.py`: some hundred requests at once, each with an answer of its own."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from serving import CHAT, demo_backend, endless, served

REQUESTS, CLIENTS = 250, 16


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clients' module."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    yield importlib.import_module("soak_clients")
    for name in ("soak_clients", "server_soak"):
        sys.modules.pop(name, None)


def run(soak: Any, url: str, seed: int) -> Any:
    """The figures of many requests at once."""

    async def act() -> Any:
        async with soak.Clients(url, seed) as crowd:
            await crowd.soak(REQUESTS, CLIENTS, lambda _: None)
            await crowd.settle()
            return crowd.figures

    return asyncio.run(act())


@pytest.mark.parametrize("waiting", [256, 4])
def test_everybody_gets_an_answer_of_his_own_or_is_told_to_come_back(soak: Any, waiting: int) -> None:
    with served({"demo": demo_backend(max_sequences=8, max_waiting=waiting, prefix_bytes=16 << 20)}) as url:
        figures = run(soak, url, seed=waiting)
    counts = figures.counts
    assert figures.failures == []
    assert counts["mistakes of the model"] <= 0.02 * REQUESTS
    assert min(counts["200 streamed"], counts["200 whole"], counts["gone away"]) > 0
    assert counts["400 for what is no request"] > 0
    assert (counts["429 streamed"] + counts["429 whole"] > 0) == (waiting == 4)
    asked = sum(count for name, count in counts.items() if name not in ("mistakes of the model", "failed"))
    assert asked == REQUESTS


def test_an_answer_of_somebody_else_is_noticed(soak: Any, demo_url: str) -> None:
    async def act() -> Any:
        async with soak.Clients(demo_url, 0) as crowd:
            mine, other = soak.Question("What is 2 + 3?", "2 + 3 = 5."), "4 + 4 = 8."
            crowd.figures.doubtful.append((soak.CHAT, mine, other))
            await crowd.settle()
            return crowd.figures

    figures = asyncio.run(act())
    assert figures.counts["mixed up"] == 1
    assert "'4 + 4 = 8.'" in figures.failures[0]


def test_a_place_that_stays_taken_is_noticed(soak: Any, demo_url: str) -> None:
    async def act() -> Any:
        async with (
            httpx.AsyncClient(base_url=demo_url, timeout=30) as client,
            client.stream("POST", CHAT, json={**endless(), "stream": True}) as response,
            soak.Clients(demo_url, 0) as crowd,
        ):
            lines = response.aiter_lines()  # its end would close the connection
            await anext(lines)
            await crowd.settle(0)
            return crowd.figures

    figures = asyncio.run(act())
    assert figures.taken == 1
    assert "places are still taken" in figures.failures[0]


def test_the_script_prints_its_figures(soak: Any, demo_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = importlib.import_module("server_soak")
    monkeypatch.setattr(script, "speeds", partial(script.speeds, rounds=1, requests=8))
    done = CliRunner().invoke(script.main, ["--requests", "40", "--clients", "4", "--url", demo_url, "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["places taken at the end"]) == (0, 0)
    assert told["time to first token, p99, ms"] >= told["time to first token, p50, ms"] > 0
    assert told["eight against one"] > 0
    nobody = CliRunner().invoke(script.main, ["--requests", "1", "--url", "http://127.0.0.1:9"])
    assert (nobody.exit_code, "cannot be reached" in nobody.output) == (1, True)
