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
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import click
import httpx
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from soak_clients import Clients, Figures, Json, Question

import gptoss_mlx
from gptoss_mlx import GptOss, SamplingParams
from gptoss_mlx.engine import Request

STEP_20B = 0.113
"""Seconds of a decode step of the 20b model on the machine that the README's figures come from."""


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
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            while not (found := re.search(r'"url": ?"([^"]+)/v1"', written := _beginning(log.fileno()))):
                if process.poll() is not None:
                    raise click.ClickException(f"the server ended: {written[-300:]}")
                time.sleep(0.05)
            yield Server(found.group(1), psutil.Process(process.pid))
        finally:
            process.terminate()


def _beginning(log: int) -> str:
    """What a file begins with; its position, which the server shares, stays where it is."""
    return os.pread(log, 1 << 16, 0).decode("utf-8", "replace")


async def soaked(server: Server, requests: int, clients: int, seed: int) -> tuple[Figures, float]:
    """The figures of many requests at once, and how many seconds they took."""
    marks = {max(1, requests * share // 100): f"{share} %" for share in (10, 50, 100)}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("requests", total=requests)
        async with Clients(server.url, seed) as crowd:

            def done(number: int) -> None:
                bar.update(task, completed=number)
                if number in marks and server.process is not None:
                    crowd.figures.memory[marks[number]] = server.resident()

            before = time.perf_counter()
            await crowd.soak(requests, clients, done)
            seconds = time.perf_counter() - before
            await crowd.settle()
            return crowd.figures, seconds


async def speeds(server: Server, seed: int, rounds: int = 3, requests: int = 64) -> tuple[float, float, float]:
    """Tokens per second of one client and of eight, and the median of their ratios; they take turns."""
    async with Clients(server.url, seed) as crowd:
        await crowd.speed(1, 4)
        pairs = [(await crowd.speed(1, requests // 4), await crowd.speed(8, requests)) for _ in range(rounds)]
    ones, eights = zip(*pairs, strict=True)
    return statistics.median(ones), statistics.median(eights), statistics.median(b / a for a, b in pairs)


async def way_out(server: Server, model: GptOss, count: int = 1000, rounds: int = 5) -> float:
    """Processor seconds that a token costs in the server beyond what it costs in the engine alone; they take turns.

    Args:
        server: started by this script.
        model: the same model, in this process.
        count: tokens of a reply. It is long, so that what a request costs once counts for nothing.
        rounds: of which the median counts.
    """
    asked, tokenizer = Question("Tell me.", ""), model.tokenizer
    forbidden = dict.fromkeys((*tokenizer.stop_tokens, tokenizer.end, tokenizer.start), -100.0)
    body = {
        "messages": asked.messages,
        "temperature": 0,
        "max_tokens": count,
        "logit_bias": {str(token): bias for token, bias in forbidden.items()},
    }
    found = []
    async with Clients(server.url, 0) as crowd:
        prompt = await crowd.tokens(asked)
        for _ in range(1 + rounds):
            before = server.processor_seconds()
            await crowd.endless(body)
            served, before = server.processor_seconds() - before, time.process_time()
            sampling = SamplingParams(temperature=0, logit_bias=forbidden)
            for _ in model.engine.generate(Request(prompt, sampling, count)):
                pass
            found.append((served - (time.process_time() - before)) / count)
    return statistics.median(found[1:])


@click.command()
@click.option("--requests", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--clients", type=click.IntRange(1), default=32, show_default=True, help="At the same time.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what they ask and do.")
@click.option("--url", help="A server with the embedded model that runs already, without /v1.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(requests: int, clients: int, seed: int, url: str | None, as_json: bool) -> None:
    """Put a server with the embedded model under load; exits with 1 if anything went wrong."""
    try:
        with nullcontext(Server(url)) if url else started() as server:
            figures, seconds = asyncio.run(soaked(server, requests, clients, seed))
            told = {**report(figures, requests / seconds), **asyncio.run(comparisons(server, seed))}
    except httpx.TransportError as error:
        raise click.ClickException(f"{url or 'the server'} cannot be reached: {error}") from None
    if as_json:
        print(json.dumps(told))
    else:
        table = Table("", "", title=f"{requests} requests of {clients} clients", show_header=False)
        for name, value in told.items():
            table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
        Console().print(table)
    for line in figures.failures[:20]:
        print(line, file=sys.stderr)
    sys.exit(1 if figures.failures else 0)


def report(figures: Figures, speed: float) -> Json:
    """What the soak was like, at so many requests per second."""
    first = sorted(figures.first)
    told: Json = {**dict(sorted(figures.counts.items())), "places taken at the end": figures.taken}
    told["requests per second"] = speed
    if first:
        told["time to first token, p50, ms"] = 1e3 * first[len(first) // 2]
        told["time to first token, p99, ms"] = 1e3 * first[len(first) * 99 // 100]
    return {**told, **{f"memory at {mark}, MB": size / 1e6 for mark, size in figures.memory.items()}}


async def comparisons(server: Server, seed: int) -> Json:
    """Eight clients against one, and HTTP against the engine alone."""
    one, eight, ratio = await speeds(server, seed)
    told = {"one client, tokens/s": one, "eight clients, tokens/s": eight, "eight against one": ratio}
    if server.process is None:
        return told
    cost = await way_out(server, gptoss_mlx.load())
    return {**told, "HTTP per token, ms": 1e3 * cost, "of a 20b step, %": 100 * cost / STEP_20B}


if __name__ == "__main__":
    main()
