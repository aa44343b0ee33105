"""A short form of `examples/server_soak.py`: some hundred requests at once, each with an answer of its own."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import demo_backend, served

REQUESTS, CLIENTS = 250, 16


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clients' module."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    yield importlib.import_module("soak_clients")
    sys.modules.pop("soak_clients")


def run(soak: Any, url: str, seed: int) -> tuple[Any, list[float]]:
    """The figures of many requests at once, and the places that are taken when they are over."""

    async def act() -> tuple[Any, list[float]]:
        async with soak.Clients(url, seed) as crowd:
            await crowd.soak(REQUESTS, CLIENTS, lambda _: None)
            await crowd.settle()
            return crowd.figures, [await crowd.metric(name) for name in ("gptoss_running", "gptoss_waiting")]

    return asyncio.run(act())


@pytest.mark.parametrize("waiting", [256, 4])
def test_everybody_gets_an_answer_of_his_own_or_is_told_to_come_back(soak: Any, waiting: int) -> None:
    with served({"demo": demo_backend(max_sequences=8, max_waiting=waiting, prefix_bytes=16 << 20)}) as url:
        figures, taken = run(soak, url, seed=waiting)
    counts = figures.counts
    assert figures.failures == []
    assert taken == [0, 0]
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
