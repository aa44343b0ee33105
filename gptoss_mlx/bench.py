"""Speed of a model on this machine, held against what its memory can deliver.

Decoding reads every dense matrix and the chosen experts once per step, so its limit is the machine's reading speed
over these bytes. Both drift from minute to minute, on shared machines by a factor of two: each repetition measures
the reading speed next to its own figures, and only their ratio says how good the runtime is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from gptoss_mlx.convert import sources

from . import hub, kernels
from .cache import Cache
from .config import ModelConfig
from .engine import PREFILL_CHUNK
from .engine.prefill import prefill
from .errors import RequestError
from .machine import core_count, machine_name, machine_reading, peak_memory, reading_speed, thread_count
from .memory import Machine, kv_bytes
from .model import Model
from .weights import load_model

__all__ = [
    "BenchReport",
    "Point",
    "Settings",
    "Spread",
    "StepBytes",
    "bench",
    "curve_contexts",
    "reading_speed",
    "run_once",
    "step_bytes",
    "warm_up",
]

FIRST_CONTEXT = 256
LAST_CONTEXT = 4096
"""Where a curve begins, and where it ends unless asked otherwise, in tokens."""

Tokens = npt.NDArray[np.int32]
Report = Callable[[str, int, int], None]
"""Called between timed sections with what is going on, the work done and the work in all."""


@dataclass(frozen=True)
class Settings:
    """What to measure; all lengths in tokens.

    Attributes:
        prompt: length of the prefill.
        generate: steps of the decode.
        context: where the decode begins; None: right after the prompt.
        batch: sequences that run together.
        repeat: repetitions, each with an empty cache.
        seed: of the token ids.
    """

    prompt: int = 256
    generate: int = 32
    context: int | None = None
    batch: int = 1
    repeat: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt", "generate", "batch", "repeat", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name}: 1 or more expected, {value} found")
        if self.seed < 0:
            raise RequestError(f"seed: 0 or more expected, {self.seed} found")

    @property
    def start(self) -> int:
        """The context at which decoding begins."""
        return self.prompt if self.context is None else self.context

    def check(self, config: ModelConfig) -> None:
        """Hold the lengths against the model's context.

        Raises:
            RequestError: more than it holds.
        """
        name = "prompt" if self.context is None else "context"
        most = config.max_position_embeddings
        if self.start + self.generate > most:
            raise RequestError(
                f"{name}: at most {most} tokens with the generated ones are the model's context, "
                f"{self.start} + {self.generate} found"
            )
        if self.prompt > most:
            raise RequestError(f"prompt: at most {most} tokens are the model's context, {self.prompt} found")

    def tokens(self, vocabulary: int, length: int) -> Tokens:
        """Random ids (batch, length), the same for the same seed."""
        rng = np.random.default_rng(self.seed)
        return rng.integers(0, vocabulary, (self.batch, length)).astype(np.int32)


@dataclass(frozen=True)
class Spread:
    """The median of some repetitions, and their least and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))

    def keys(self, name: str) -> dict[str, float]:
        """As `name`, `name_min` and `name_max`."""
        return {name: self.median, f"{name}_min": self.low, f"{name}_max": self.high}


@dataclass(frozen=True)
class StepBytes:
    """Bytes that one decode step reads, all sequences of the batch together.

    Attributes:
        dense: attention, router, norms, output projection, and one embedding row per sequence.
        experts: those of the experts that the router picks.
        kv: keys and values, averaged over the steps; sliding layers read at most their window.
        experts_per_layer: how many experts these are: exact for one sequence; for several the expected number of
            distinct ones if every sequence chose evenly and on its own.
    """

    dense: float
    experts: float
    kv: float
    experts_per_layer: float

    @property
    def total(self) -> float:
        """All bytes of a step."""
        return self.dense + self.experts + self.kv


@dataclass(frozen=True)
class Point:
    """Decode speed at one context (tokens), in tokens/s of all sequences together."""

    context: int
    speed: Spread


