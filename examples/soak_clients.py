"""The clients of `server_soak.py`: what they ask through which interface, and what they make of the answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]
LEAVING, SPOILED = 0.08, 0.06
"""Shares of clients that go away in the middle, and of requests that are none."""
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo",
            "Egypt": "Cairo", "Canada": "Ottawa", "India": "New Delhi", "Cuba": "Havana", "Fiji": "Suva"}  # fmt: skip
SPOILS: tuple[Callable[[Json], bytes], ...] = (
    lambda body: json.dumps({**body, "no_such_field": 1}).encode(),
    lambda body: json.dumps({**body, "temperature": "hot"}).encode(),
    lambda body: json.dumps(body).encode()[:-5],
    lambda _: b"",
    lambda _: b"[" * 5000,
)


@dataclass(frozen=True)
class Question:
    """A question, and how the embedded model answers it."""

    text: str
    answer: str

    @classmethod
    def drawn(cls, draw: random.Random) -> Question:
        """One of about half a million."""
        if draw.random() < 0.1:
            country = draw.choice(list(CAPITALS))
            return cls(f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}.")
        first, second = draw.randint(1, 999), draw.randint(1, 999)
        return cls(f"What is {first} + {second}?", f"{first} + {second} = {first + second}.")

    @property
    def messages(self) -> list[Json]:
        """As a conversation."""
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Interface:
    """One of the server's interfaces: how it is asked, and where the text is."""

    path: str
    body: Callable[[Question, list[int]], Json]
    answer: Callable[[Json], str]
    """In a whole reply."""
    piece: Callable[[Json], tuple[str, bool]]
    """In an event of a stream: the text, and whether it is the answer's (or thoughts')."""


def _chat_piece(event: Json) -> tuple[str, bool]:
    delta = event["choices"][0]["delta"]
    thought = delta.get("reasoning_content", "")
    return thought or delta.get("content", ""), not thought


def _event_piece(event: Json) -> tuple[str, bool]:
    """Of Responses and of Messages, whose deltas have different names."""
    delta: Any = event.get("delta", "")
    if isinstance(delta, dict):
        return str(delta.get("text", delta.get("thinking", ""))), "text" in delta
    return str(delta), event["type"] == "response.output_text.delta"


def _output_text(reply: Json) -> str:
    return "".join(part["text"] for item in reply["output"] if item["type"] == "message" for part in item["content"])


INTERFACES = (
    Interface(
        "/v1/chat/completions",
        lambda asked, _: {"messages": asked.messages},
        lambda reply: str(reply["choices"][0]["message"]["content"]),
        _chat_piece,
    ),
    Interface("/v1/responses", lambda asked, _: {"input": asked.text}, _output_text, _event_piece),
    Interface(
        "/v1/messages",
        lambda asked, _: {"messages": asked.messages, "max_tokens": 2048, "thinking": {"type": "adaptive"}},
        lambda reply: "".join(block["text"] for block in reply["content"] if block["type"] == "text"),
        _event_piece,
    ),
    Interface(
        "/v1/completions",
        lambda _, tokens: {"prompt": tokens, "max_tokens": 256},
        lambda reply: str(reply["choices"][0]["text"]),
        lambda event: (event["choices"][0]["text"], True),
    ),
)
CHAT = INTERFACES[0]


