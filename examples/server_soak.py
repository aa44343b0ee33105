"""The server with the embedded model under load: whether it answers everybody, each with his own answer.

    python examples/server_soak.py                              # starts `gptoss-mlx serve demo` and measures its memory
    python examples/server_soak.py --requests 1000 --clients 16 --seed 7 --json
    python examples/server_soak.py --url http://127.0.0.1:8000  # a server that runs already, its memory unmeasured

Clients ask sums and capitals through all four interfaces, streamed or not. Some go away in the middle, some send what
is no request. An answer that is not the right one is asked for again when the server is quiet: if it comes again, the
model knows no better; if not, something has been mixed up. At the end one client and eight take turns, which shows what
sharing the passes is worth, and the processor time of the server is held against that of the engine alone: what is left
is the price of a token's way out over HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
import httpx
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gptoss_mlx.errors import GptOssError

Json = dict[str, Any]
LEAVING, SPOILED = 0.08, 0.06
"""Shares of clients that go away in the middle, and of requests that are none."""
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo",
            "Egypt": "Cairo", "Canada": "Ottawa", "India": "New Delhi", "Cuba": "Havana", "Fiji": "Suva"}  # fmt: skip
SPOILS: tuple[Callable[[Json], bytes], ...] = (
    lambda body: json.dumps({**body, "no_such_field": 1}).encode(),
    lambda body: json.dumps({**body, "temperature": "hot"}).encode(),
    lambda body: json.dumps(body).encode()[:-5],
    lambda body: b"",
    lambda body: b"[" * 5000,
)
STEP_20B = 0.113
"""Seconds of a decode step of the 20b model on the machine that the README's figures come from."""


class SoakError(GptOssError):
    """The server could not be started or reached."""


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
    delta = event.get("delta", "")
    if isinstance(delta, dict):
        return delta.get("text", delta.get("thinking", "")), "text" in delta
    return delta, event["type"] == "response.output_text.delta"


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
                try:
                    await self._send_any()
                except (httpx.HTTPError, ValueError, LookupError) as error:
                    self._fail(f"{type(error).__name__}: {error}")
                done(next(over))

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _send_any(self) -> None:
        draw = self._draw
        interface, asked, streamed = draw.choice(INTERFACES), Question.drawn(draw), draw.random() < 0.5
        fate = draw.random()
        tokens = await self._tokens(asked) if interface.path == "/v1/completions" else []
        body = {**interface.body(asked, tokens), "temperature": 0, "stream": streamed}
        if fate < SPOILED:
            await self._spoil(interface, body)
        elif fate < SPOILED + LEAVING:
            await self._leave(interface, body)
        else:
            await self._ask(interface, asked, body)

    async def _tokens(self, asked: Question) -> list[int]:
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
            try:
                await asyncio.wait_for(self._http.post(interface.path, json=body), self._draw.uniform(0.005, 0.2))
            except asyncio.TimeoutError:
                pass
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
        while await self.metric("gptoss_running") + await self.metric("gptoss_waiting"):
            if time.monotonic() > end:
                self._fail("places are still taken though nobody waits for an answer")
                return
            await asyncio.sleep(0.05)
        for interface, asked, said in self.figures.doubtful:
            tokens = await self._tokens(asked)
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

    async def metric(self, name: str) -> float:
        """A figure of `/metrics`, the sum of all models'."""
        text = (await self._http.get("/metrics")).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def events(response: httpx.Response) -> AsyncIterator[Json]:
    """The data of server-sent events."""
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


@dataclass(frozen=True)
class Server:
    """A server, with its process where this script has started it."""

    url: str
    process: psutil.Process | None = None

    def resident(self) -> int:
        """Bytes of it in memory."""
        return int(self.process.memory_info().rss) if self.process is not None else 0

    def processor_seconds(self) -> float:
        """Seconds that it has kept processors busy."""
        times = self.process.cpu_times() if self.process is not None else None
        return times.user + times.system if times is not None else 0.0


@contextmanager
def started() -> Iterator[Server]:
    """`gptoss-mlx serve demo` at a free port, with little memory for old prompts, so that it is soon full."""
    command = [sys.executable, "-m", "gptoss_mlx", "serve", "demo", "--port", "0", "--prefix-memory", "64"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            while not (found := re.search(r'"url": ?"([^"]+)/v1"', _text(log))):
                if process.poll() is not None:
                    raise SoakError(f"the server ended: {_text(log)[-300:]}")
                time.sleep(0.05)
            yield Server(found.group(1), psutil.Process(process.pid))
        finally:
            process.terminate()


def _text(log: Any) -> str:
    log.seek(0)
    return str(log.read())


async def soaked(server: Server, requests: int, clients: int, seed: int) -> Figures:
    """The figures of many requests at once."""
    marks = {max(1, requests * share // 100): f"{share} %" for share in (10, 50, 100)}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("requests", total=requests)
        async with Clients(server.url, seed) as crowd:

            def done(number: int) -> None:
                bar.update(task, completed=number)
                if number in marks and server.process is not None:
                    crowd.figures.memory[marks[number]] = server.resident()

            await crowd.soak(requests, clients, done)
            await crowd.settle()
            return crowd.figures


async def speeds(server: Server, seed: int, rounds: int = 3, requests: int = 64) -> tuple[float, float, float]:
    """Tokens per second of one client and of eight, and the median of their ratios; they take turns."""
    pairs = []
    async with Clients(server.url, seed) as crowd:
        await crowd.speed(1, 4)
        for _ in range(rounds):
            pairs.append((await crowd.speed(1, requests // 4), await crowd.speed(8, requests)))
    ones, eights = zip(*pairs, strict=True)
    return statistics.median(ones), statistics.median(eights), statistics.median(b / a for a, b in pairs)