@dataclass(frozen=True)
class BenchReport:
    """What `bench` found; speeds count the tokens of all sequences, bandwidths are in 1e9 bytes per second."""

    folder: Path
    settings: Settings
    load_s: float
    prefill: Spread
    decode: Spread
    step: StepBytes
    achieved: Spread
    reading: Spread
    share: Spread
    """Achieved over reading speed of the same repetition, in percent."""
    peak_memory: int
    mlx_peak_memory: int
    curve: tuple[Point, ...]
    device: str
    machine: str
    kernels: str
    threads: int

    @property
    def model(self) -> str:
        """What to call the model in front of a person."""
        return hub.display_name(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Every figure under a key that names its unit, as plain JSON values."""
        s, batch = self.settings, self.settings.batch
        return {
            "model": self.model, "folder": str(self.folder), "device": self.device, "machine": self.machine,
            "kernels": self.kernels, "threads": self.threads, "prompt_tokens": s.prompt,
            "generate_tokens": s.generate, "context_tokens": s.start, "batch_sequences": batch,
            "repetitions": s.repeat, "seed": s.seed, "load_s": self.load_s,
            **self.prefill.keys("prefill_tokens_per_s"), **self.decode.keys("decode_tokens_per_s"),
            "bytes_per_step": self.step.total, "bytes_per_token": self.step.total / batch,
            "dense_bytes_per_step": self.step.dense, "expert_bytes_per_step": self.step.experts,
            "kv_bytes_per_step": self.step.kv, "experts_per_layer": self.step.experts_per_layer,
            "experts_per_layer_is": "exact" if batch == 1 else "expected",
            **self.achieved.keys("achieved_gb_per_s"), **self.reading.keys("reading_gb_per_s"),
            **self.share.keys("achieved_percent_of_reading"),
            "peak_memory_bytes": self.peak_memory, "mlx_peak_memory_bytes": self.mlx_peak_memory,
            "curve": [{"context_tokens": p.context, **p.speed.keys("decode_tokens_per_s")} for p in self.curve],
        }  # fmt: skip


def bench(folder: Path, settings: Settings, *, curve: bool = False, report: Report = lambda *_: None) -> BenchReport:
    """Load a model and measure it.

    Args:
        folder: any that `load_model` takes.
        settings: what to measure.
        curve: whether to measure decode speed at several contexts too (see `curve_contexts`).
        report: told what is going on, never inside a timed section.

    Raises:
        RequestError: a length is beyond the model's context.
        ConfigError, CheckpointError: see `gptoss_mlx.weights.load_model`.
    """
    settings.check(ModelConfig.from_folder(sources.checkpoint_folder(folder)))
    report("loading", 0, 1)
    mx.reset_peak_memory()
    started = time.perf_counter()
    model, config = load_model(folder)
    load_s = time.perf_counter() - started
    warm_up(model, settings, report)
    runs = [_repetition(model, settings, number, report) for number in range(1, settings.repeat + 1)]
    points = measure_curve(model, settings, curve_contexts(settings, config), report) if curve else ()
    step = step_bytes(model, config, settings)
    achieved = [step.total * run.decode / settings.batch / 1e9 for run in runs]
    return BenchReport(
        folder, settings, load_s, Spread.of(run.prefill for run in runs), Spread.of(run.decode for run in runs),
        step, Spread.of(achieved), Spread.of(run.reading for run in runs),
        Spread.of(100 * got / run.reading for got, run in zip(achieved, runs, strict=True)),
        peak_memory(), mx.get_peak_memory(), points,
        kernels.device_name(), machine_name(), kernels.describe(), thread_count(),
    )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    reading: float
    prefill: float
    decode: float


def _repetition(model: Model, settings: Settings, number: int, report: Report) -> _Run:
    stage = f"repetition {number} of {settings.repeat}"
    report(f"{stage}: reading speed", 0, 1)
    reading = machine_reading(core_count())
    return _Run(reading, *run_once(model, settings, lambda done, total: report(stage, done, total)))


def warm_up(model: Model, settings: Settings, report: Report = lambda *_: None) -> None:
    """Run the prompt and two steps unmeasured, so that weights are mapped and kernels built."""
    report("warm-up", 0, 1)
    tokens, cache = settings.tokens(model.args.vocab_size, settings.prompt), model.make_cache()
    fill(model, tokens, cache)
    if settings.prompt + 2 <= model.args.max_position_embeddings:
        decode(model, tokens[:, :1].repeat(2, axis=1), cache)


def run_once(
    model: Model, settings: Settings, report: Callable[[int, int], None] = lambda *_: None
) -> tuple[float, float]:
    """One repetition with an empty cache.

    Args:
        model: any.
        settings: what to measure.
        report: told (tokens done, tokens in all) while the context is filled up to where decoding begins.

    Returns:
        Prefill and decode speed in tokens/s of all sequences together.
    """
    length = max(settings.prompt, settings.start + settings.generate)
    tokens = settings.tokens(model.args.vocab_size, length)
    report(0, length)
    cache = model.make_cache()
    prefilled = fill(model, tokens[:, : settings.prompt], cache)
    done = settings.prompt
    if settings.start < done:
        cache, done = model.make_cache(), 0
    if settings.start > done:
        first = done
        fill(model, tokens[:, first : settings.start], cache, lambda now, _: report(first + now, length))
    decoded = decode(model, tokens[:, settings.start : settings.start + settings.generate], cache)
    report(length, length)
    return settings.batch * settings.prompt / prefilled, settings.batch * settings.generate / decoded


def fill(model: Model, tokens: Tokens, cache: list[Cache], progress: Callable[[int, int], None] | None = None) -> float:
    """Append tokens (B, T) to a cache as the engine does; returns the seconds that took."""
    batch, length = tokens.shape
    rows, chunk = tokens.tolist(), max(1, PREFILL_CHUNK // batch)
    started = time.perf_counter()
    if batch == 1:
        mx.eval(prefill(model, rows[0], cache, progress=progress))
        return time.perf_counter() - started
    for first in range(0, length, chunk):
        logits = model(mx.array(tokens[:, first : first + chunk]), cache, positions=slice(-1, None))
        mx.eval(logits, [layer.state for layer in cache])
        if progress is not None:
            progress(min(first + chunk, length), length)
    return time.perf_counter() - started


def decode(model: Model, tokens: Tokens, cache: list[Cache]) -> float:
    """Run tokens (B, T) one position after the other, each up to its likeliest successor; returns the seconds.

    The ids are given, not fed back: the work does not depend on what a model happens to say.
    """
    steps = [mx.array(tokens[:, i : i + 1]) for i in range(tokens.shape[1])]
    mx.eval(steps)
    started = time.perf_counter()
    for step in steps:
        mx.eval(mx.argmax(model(step, cache, positions=slice(-1, None))[:, -1], axis=-1))
    return time.perf_counter() - started


def curve_contexts(settings: Settings, config: ModelConfig) -> tuple[int, ...]:
    """Contexts of a curve: doubling from 256 up to the asked one (4096 unasked), each beyond the last one's steps."""
    last = settings.context or min(LAST_CONTEXT, config.max_position_embeddings - settings.generate)
    found: list[int] = []
    context = FIRST_CONTEXT
    while context + settings.generate <= last:
        if not found or context >= found[-1] + settings.generate:
            found.append(context)
        context *= 2
    return (*found, last)


def measure_curve(model: Model, settings: Settings, contexts: Sequence[int], report: Report) -> tuple[Point, ...]:
    """Decode speed at ascending contexts; each repetition passes all of them with one growing cache."""
    length = contexts[-1] + settings.generate
    tokens = settings.tokens(model.args.vocab_size, length)
    speeds: dict[int, list[float]] = {context: [] for context in contexts}
    for number in range(1, settings.repeat + 1):
        stage = f"curve, repetition {number} of {settings.repeat}"
        cache, done = model.make_cache(), 0
        for context in contexts:
            report(stage, done, length)
            if context > done:
                fill(model, tokens[:, done:context], cache)
            done = context + settings.generate
            seconds = decode(model, tokens[:, context:done], cache)
            speeds[context].append(settings.batch * settings.generate / seconds)
        report(stage, length, length)
    return tuple(Point(context, Spread.of(found)) for context, found in speeds.items())


def step_bytes(model: Model, config: ModelConfig, settings: Settings) -> StepBytes:
    """Bytes that a decode step reads, from the model's arrays and the settings (see `StepBytes`)."""
    dense = experts = 0.0
    leaves: Any = tree_flatten(model.parameters())
    for name, array in leaves:
        if ".experts." in name:
            experts += array.nbytes
        elif "embed_tokens" in name:
            dense += array.nbytes / array.shape[0] * settings.batch
        else:
            dense += array.nbytes
    chosen = distinct_experts(config, settings.batch)
    width = Machine.measure().kv_width
    seen = [kv_bytes(config, settings.start + i + 1, width) for i in range(settings.generate)]
    kv = statistics.fmean(seen) * settings.batch
    return StepBytes(dense, experts * chosen / config.num_local_experts, kv, chosen)


def distinct_experts(config: ModelConfig, batch: int) -> float:
    """Experts of a layer that a step of `batch` tokens touches: E (1 - (1 - k/E)^B) if all choose evenly, alone."""
    count, picked = config.num_local_experts, config.num_experts_per_tok
    return count * (1 - (1 - picked / count) ** batch) if batch > 1 else float(picked)
