"""Log-probabilities of given tokens, which perplexity, the choices of a task and lm-eval all ask for.

Everything is summed in float64: the divergence of a good preset is smaller than float32's rounding of a sum over
201,088 tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.engine import check_tokens
from gptoss_mlx.engine.prefill import prefill
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.runtime import GptOss

Block = npt.NDArray[np.float32]
"""Logits (positions, vocabulary)."""
Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Told the work done and the work in all."""


@dataclass(frozen=True)
class Scores:
    """Tokens in a row, each given everything before it.

    Attributes:
        logprobs: their log-probabilities in nats.
        greedy: whether each is the likeliest token.
    """

    logprobs: Floats
    greedy: npt.NDArray[np.bool_]


def log_softmax(logits: Block) -> Floats:
    """Log-probabilities (positions, vocabulary) of logits, in float64.

    Raises:
        CheckpointError: a position's logits hold no number, or an infinite one.
    """
    exact = logits.astype(np.float64)
    if not np.isfinite(exact).all():
        raise CheckpointError("logits: finite numbers expected, others found; `gptoss-mlx verify` checks the weights")
    exact -= exact.max(axis=-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return exact


def score_blocks(blocks: Iterable[Block], targets: Sequence[int]) -> Scores:
    """Score as many tokens as the blocks have positions, each by the logits before it."""
    ids = np.asarray(targets, np.int64)
    logprobs, greedy, done = np.empty(len(ids)), np.empty(len(ids), np.bool_), 0
    for block in blocks:
        rows = slice(done, done + len(block))
        logprobs[rows] = np.take_along_axis(log_softmax(block), ids[rows, None], axis=-1)[:, 0]
        greedy[rows] = block.argmax(axis=-1) == ids[rows]
        done += len(block)
    return Scores(logprobs, greedy)


def score_tokens(model: GptOss, tokens: Sequence[int], first: int = 1) -> Scores:
    """Score `tokens[first:]` (first at least 1: nothing comes before the first token).

    Raises:
        RequestError: ids out of range, or more than the context holds.
    """
    check_tokens(model.model, tokens[-1:])  # which is not read
    blocks = model.logits_blocks(tokens[:-1], range(first - 1, len(tokens) - 1))
    return score_blocks(blocks, tokens[first:])


def score_endings(model: GptOss, prompt: Sequence[int], endings: Iterable[Sequence[int]]) -> list[Scores]:
    """Score several continuations (none empty) of one prompt, which is run once.

    Raises:
        RequestError: an empty prompt, ids out of range, or more than the context holds.
    """
    cache = model.model.make_cache()
    logits: Block = np.array(prefill(model.model, prompt, cache)[None].astype(mx.float32))
    found = []
    for ending in endings:
        check_tokens(model.model, ending[-1:])
        fork = [copy.copy(layer) for layer in cache]
        rest = model.logits_blocks(ending[:-1], cache=fork) if len(ending) > 1 else ()
        found.append(score_blocks((logits, *rest), ending))
    return found