@dataclass
class Figures:
    """What came of a run."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    """Seconds to the first piece of text of each stream."""
    doubtful: list[tuple[Interface, Question, str]] = field(default_factory=list)
    """Answers that were not the right ones."""
    memory: dict[str, int] = field(default_factory=dict)
    """Resident bytes of the server after so many percent of the requests."""
    taken: int = 0
    """Places that the server thinks are taken when everybody has been answered or has gone."""
    failures: list[str] = field(default_factory=list)
    """What should not have happened, at most one line each."""


class Clients:
    """Many clients of one server.

    Args:
        url: its address.
        seed: what they ask.
    """

    def __init__(self, url: str, seed: int) -> None:
        self._draw = random.Random(seed)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=120, limits=limits)
        self.figures = Figures()

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def soak(self, requests: int, clients: int, done: Callable[[int], None]) -> None:
        """Send so many requests, `done` being told how many are over."""
        numbers = iter(range(requests))
        over = itertools.count(1)

        async def client() -> None:
            for _ in numbers:
                await self._send_any()
                done(next(over))

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _send_any(self) -> None:
        draw = self._draw
        interface, asked, streamed = draw.choice(INTERFACES), Question.drawn(draw), draw.random() < 0.5
        fate = draw.random()
        act = "spoil" if fate < SPOILED else "leave" if fate < SPOILED + LEAVING else "ask"
        try:
            tokens = await self.tokens(asked) if interface.path == "/v1/completions" else []
            body = {**interface.body(asked, tokens), "temperature": 0, "stream": streamed}
            if act == "spoil":
                await self._spoil(interface, body)
            elif act == "leave":
                await self._leave(interface, body)
            else:
                await self._ask(interface, asked, body)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            self._fail(f"{interface.path}: {act}, streamed: {streamed}: {type(error).__name__} {error}")

    async def tokens(self, asked: Question) -> list[int]:
        """The prompt of a question."""
        told = await self._http.post("/tokenize", json={"messages": asked.messages})
        told.raise_for_status()
        return list(told.json()["tokens"])

    async def _ask(self, interface: Interface, asked: Question, body: Json) -> None:
        status, said = await (self._stream if body["stream"] else self._whole)(interface, body)
        self.figures.counts[f"{status} {'streamed' if body['stream'] else 'whole'}"] += 1
        if status == 200 and not said.endswith(asked.answer):
            self.figures.doubtful.append((interface, asked, said))
        elif status not in (200, 429):
            self._fail(f"{interface.path}: {status} {said[:200]}")

    async def _whole(self, interface: Interface, body: Json) -> tuple[int, str]:
        response = await self._http.post(interface.path, json=body)
        return response.status_code, interface.answer(response.json()) if response.is_success else response.text

    async def _stream(self, interface: Interface, body: Json) -> tuple[int, str]:
        pieces, started, first = [], time.perf_counter(), None
        async with self._http.stream("POST", interface.path, json=body) as response:
            if not response.is_success:
                return response.status_code, (await response.aread()).decode()
            async for event in events(response):
                text, is_answer = interface.piece(event)
                if text and first is None:
                    first = time.perf_counter() - started
                    self.figures.first.append(first)
                if is_answer:
                    pieces.append(text)
        return response.status_code, "".join(pieces)

    async def _leave(self, interface: Interface, body: Json) -> None:
        """Go away in the middle: of a stream after some events, else after some milliseconds."""
        self.figures.counts["gone away"] += 1
        if not body["stream"]:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._http.post(interface.path, json=body), self._draw.uniform(0.005, 0.2))
            return
        left = self._draw.randint(0, 12)
        async with self._http.stream("POST", interface.path, json=body) as response:
            async for _ in events(response):
                left -= 1
                if left < 0:
                    return

    async def _spoil(self, interface: Interface, body: Json) -> None:
        content = self._draw.choice(SPOILS)(body)
        response = await self._http.post(interface.path, content=content)
        self.figures.counts[f"{response.status_code} for what is no request"] += 1
        if response.status_code != 400:
            self._fail(f"{interface.path}: 400 expected, {response.status_code} found for {content[:200]!r}")

    def _fail(self, line: str) -> None:
        self.figures.counts["failed"] += 1
        self.figures.failures.append(line)

    async def settle(self, seconds: float = 10) -> None:
        """Wait until the server has nothing to do, then ask again what was answered wrongly."""
        end = time.monotonic() + seconds
        while taken := await self.metric("gptoss_running") + await self.metric("gptoss_waiting"):
            if time.monotonic() > end:
                self.figures.taken = int(taken)
                self._fail(f"{taken:.0f} places are still taken though nobody waits for an answer")
                return
            await asyncio.sleep(0.05)
        for interface, asked, said in self.figures.doubtful:
            tokens = await self.tokens(asked)
            body = {**interface.body(asked, tokens), "temperature": 0, "stream": False}
            _, again = await self._whole(interface, body)
            mistaken = again == said
            self.figures.counts["mistakes of the model" if mistaken else "mixed up"] += 1
            if not mistaken:
                self._fail(f"{interface.path}: {asked.text!r} had {said!r}, and when it was quiet {again!r}")

    async def speed(self, clients: int, requests: int) -> float:
        """Tokens per second of clients that stream one question after the other."""
        before, started = await self.metric("gptoss_completion_tokens_total"), time.perf_counter()
        numbers = iter(range(requests))

        async def client() -> None:
            for _ in numbers:
                asked = Question.drawn(self._draw)
                await self._ask(CHAT, asked, {"messages": asked.messages, "temperature": 0, "stream": True})

        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.perf_counter() - started
        return (await self.metric("gptoss_completion_tokens_total") - before) / seconds

    async def endless(self, body: Json) -> None:
        """Read a stream of chat to its end, without a look at what it says."""
        async with self._http.stream("POST", CHAT.path, json={**body, "stream": True}) as response:
            response.raise_for_status()
            async for _ in response.aiter_raw():
                pass

    async def metric(self, name: str) -> float:
        """A figure of `/metrics`, the sum of all models'."""
        text = (await self._http.get("/metrics")).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def events(response: httpx.Response) -> AsyncIterator[Json]:
    """The data of server-sent events."""
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
