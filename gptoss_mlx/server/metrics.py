"""What Prometheus can ask: requests, sequences, tokens, waiting times, and how much of prompts was remembered."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gptoss_mlx.events import Done, Event, Usage
from gptoss_mlx.runtime import Token

from .backend import Backend, Stream

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The figures of one server.

    Args:
        backends: whose sequences are told.
    """

    def __init__(self, backends: Iterable[Backend]) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests that have been answered.", "route", "status")
        self._replies = self._counter("replies", "Replies of models, by how they ended.", "model", "finish_reason")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self._cached = self._counter("prompt_tokens_cached", "Those that had been read for an earlier one.", "model")
        self._completion = self._counter("completion_tokens", "Tokens that models have written.", "model")
        self._reasoning = self._counter("reasoning_tokens", "Those of them that were thoughts.", "model")
        self._first = self._histogram("time_to_first_token_seconds", "From the request to its first token.", "model")
        self._duration = self._histogram("request_seconds", "From a request to the end of its answer.", "route")
        for name, text in (
            ("running", "Sequences that the engine works on."),
            ("waiting", "Sequences that wait for a place."),
            ("loaded", "Whether the weights are in memory."),
        ):
            gauge = Gauge(f"gptoss_{name}", text, ["model"], registry=self.registry)
            for backend in backends:
                gauge.labels(backend.model_id).set_function(partial(_load, backend, name))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gptoss_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"gptoss_{name}", text, labels, registry=self.registry, buckets=SECONDS)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def watch_reply(self, model: str, stream: Stream[Event]) -> Stream[Event]:
        """Count what a reply brings; returns the stream."""
        watcher = _Watcher(self, model)
        return stream.watch(watcher.see_event, watcher.end)

    def watch_completion(self, model: str, prompt: int, stream: Stream[Token]) -> Stream[Token]:
        """Count what a completion of so many tokens brings; returns the stream."""
        watcher = _Watcher(self, model, prompt)
        return stream.watch(watcher.see_token, watcher.end)

    def record_reply(self, model: str, usage: Usage, finish_reason: str) -> None:
        """Count a reply that is over."""
        self._replies.labels(model, finish_reason).inc()
        self._prompt.labels(model).inc(usage.prompt_tokens)
        self._cached.labels(model).inc(usage.cached_tokens)
        self._completion.labels(model).inc(usage.completion_tokens)
        self._reasoning.labels(model).inc(usage.reasoning_tokens)

    def record_first(self, model: str, seconds: float) -> None:
        """Count the time that a reply's first token took."""
        self._first.labels(model).observe(seconds)


def _load(backend: Backend, name: str) -> float:
    return float(getattr(backend.load, name))


class _Watcher:
    """Follows one reply. One that ends without its last event was given up by its client, or failed."""

    def __init__(self, metrics: Metrics, model: str, prompt: int = 0) -> None:
        self._metrics = metrics
        self._model = model
        self._usage = Usage(prompt_tokens=prompt)
        self._reason = "aborted"
        self._started = time.perf_counter()
        self._seen = False

    def see_event(self, event: Event) -> None:
        self._see_first()
        if isinstance(event, Done):
            self._usage, self._reason = event.reply.usage, event.reply.finish_reason

    def see_token(self, token: Token) -> None:
        self._see_first()
        self._usage += Usage(completion_tokens=1)
        self._reason = "stop" if token.stopped else "length"

    def _see_first(self) -> None:
        if not self._seen:
            self._seen = True
            self._metrics.record_first(self._model, time.perf_counter() - self._started)

    def end(self) -> None:
        self._metrics.record_reply(self._model, self._usage, self._reason)
