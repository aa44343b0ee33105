"""SamplingParams and the Sampler: ranges, determinism, filters, and the ids that never come out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.engine.sequence import number
from gptoss_mlx.errors import GptOssError, RequestError
from gptoss_mlx.sampling import Sampler, SamplingParams


def draws(params: SamplingParams, logits: list[float], count: int, size: int | None = None) -> list[int]:
    sampler = Sampler(params, size or len(logits))
    history: list[int] = []
    for _ in range(count):
        history.append(sampler.choose(np.array(logits, np.float32), history, 0))
    return history


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 1.1},
        {"repetition_penalty": 0.0}, {"repetition_context": 0}, {"seed": -1}, {"stop": ("",)},
        {"temperature": "hot"}, {"temperature": float("nan")}, {"top_p": None}, {"top_k": 1.5}, {"seed": 1.5},
        {"repetition_penalty": float("inf")}, {"repetition_penalty": 1e-40}, {"repetition_context": 2.5},
        {"presence_penalty": float("nan")}, {"stop": (1,)}, {"stop": 1}, {"logit_bias": {3: float("nan")}},
        {"logit_bias": {3: float("inf")}}, {"logit_bias": {"3": 1.0}}, {"logit_bias": {3: "1"}}, {"logit_bias": [3]},
    ],
)  # fmt: skip
def test_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(bad))):
        SamplingParams(**bad)


def test_defaults_are_the_recommended_ones() -> None:
    assert (SamplingParams().temperature, SamplingParams().top_p, SamplingParams().top_k) == (1.0, 1.0, 0)


def test_one_stop_text_may_stand_alone() -> None:
    assert SamplingParams(stop="END").stop == ("END",)


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=50, unique=True))
def test_temperature_zero_takes_the_likeliest(logits: list[float]) -> None:
    assert draws(SamplingParams(temperature=0), logits, 1) == [int(np.argmax(logits))]


@given(st.integers(0, 2**64 - 1))
def test_a_seed_repeats(seed: int) -> None:
    params = SamplingParams(seed=seed)
    first = draws(params, [0.0] * 40, 12)
    mx.random.normal((3,))  # another user of MLX's global state
    assert draws(params, [0.0] * 40, 12) == first


def test_without_a_seed_draws_differ() -> None:
    assert draws(SamplingParams(), [0.0] * 1000, 20) != draws(SamplingParams(), [0.0] * 1000, 20)


def test_frequencies_follow_the_softmax() -> None:
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    counts = Counter(draws(SamplingParams(seed=1), logits.tolist(), 4000))
    for token, share in enumerate([0.5, 0.3, 0.15, 0.05]):
        assert abs(counts[token] / 4000 - share) < 0.04


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.7}, {0, 1}), ({"min_p": 0.25}, {0, 1, 2}), ({"top_k": 9}, {0, 1, 2, 3})],
)
def test_filters(filters: dict[str, Any], allowed: set[int]) -> None:
    logits = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    assert set(draws(SamplingParams(seed=3, **filters), logits, 300)) == allowed


@given(st.integers(1, 30))
def test_ids_beyond_the_tokenizer_never_come_out(size: int) -> None:
    logits = [0.0] * size + [50.0] * 10
    assert max(draws(SamplingParams(seed=size), logits, 30, size)) < size
    assert max(draws(SamplingParams(temperature=0), logits, 3, size)) < size


def test_logit_bias() -> None:
    assert set(draws(SamplingParams(seed=0, logit_bias={2: 100.0}), [0.0] * 5, 10)) == {2}
    with pytest.raises(RequestError, match="logit_bias"):
        Sampler(SamplingParams(logit_bias={5: 1.0}), 5)


def test_repetition_penalty_discourages_what_was_said() -> None:
    logits = [2.0, 1.9, 1.8]
    assert draws(SamplingParams(temperature=0, repetition_penalty=2.0), logits, 3) == [0, 1, 2]


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_penalties_look_at_the_answer_only(penalty: str) -> None:
    sampler = Sampler(SamplingParams(temperature=0, **{penalty: 0.5}), 3)  # type: ignore[arg-type]
    logits = np.array([2.0, 1.7, 0.9], np.float32)
    assert sampler.choose(logits, [0, 0, 0], 3) == 0
    assert sampler.choose(logits, [0], 0) == 1
    assert sampler.choose(logits, [0, 1, 0, 1, 0, 1], 0) == (0 if penalty == "presence_penalty" else 2)


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 5e-324])
def test_the_coldest_draw_takes_the_likeliest(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=1)
    assert draws(params, [0.0, 9.0, 8.99, -50.0], 20) == [1] * 20
    logits = mx.array([0.0, 9.0, 8.99, -50.0])
    assert [number(Sampler(params, 4).choose_lazily(logits, i)) for i in range(5)] == [1] * 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[0.0, np.nan], [0.0, np.inf], [-np.inf, -np.inf]])
def test_what_is_no_number_is_no_token(temperature: float, logits: list[float]) -> None:
    with pytest.raises(GptOssError, match=r"logits: finite numbers expected, -?(nan|inf) found"):
        draws(SamplingParams(temperature=temperature), logits, 1)


@given(st.integers(0, 99), st.dictionaries(st.integers(0, 19), st.sampled_from([-1e6, 1e6, -100, 3]), max_size=5))
def test_no_bias_lets_out_what_a_mask_forbids(seed: int, biases: dict[int, float]) -> None:
    params = SamplingParams(
        temperature=100, seed=seed, logit_bias=biases, repetition_penalty=0.01, presence_penalty=-100
    )
    mask = np.array([0.0, -np.inf] * 10, np.float32)
    logits = np.random.default_rng(seed).normal(size=20).astype(np.float32)
    assert Sampler(params, 20).choose(logits, [1, 3, 5, 1], 2, mask) % 2 == 0


def test_a_bias_forbids() -> None:
    bias = np.array([0.0, -np.inf, -np.inf], np.float32)
    sampler = Sampler(SamplingParams(seed=1), 3)
    assert {sampler.choose(np.array([0.0, 9.0, 9.0], np.float32), [1] * i, 0, bias) for i in range(30)} == {0}


@given(st.integers(0, 2**32), st.integers(0, 10**6))
def test_a_token_depends_on_the_seed_and_its_number_alone(seed: int, index: int) -> None:
    logits = np.random.default_rng(seed).normal(size=2000).astype(np.float32)
    first = Sampler(SamplingParams(seed=seed), 2000)
    other = Sampler(SamplingParams(seed=seed), 2000)
    other.choose(logits, [1] * 5, 0)
    assert first.choose(logits, range(index), 0) == other.choose(logits, range(index + 3), 3)


@settings(max_examples=15)
@given(st.integers(0, 500), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 40))
def test_filters_are_mlx_lms(seed: int, top_p: float, min_p: float, top_k: int) -> None:
    """The set of tokens that can come out, by either way of choosing."""
    from gptoss_mlx.sampling import _filtered, _lazy_filters

    params = SamplingParams(top_p=top_p, min_p=min_p, top_k=top_k)
    logits = np.random.default_rng(seed).normal(size=300, scale=2).astype(np.float32)
    lazy = mx.array(logits)[None] - mx.logsumexp(mx.array(logits))
    for keep in _lazy_filters(params, 300):
        lazy = keep(lazy)
    ours, theirs = (set(np.flatnonzero(np.isfinite(a))) for a in (_filtered(logits, params), np.array(lazy[0])))
    assert len(ours ^ theirs) <= 1  # one at the border, by rounding


def test_lazy_choices_follow_the_softmax_and_the_seed() -> None:
    logits = mx.array(np.log([0.5, 0.3, 0.15, 0.05]).astype(np.float32))
    sampler, again = Sampler(SamplingParams(seed=1), 4), Sampler(SamplingParams(seed=1), 4)
    found = [number(sampler.choose_lazily(logits, i)) for i in range(2000)]
    assert found[:50] == [number(again.choose_lazily(logits, i)) for i in range(50)]
    for token, share in enumerate([0.5, 0.3, 0.15, 0.05]):
        assert abs(found.count(token) / 2000 - share) < 0.05
    assert number(Sampler(SamplingParams(temperature=0), 4).choose_lazily(logits, 0)) == 0
