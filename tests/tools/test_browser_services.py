"""Search services against a stand-in: what they are asked, what is made of their answers, and that keys stay secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from browser_server import Reply, Server, serving

from gptoss_mlx.tools.browser import Brave, BrowserError, BrowserTool, Exa, SearchResult, SearchService, Tavily, Web

SERVICES: list[type[SearchService]] = [Exa, Brave, Tavily]
KEY = "key-123"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def answering(server: Server, answer: Any, status: int = 200) -> None:
    server.replies["/search"] = Reply(json.dumps(answer).encode(), "application/json", status)


def made(kind: type[SearchService], server: Server) -> SearchService:
    return kind(KEY, endpoint=f"{server.url}/search", web=Web(allow_private=True))


def search(service: SearchService, topn: int = 3) -> list[SearchResult]:
    return asyncio.run(service.search("tide & Brest", topn))


def test_exa(server: Server) -> None:
    found = [
        {"url": "https://a.example/", "title": "A", "highlights": ["one <b>", "two"]},
        {"url": "https://b.example/"},
    ]
    answering(server, {"results": found})
    assert search(made(Exa, server)) == [
        SearchResult("https://a.example/", "A", "one <b> … two"),
        SearchResult("https://b.example/", "", ""),
    ]
    (asked,) = server.asked
    assert (asked.method, asked.headers["x-api-key"]) == ("POST", KEY)
    assert json.loads(asked.body) == {"query": "tide & Brest", "numResults": 3, "contents": {"highlights": True}}


def test_brave(server: Server) -> None:
    found = {"url": "https://a.example/", "title": "A &amp; B", "description": "the <strong>tide</strong> rises"}
    answering(server, {"web": {"results": [found]}})
    assert search(made(Brave, server)) == [SearchResult("https://a.example/", "A & B", "the tide rises")]
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/search?q=tide+%26+Brest&count=3")
    assert asked.headers["X-Subscription-Token"] == KEY


def test_tavily(server: Server) -> None:
    answering(server, {"results": [{"url": "https://a.example/", "title": "A", "content": "a < b", "score": 0.5}] * 5})
    assert search(made(Tavily, server)) == [SearchResult("https://a.example/", "A", "a < b")] * 3
    (asked,) = server.asked
    assert (asked.method, asked.headers["Authorization"]) == ("POST", f"Bearer {KEY}")
    assert json.loads(asked.body) == {"query": "tide & Brest", "max_results": 3}


@pytest.mark.parametrize("kind", SERVICES)
def test_the_key_comes_from_the_environment_or_is_asked_for(
    kind: type[SearchService], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(kind.variable, raising=False)
    with pytest.raises(BrowserError, match=f"{kind.__name__} needs an API key; set {kind.variable} or pass key="):
        kind()
    with pytest.raises(BrowserError, match="printable ASCII") as refused:
        kind("sécret\nkey")
    assert "cret" not in str(refused.value)
    monkeypatch.setenv(kind.variable, " from-environment\n")
    answering(server, {})
    assert search(kind(endpoint=f"{server.url}/search")) == []
    assert any(value.endswith("from-environment") for value in server.asked[0].headers.values())


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refuses the API key; check [A-Z]+_API_KEY$"),
        (429, "answers 429 Too Many Requests"),
        (302, "answers 302 Found"),  # a key must not travel on
        (599, "answers 599$"),
    ],
)
def test_refusals_are_told_in_one_line(kind: type[SearchService], server: Server, status: int, message: str) -> None:
    server.replies["/search"] = Reply(b"{}", status=status, headers={"Location": f"{server.url}/elsewhere"})
    with pytest.raises(BrowserError, match=message) as refused:
        search(made(kind, server))
    assert KEY not in str(refused.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"results": 3, "web": [1]}, {"results": [1, {}, {"url": 2}], "web": {"results": [None]}}],
)
def test_answers_without_results_give_none(kind: type[SearchService], server: Server, answer: Any) -> None:
    answering(server, answer)
    assert search(made(kind, server)) == []


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", b"[" * 100_000])
def test_answers_that_are_no_json(server: Server, body: bytes) -> None:
    server.replies["/search"] = Reply(body)
    with pytest.raises(BrowserError, match="Tavily answers something else than its JSON"):
        search(made(Tavily, server))


def test_results_are_opened_over_plain_http(server: Server) -> None:
    answering(server, {"results": [{"url": f"{server.url}/page", "title": "A", "content": "the tide"}]})
    server.replies["/page"] = Reply(b"<p>About the tide at Brest")
    tool = BrowserTool(made(Tavily, server))

    async def flow() -> str:
        await tool.run("browser.search", '{"query": "tide"}')
        opened = await tool.run("browser.open", '{"id": 0}')
        await tool.close()
        return opened.text

    assert asyncio.run(flow()).endswith("L0: About the tide at Brest")
