"""Prefill and decode of one sequence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.cache import Cache
from gptoss_mlx.errors import RequestError
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import Sampler

from .request import TokenLogprobs

PREFILL_CHUNK = 512
"""Tokens per pass over the prompt: bounds the memory of activations."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Generated:
    """One token out of the engine; `stopped` marks a stop token, after which nothing follows."""

    token: int
    stopped: bool
    logprob: TokenLogprobs | None = None
    """If it was asked for."""
    forced: bool = False
    """Whether the guide chose it."""


def prefill(
    model: Model,
    tokens: Sequence[int],
    cache: list[Cache],
    *,
    chunk: int = PREFILL_CHUNK,
    progress: Progress | None = None,
) -> mx.array:
    """Run a prompt through the model, chunk by chunk.

    Args:
        model: any.
        tokens: at least one.
        cache: from `model.make_cache()`; holds the prompt afterwards.
        chunk: tokens per pass; the result does not depend on it beyond rounding.
        progress: told (tokens done, tokens in all) after each pass.

    Returns:
        Logits (vocabulary,) of the last token.

    Raises:
        RequestError: no tokens, ids outside the vocabulary, or more than the model's context holds.
    """
    check_tokens(model, tokens, cache[0].offset)
    hidden = mx.zeros((1, 1))
    for first in range(0, len(tokens), chunk):
        part = mx.array(list(tokens[first : first + chunk]))[None]
        hidden = model.hidden(part, cache)
        mx.eval(hidden, [layer.state for layer in cache])
        if progress is not None:
            progress(min(first + chunk, len(tokens)), len(tokens))
    return model.logits(hidden[:, -1:])[0, -1]


def check_tokens(model: Model, tokens: Sequence[int], offset: int = 0) -> None:
    """Hold token ids against the vocabulary and the context.

    Raises:
        RequestError: see `prefill`.
    """
    if not len(tokens):
        raise RequestError("tokens: at least one expected, none found")
    vocabulary, context = model.args.vocab_size, model.args.max_position_embeddings
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= vocabulary:
        bad = low if low < 0 else high
        raise RequestError(f"tokens: ids from 0 to {vocabulary - 1} expected, {bad} found")
    if offset + len(tokens) > context:
        raise RequestError(
            f"tokens: at most {context} fit the model's context, {offset + len(tokens)} found; shorten the conversation"
        )


def generate(
    model: Model,
    tokens: Sequence[int],
    sampler: Sampler,
    *,
    stop_tokens: Collection[int],
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Generated]:
    """Continue a prompt token by token until a stop token, `max_tokens` or the end of the context.

    The next step is started before a token is handed out, so that the device works while the caller does.

    Args:
        model: any.
        tokens: the prompt.
        sampler: chooses the tokens.
        stop_tokens: ids that end the sequence; the one that did is yielded last.
        max_tokens: how many at most; None: what the context holds.
        progress: of the prefill.

    Raises:
        RequestError: the prompt does not fit or `max_tokens` is not positive.
    """
    if max_tokens is not None and max_tokens < 1:
        raise RequestError(f"max_tokens: 1 or more expected, {max_tokens} found")
    cache = model.make_cache()
    history = list(tokens)
    logits = prefill(model, history, cache, progress=progress)
    room = model.args.max_position_embeddings - len(history)
    left = room if max_tokens is None else min(max_tokens, room)
    while left > 0:
        token = sampler(logits, history)
        history.append(token)
        left -= 1
        stopped = token in stop_tokens
        if left > 0 and not stopped:
            logits = model(mx.array([[token]]), cache, positions=slice(-1, None))[0, -1]
            mx.async_eval(logits)
        yield Generated(token, stopped)
        if stopped:
            return
