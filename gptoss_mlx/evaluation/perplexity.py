"""Perplexity of a text: how surprised a model is by each of its tokens, given those before.

A text longer than the context is cut into windows that overlap: each begins with tokens that were scored before and
only serve as context now, so that no token but those of the first window is predicted from less than
`context - stride` tokens. The same number of windows and tokens comes out for the same text, so figures compare
between models of one vocabulary; bits per byte compare between any.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptoss_mlx.errors import RequestError
from gptoss_mlx.runtime import GptOss

from .scoring import Floats, Progress, score_tokens

CONTEXT = 2048
LARGEST = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Window:
    """The model reads tokens [begin, end) and is asked for tokens [first, end], the last of which it never reads."""

    begin: int
    first: int
    end: int


@dataclass(frozen=True)
class Perplexity:
    """What `perplexity` found.

    Attributes:
        tokens: those of the text.
        scored: all of them but the first, which nothing comes before.
        scored_bytes: what these are in bytes.
        context: tokens that a window reads at most.
        stride: tokens that a window scores at most, but for the first.
        windows: how many there were.
        nats: mean of the negative log-probability per token.
        standard_error: of that mean, from how the windows differ; None for one window.
        nats_by_window: mean of each window's own tokens, in the order of the text.
    """

    tokens: int
    scored: int
    scored_bytes: int
    context: int
    stride: int
    windows: int
    nats: float
    standard_error: float | None
    nats_by_window: tuple[float, ...] = ()

    @property
    def ends(self) -> list[int]:
        """Up to which token of the text each window asks."""
        return [min(self.context + number * self.stride, self.tokens - 1) for number in range(self.windows)]

    @property
    def perplexity(self) -> float:
        """exp of the mean: among how many equally likely tokens the model is undecided."""
        return math.exp(self.nats) if self.nats < LARGEST else math.inf

    @property
    def perplexity_error(self) -> float | None:
        """The mean's standard error, carried over to the perplexity."""
        return None if self.standard_error is None else self.perplexity * self.standard_error

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of the text; independent of the vocabulary."""
        return self.nats * self.scored / math.log(2) / self.scored_bytes

    def to_dict(self) -> dict[str, Any]:
        """Every figure as plain JSON values; null for what is beyond them."""
        finite = self.perplexity < math.inf
        return {
            "tokens": self.tokens, "scored_tokens": self.scored, "scored_bytes": self.scored_bytes,
            "context_tokens": self.context, "stride_tokens": self.stride, "windows": self.windows,
            "nats_per_token": self.nats, "nats_per_token_standard_error": self.standard_error,
            "perplexity": self.perplexity if finite else None,
            "perplexity_standard_error": self.perplexity_error if finite else None,
            "bits_per_byte": self.bits_per_byte,
        }  # fmt: skip


def perplexity(
    model: GptOss,
    tokens: Sequence[int],
    *,
    context: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Score a text.

    Args:
        model: any.
        tokens: the text, two at least.
        context: tokens per window; None: 2048, or what the model holds.
        stride: by how many tokens windows advance; None: half the context.
        progress: told (tokens scored, tokens to score).

    Raises:
        RequestError: a text of fewer than two tokens, a context beyond the model's, a stride beyond the context.
    """
    most = model.config.max_position_embeddings
    context = min(CONTEXT, most) if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= context <= most:
        raise RequestError(f"context: 1 to {most} tokens expected, which is the model's own, {context} found")
    if not 1 <= stride <= context:
        raise RequestError(f"stride: 1 to {context} tokens expected, which is the context, {stride} found")
    if len(tokens) < 2:
        raise RequestError(f"text: at least two tokens expected, {len(tokens)} found")
    found = []
    for window in windows(len(tokens), context, stride):
        part = tokens[window.begin : window.end + 1]
        found.append(-score_tokens(model, part, window.first - window.begin).logprobs)
        if progress is not None:
            progress(window.end, len(tokens) - 1)
    nats, error = mean_by_window(found)
    length = sum(len(model.tokenizer.token_bytes(token)) for token in tokens[1:])
    means = tuple(float(window.mean()) for window in found)
    return Perplexity(len(tokens), len(tokens) - 1, max(1, length), context, stride, len(found), nats, error, means)


def windows(tokens: int, context: int, stride: int) -> Iterator[Window]:
    """Windows that together ask for every token but the first, each for it once."""
    end = min(context, tokens - 1)
    yield Window(0, 1, end)
    while end < tokens - 1:
        first = end + 1
        end = min(end + stride, tokens - 1)
        yield Window(end - context, first, end)


def mean_by_window(values: Sequence[Floats]) -> tuple[float, float | None]:
    """The mean of all values, and its standard error as that of a ratio of sums over windows (None for one)."""
    lengths = np.array([len(window) for window in values])
    sums = np.array([window.sum() for window in values])
    count, mean = len(values), sums.sum() / lengths.sum()
    if count < 2:
        return float(mean), None
    deviations = sums - mean * lengths
    return float(mean), math.sqrt(count / (count - 1) * float(deviations @ deviations)) / int(lengths.sum())
