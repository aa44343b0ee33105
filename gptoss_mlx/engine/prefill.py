"""Reading a prompt, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from gptoss_mlx import kernels
from gptoss_mlx.cache import Cache
from gptoss_mlx.errors import ContextError, RequestError
from gptoss_mlx.model import Model

PREFILL_CHUNK = 512
"""Tokens per pass over the prompt: bounds the memory of activations."""

Progress = Callable[[int, int], None]


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
        chunk: tokens per pass; on a CPU with native kernels no bit of the result depends on it.
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
        with kernels.rounding("prompt"):
            hidden = model.hidden(part, cache)
        mx.eval(hidden, [layer.state for layer in cache])
        if progress is not None:
            progress(min(first + chunk, len(tokens)), len(tokens))
    with kernels.rounding("step"):
        return model.logits(hidden[:, -1:])[0, -1]


def check_tokens(model: Model, tokens: Sequence[int], offset: int = 0) -> None:
    """Hold token ids against the vocabulary and the context.

    Raises:
        RequestError: see `prefill`; ContextError where there are too many.
    """
    if not len(tokens):
        raise RequestError("tokens: at least one expected, none found")
    vocabulary, context = model.args.vocab_size, model.args.max_position_embeddings
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= vocabulary:
        bad = low if low < 0 else high
        raise RequestError(f"tokens: ids from 0 to {vocabulary - 1} expected, {bad} found")
    if offset + len(tokens) > context:
        raise ContextError("tokens", offset + len(tokens), context)
