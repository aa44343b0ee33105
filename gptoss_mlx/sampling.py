"""From logits to a token: SamplingParams, and the sampler and logit processors that it asks for.

The filters are mlx-lm's; the draw has its own random key, so that a seed gives the same tokens whatever else
draws random numbers in the process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from .errors import RequestError


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; the defaults are those that the release recommends.

    Raises:
        RequestError: a value is out of its range.
    """

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Keep the most likely tokens that together have this probability."""
    top_k: int = 0
    """Keep this many of the most likely tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the most likely one's probability."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens among the last `repetition_context`; 1 leaves them."""
    repetition_context: int = 64
    seed: int | None = None
    """None draws a fresh one for every answer."""
    stop: Sequence[str] = ()
    """Texts that end the answer; they are not part of it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        for name, value, good, expected in (
            ("temperature", self.temperature, 0 <= self.temperature <= 100, "0 to 100"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("top_k", self.top_k, isinstance(self.top_k, int) and self.top_k >= 0, "an integer of 0 or more"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "more than 0"),
            ("repetition_context", self.repetition_context, self.repetition_context > 0, "more than 0"),
            ("seed", self.seed, self.seed is None or 0 <= self.seed < 1 << 64, "0 to 2**64 - 1, or None"),
            ("stop", self.stop, all(isinstance(s, str) and s for s in self.stop), "non-empty texts"),
        ):
            if not good:
                raise RequestError(f"{name}: {expected} expected, {value!r} found")


class Sampler:
    """Chooses one token after the other for one sequence.

    Args:
        params: what to do.
        size: number of ids that the tokenizer knows; the model's further rows are never chosen.
    """

    def __init__(self, params: SamplingParams, size: int) -> None:
        self.params = params
        self._size = size
        for token in params.logit_bias:
            if not 0 <= token < size:
                raise RequestError(f"logit_bias: token ids from 0 to {size - 1} expected, {token} found")
        self._processors = _processors(params)
        self._filters = _filters(params, size)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        self._key = mx.random.key(seed)

    def __call__(self, logits: mx.array, history: Sequence[int]) -> int:
        """Choose a token.

        Args:
            logits: (vocabulary,) of the last position.
            history: the tokens so far, prompt included.

        Returns:
            The token's id.
        """
        logits = logits[None, : self._size].astype(mx.float32)
        for process in self._processors:
            recent = list(history[-self.params.repetition_context :])
            logits = process(mx.array(recent) if recent else [], logits)
        if self.params.temperature == 0:
            return _number(mx.argmax(logits[0]))
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for keep in self._filters:
            logprobs = keep(logprobs)
        self._key, key = mx.random.split(self._key)
        return _number(mx.random.categorical(logprobs[0] / self.params.temperature, key=key))


def _processors(params: SamplingParams) -> list[Callable[..., mx.array]]:
    if not params.logit_bias and params.repetition_penalty == 1:
        return []
    from mlx_lm.sample_utils import make_logits_processors  # seconds to import: only where it is needed

    penalty = params.repetition_penalty if params.repetition_penalty != 1 else None
    return list(make_logits_processors(dict(params.logit_bias) or None, penalty, params.repetition_context))


def _filters(params: SamplingParams, size: int) -> list[Callable[[mx.array], mx.array]]:
    top_k = params.top_k if params.top_k < size else 0
    if params.temperature == 0 or (params.top_p == 1 and params.min_p == 0 and top_k == 0):
        return []
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p  # seconds to import

    filters: list[Callable[[mx.array], mx.array]] = []
    if params.top_p < 1:
        filters.append(lambda logprobs: apply_top_p(logprobs, params.top_p))
    if params.min_p > 0:
        filters.append(lambda logprobs: apply_min_p(logprobs, params.min_p))
    if top_k > 0:
        filters.append(lambda logprobs: apply_top_k(logprobs, top_k))
    return filters


def _number(array: mx.array) -> int:
    value: Any = array.item()
    return int(value)
