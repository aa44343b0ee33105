"""Engines of tiny random models, requests for them, and what comes out of one that runs by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import strategies as st

from checkpoints import Shape, build
from gptoss_mlx import kernels
from gptoss_mlx.engine import Engine, EngineOptions, Generated, Request, prefill, scheduler
from gptoss_mlx.engine.masks import Mask
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import Sampler, SamplingParams
from gptoss_mlx.weights import load_model

VOCABULARY = 128
ALONE = EngineOptions(prefix_bytes=0, speculate=False)
MANY = EngineOptions(prefix_bytes=1 << 30, speculate=True, max_sequences=3)


@cache
def tiny(seed: int) -> Model:
    """A random model whose heads have codes."""
    with tempfile.TemporaryDirectory() as folder:
        return load_model(build(Path(folder), Shape(seed=seed, head_dim=32)))[0]


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that prompts of a few dozen tokens are read in several steps."""
    monkeypatch.setattr(scheduler, "SMALLEST_CHUNK", 7)
    monkeypatch.setattr(scheduler, "PREFILL_CHUNK", 19)
    monkeypatch.setattr(scheduler, "CHECKPOINT", 10)


def engine(model: Model, options: EngineOptions | None = None, stop: Sequence[int] = ()) -> Engine:
    return Engine(model, VOCABULARY, stop, options)


def tokens(steps: Iterator[Generated]) -> list[int]:
    return [step.token for step in steps]


def plain_loop(model: Model, request: Request) -> list[int]:
    """The definition: one pass per token over all that came before, nothing kept but the caches."""
    caches, found = model.make_cache(), list(request.prompt)
    logits = prefill(model, found, caches)
    sampler = Sampler(request.sampling, VOCABULARY)
    for _ in range(request.max_tokens or 0):
        found.append(sampler.choose(np.array(logits.astype(mx.float32)), found, len(request.prompt)))
        with kernels.rounding("step"):
            logits = model(mx.array([found[-1:]]), caches)[0, -1]
    return found[len(request.prompt) :]


PROMPTS = st.lists(st.integers(0, 3), min_size=1, max_size=70)
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    seed=st.integers(0, 50),
    top_p=st.sampled_from([1.0, 0.8]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)
REQUESTS = st.builds(
    Request,
    prompt=PROMPTS,
    sampling=SAMPLINGS,
    max_tokens=st.integers(1, 30),
    boundaries=st.lists(st.integers(1, 60), max_size=3),
)


class Alternating:
    """Allows one of two tokens in turn, and leaves no choice after the first."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def mask(self) -> Mask:
        mask = np.zeros(4, np.uint32)
        wanted = 40 + len(self.taken) % 2
        mask[wanted // 32] = 1 << (wanted % 32)
        return mask

    def accept(self, token: int) -> None:
        self.taken.append(token)

    def forced(self) -> list[int]:
        return [41, 40, 41] if len(self.taken) == 1 else []

    def rollback(self, count: int) -> None:
        del self.taken[len(self.taken) - count :]

    def idle(self) -> int:
        return 0
