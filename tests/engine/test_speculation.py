"""Speculative sampling draws from the model's own distribution, and greedy output stays what it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import Shape, build
from gptoss_mlx.cache import FullCache
from gptoss_mlx.engine import Engine, EngineOptions, Request, drafts
from gptoss_mlx.engine.sequence import Sequence
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.weights import load_model

VOCABULARY = 128
PLAIN = EngineOptions(prefix_bytes=0, speculate=False)
DRAFTING = EngineOptions(prefix_bytes=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(build(tmp_path_factory.mktemp("tiny"), Shape(seed=5)))[0]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft wherever anything can be looked up, right or wrong."""
    monkeypatch.setattr(drafts, "MARGIN", 0.0)
    monkeypatch.setattr(drafts, "SHORTEST", 2)
    monkeypatch.setattr(drafts.Costs, "of", lambda self, rows: 1.0)


def answers(model: Model, options: EngineOptions, seeds: range, temperature: float) -> tuple[list[list[int]], int]:
    """Five tokens per seed, of few that are likely, and how many drafts were accepted in all."""
    engine, found, accepted = Engine(model, VOCABULARY, (), options), [], 0
    for seed in seeds:
        sampling = SamplingParams(
            temperature=temperature, top_k=4, seed=seed, logit_bias=dict.fromkeys((7, 8, 9), 60.0)
        )
        sequence = engine.submit(Request([7, 8, 9, 7, 8, 9, 7, 8], sampling, 5))
        found.append([step.token for step in engine.outputs(sequence)])
        accepted += sequence.figures.accepted_tokens
    return found, accepted


@pytest.mark.parametrize("temperature", [0.0, 3.0, 8.0])
def test_the_same_seed_gives_the_same_tokens(model: Model, temperature: float) -> None:
    drafted, _ = answers(model, DRAFTING, range(60), temperature)
    assert drafted == answers(model, PLAIN, range(60), temperature)[0]


def test_other_seeds_give_the_same_distribution(model: Model) -> None:
    """Two independent samples, one drawn with drafts: chi-square over the texts that occur."""
    drafted, accepted = answers(model, DRAFTING, range(1000, 1600), 5.0)
    plain, _ = answers(model, PLAIN, range(5000, 5600), 5.0)
    assert accepted > 0
    for length in (2, 3):
        first, second = (Counter(tuple(tokens[:length]) for tokens in texts) for texts in (drafted, plain))
        common = [text for text in first | second if first[text] + second[text] >= 10]
        counts = np.array([[sample[text] for text in common] for sample in (first, second)])
        assert chi_square(counts) < threshold(len(common) - 1)


def test_the_test_would_notice(model: Model) -> None:
    plain, _ = answers(model, PLAIN, range(600), 5.0)
    other, _ = answers(model, PLAIN, range(600, 1200), 2.0)
    first, second = (Counter(tuple(tokens[:2]) for tokens in texts) for texts in (plain, other))
    common = [text for text in first | second if first[text] + second[text] >= 10]
    assert chi_square(np.array([[s[t] for t in common] for s in (first, second)])) > threshold(len(common) - 1)


def test_drafting_begins_where_a_text_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where tokens are chosen ahead, and nothing has been drafted yet."""
    monkeypatch.undo()
    monkeypatch.setattr(drafts.Costs, "of", lambda self, rows: 1 + 0.15 * rows)  # pays only when guesses are good
    repetitive = load_model(build(tmp_path, Shape(seed=6)))[0]
    request = Request([1, 2, 3], SamplingParams(temperature=0), 300)
    engine = Engine(repetitive, VOCABULARY, (), DRAFTING)
    sequence = engine.submit(request)
    found = list(engine.outputs(sequence))
    assert found == list(Engine(repetitive, VOCABULARY, (), PLAIN).generate(request))
    assert sequence.figures.accepted_tokens > 10


def test_every_right_guess_counts_as_accepted() -> None:
    """Also the one that ends the sequence."""
    sequence = Sequence(Request([1], SamplingParams(temperature=0)), VOCABULARY, 50, {7})
    sequence.caches = [FullCache()]
    sequence.caches[0].update_and_fetch(*(mx.zeros((1, 1, 3, 4)) for _ in range(2)))
    sequence.take(list(np.eye(VOCABULARY, dtype=np.float32)[[5, 7, 9]]), [5, 7])
    assert [step.token for step in sequence.outbox] == [5, 7]
    assert (sequence.finished, sequence.figures.accepted_tokens, sequence.offset) == (True, 2, 2)


def chi_square(counts: NDArray[np.int64]) -> float:
    """Of two samples' counts (2, classes) against their common frequencies."""
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def threshold(freedom: int) -> float:
    """What a chi-square variable exceeds about once in 30,000 times (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + 4.0 * spread**0.5) ** 3)
