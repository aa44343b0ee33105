"""Perplexity against its definition, and the windows that cover a text."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import GptOss
from gptoss_mlx.errors import RequestError
from gptoss_mlx.evaluation.perplexity import Perplexity, mean_by_window, perplexity, windows
from toy import write_toy

TEXT = "The capital of France is Paris, naïve as it sounds. " * 6


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> GptOss:
    return gptoss_mlx.load(write_toy(tmp_path_factory.mktemp("toy")), exact=True)


def negative_logprobs(model: GptOss, tokens: list[int]) -> list[float]:
    """By the definition, in float64: of every token but the first."""
    logits = model.logits(tokens).astype(np.float64)
    return [float(np.log(np.exp(row - row[t]).sum())) for row, t in zip(logits[:-1], tokens[1:], strict=True)]


@given(st.integers(2, 300), st.integers(1, 80), st.data())
def test_windows_ask_for_every_token_once(tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    found = list(windows(tokens, context, stride))
    assert [t for w in found for t in range(w.first, w.end + 1)] == list(range(1, tokens))
    assert all(0 <= w.begin < w.first <= w.end and w.end - w.begin <= context for w in found)
    assert all(w.end - w.begin == context and w.end - w.first < stride for w in found[1:])


def test_one_window(toy: GptOss) -> None:
    tokens = toy.tokenizer.encode(TEXT)
    expected = negative_logprobs(toy, tokens)
    found = perplexity(toy, tokens)
    assert (found.tokens, found.scored, found.windows) == (len(tokens), len(tokens) - 1, 1)
    assert found.nats == pytest.approx(math.fsum(expected) / len(expected), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.nats))
    assert found.scored_bytes == len(TEXT.encode()) - len(toy.tokenizer.token_bytes(tokens[0]))
    assert found.bits_per_byte == pytest.approx(math.fsum(expected) / math.log(2) / found.scored_bytes, rel=1e-6)
    assert (found.standard_error, found.perplexity_error) == (None, None)


def test_strided_windows(toy: GptOss) -> None:
    tokens = toy.tokenizer.encode(TEXT)
    told: list[tuple[int, int]] = []
    found = perplexity(toy, tokens, context=64, stride=24, progress=lambda *at: told.append(at))
    expected, end = negative_logprobs(toy, tokens[:65]), 64
    while end < len(tokens) - 1:
        step = min(24, len(tokens) - 1 - end)
        expected += negative_logprobs(toy, tokens[end + step - 64 : end + step + 1])[-step:]
        end += step
    assert len(expected) == found.scored
    assert found.nats == pytest.approx(math.fsum(expected) / len(expected), rel=1e-6)
    assert told[-1] == (found.scored, found.scored)
    assert found.windows == len(told)


def test_standard_error_by_hand() -> None:
    mean, error = mean_by_window([np.array([1.0, 1.0, 1.0]), np.array([3.0])])
    assert mean == 1.5
    assert error == pytest.approx(math.sqrt(2 * (1.5**2 + 1.5**2)) / 4)
    equal = [np.array([value, value]) for value in (1.0, 2.0, 6.0)]  # windows of one length: the usual formula
    assert mean_by_window(equal)[1] == pytest.approx(np.std([1, 2, 6], ddof=1) / math.sqrt(3))


def test_a_context_without_overlap_predicts_from_one_token_at_least(toy: GptOss) -> None:
    tokens = [5, 6, 7, 8]
    found = perplexity(toy, tokens, context=1, stride=1)
    pairs = [negative_logprobs(toy, [a, b])[0] for a, b in itertools.pairwise(tokens)]
    assert found.nats == pytest.approx(sum(pairs) / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("tokens", "options", "says"),
    [
        ([1], {}, "text: at least two tokens expected, 1 found"),
        ([1, 2], {"context": 0}, "context: 1 to 131072"),
        ([1, 2], {"context": 131073}, "context: 1 to 131072"),
        ([1, 2], {"context": 8, "stride": 9}, "stride: 1 to 8"),
        ([1, 2], {"stride": 0}, "stride: 1 to 2048"),
    ],
)
def test_refusals(toy: GptOss, tokens: list[int], options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        perplexity(toy, tokens, **options)


def test_a_perplexity_beyond_floating_point_is_infinite() -> None:
    found = Perplexity(10, 9, 9, 8, 4, 2, 800.0, 1.0)
    assert found.perplexity == math.inf
    assert found.to_dict()["perplexity"] is None
    assert found.to_dict()["nats_per_token"] == 800.0
