"""From logits to a token: SamplingParams, and the sampler that they ask for.

The number that decides the i-th token of an answer is drawn from the seed and i alone. So a seed gives the same
tokens whatever else is sampled, in whatever company a sequence runs, and however many tokens are verified at once.

On a CPU the draw is NumPy's work, because MLX's operations are scalar there (5 to 30 ms for 200,000 logits against
0.3 to 3). On a GPU it is MLX's with mlx-lm's filters: then nothing waits for the logits to come to the CPU.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .errors import GptOssError, RequestError

Logits = npt.NDArray[np.float32]

MOST_BIAS = 1_000_000
"""Further from 0 a bias would leave float32 too few digits for logits."""

COLDEST = 1e-30
"""The least temperature to divide by, which takes the most likely token, as 0 does."""


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
    """Divides positive logits of tokens among the last `repetition_context`, multiplies negative ones; 1: neither."""
    repetition_context: int = 64
    """How many of the last tokens are penalised, those of the prompt included."""
    presence_penalty: float = 0.0
    """Taken from the logits of every token that the answer has already."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit once for each time that the answer has it."""
    seed: int | None = None
    """None draws a fresh one for every answer."""
    stop: Sequence[str] = ()
    """Texts that end the answer; they are not part of it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids."""

    def __post_init__(self) -> None:
        several = isinstance(self.stop, Sequence) and not isinstance(self.stop, str)
        object.__setattr__(self, "stop", tuple(self.stop) if several else (self.stop,))
        for name, good, expected in (
            ("temperature", _within(self.temperature, 0, 100), "0 to 100"),
            ("top_p", _within(self.top_p, 0, 1) and self.top_p > 0, "more than 0, at most 1"),
            ("top_k", _counts(self.top_k, 0), "an integer of 0 or more"),
            ("min_p", _within(self.min_p, 0, 1), "0 to 1"),
            ("repetition_penalty", _within(self.repetition_penalty, 0.01, 100), "0.01 to 100"),
            ("repetition_context", _counts(self.repetition_context, 1), "an integer of 1 or more"),
            ("presence_penalty", _within(self.presence_penalty, -100, 100), "-100 to 100"),
            ("frequency_penalty", _within(self.frequency_penalty, -100, 100), "-100 to 100"),
            ("seed", self.seed is None or _counts(self.seed, 0, 1 << 64), "an integer of 0 to 2**64 - 1, or None"),
            ("stop", all(isinstance(s, str) and s for s in self.stop), "non-empty texts"),
            ("logit_bias", _are_biases(self.logit_bias), f"token ids with numbers from -{MOST_BIAS} to {MOST_BIAS}"),
        ):
            if not good:
                raise RequestError(f"{name}: {expected} expected, {getattr(self, name)!r} found")

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return bool(self.logit_bias or self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, Real) and least <= float(value) <= most


def _counts(value: object, least: int, beyond: float = math.inf) -> bool:
    return isinstance(value, Integral) and least <= int(value) < beyond


def _are_biases(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(token, Integral) and _within(bias, -MOST_BIAS, MOST_BIAS) for token, bias in value.items()
    )


class Sampler:
    """Chooses the tokens of one sequence.

    Args:
        params: what to do.
        size: number of ids that the tokenizer knows; the model's further rows are never chosen.

    Raises:
        RequestError: the bias names an id that does not exist.
    """

    def __init__(self, params: SamplingParams, size: int) -> None:
        self.params = params
        self._size = size
        for token in params.logit_bias:
            if not 0 <= token < size:
                raise RequestError(f"logit_bias: token ids from 0 to {size - 1} expected, {token} found")
        self._seed = params.seed if params.seed is not None else secrets.randbits(63)
        self._numbers = np.random.Philox(key=self._seed)
        self._next = 0  # the index whose number `_numbers` gives
        self._bias = (np.array(list(params.logit_bias), np.int64), np.array([*params.logit_bias.values()], np.float32))
        self._filters = _lazy_filters(params, size)

    def choose(self, logits: Logits, tokens: Sequence[int], prompt: int, bias: Logits | None = None) -> int:
        """Choose a token.

        Args:
            logits: (vocabulary,) of the last position; left as they are.
            tokens: the tokens so far.
            prompt: how many of them are the prompt; the others are the answer.
            bias: added to the logits, such as minus infinity for what must not be (see `engine.masks`).

        Returns:
            The token's id.

        Raises:
            GptOssError: the logits are no numbers, or nothing is allowed.
        """
        logits = logits[: self._size]
        if bias is not None:
            logits = logits + bias[: self._size]
        if self.params.adjusts:
            logits = self._adjusted(logits, tokens, prompt)
        best = int(logits.argmax())  # of NaN, if there is one
        top = float(logits[best])
        if not math.isfinite(top):
            raise GptOssError(f"logits: finite numbers expected, {top} found; are the model's weights damaged?")
        if self.params.temperature == 0:
            return best
        number = self._bits(len(tokens) - prompt) * 2.0**-53
        return _draw(_filtered(logits, self.params), top, self.params.temperature, number)

    def choose_lazily(self, logits: mx.array, index: int) -> mx.array:
        """Choose the `index`-th token of an answer without waiting, from logits (vocabulary,) that need no adjusting.

        Returns:
            Its id (1,), not evaluated.
        """
        logits = logits[None, : self._size].astype(mx.float32)
        if self.params.temperature == 0:
            return mx.argmax(logits, axis=-1)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for keep in self._filters:
            logprobs = keep(logprobs)
        numbers = np.random.Generator(np.random.Philox(key=self._seed, counter=index))
        key = mx.random.key(int(numbers.integers(1 << 63)))
        return mx.random.categorical(logprobs / max(self.params.temperature, COLDEST), key=key)

    def _bits(self, index: int) -> int:
        """53 bits of the random number for the `index`-th token."""
        self._numbers.advance(index - self._next)  # cheaper than a generator for each number
        self._next = index + 1
        return int(self._numbers.random_raw()) >> 11

    def _adjusted(self, logits: Logits, tokens: Sequence[int], prompt: int) -> Logits:
        params, logits = self.params, logits.copy()
        if params.repetition_penalty != 1:
            recent = _known(tokens[-params.repetition_context :], self._size)[0]
            some = logits[recent]
            logits[recent] = np.where(some > 0, some / params.repetition_penalty, some * params.repetition_penalty)
        if params.presence_penalty or params.frequency_penalty:
            answer, counts = _known(tokens[prompt:], self._size)
            logits[answer] -= (params.presence_penalty + params.frequency_penalty * counts).astype(np.float32)
        logits[self._bias[0]] += self._bias[1]
        return logits


def _known(tokens: Sequence[int], size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The different ones among tokens, without those beyond the tokenizer, and how often each is there."""
    found, counts = np.unique(np.asarray(tokens, np.int64), return_counts=True)
    return found[found < size], counts[found < size]


def _filtered(logits: Logits, params: SamplingParams) -> Logits:
    """Minus infinity where top-p, min-p or top-k drop a token; they look at probabilities of temperature 1."""
    if params.top_p == 1 and params.min_p == 0 and not 0 < params.top_k < len(logits):
        return logits
    least = -np.inf
    if params.top_p < 1:
        least = max(least, _nucleus(logits, params.top_p))
    if params.min_p > 0:
        least = max(least, float(logits.max() + np.float32(np.log(params.min_p))))
    kept = np.where(logits >= np.float32(least), logits, np.float32(-np.inf))
    if 0 < params.top_k < len(logits):
        dropped = np.argpartition(-kept, params.top_k - 1)[params.top_k :]
        kept[dropped] = -np.inf
    return kept


def _nucleus(logits: Logits, top_p: float) -> float:
    """The least logit of the most likely tokens that together have the probability `top_p`."""
    weights = np.exp(logits - logits.max())
    wanted = top_p * weights.sum(dtype=np.float64)
    count = 256
    while True:  # the nucleus is small as a rule: sort no more than it takes
        some = -np.partition(-weights, count - 1)[:count] if count < len(weights) else weights
        some = np.sort(some)[::-1]
        sums = np.cumsum(some, dtype=np.float64)
        if sums[-1] >= wanted or count >= len(weights):
            last = some[min(int(np.searchsorted(sums, wanted)), len(some) - 1)]
            return float(logits[weights >= last].min())
        count *= 8


def _draw(logits: Logits, top: float, temperature: float, number: float) -> int:
    """The token in whose share of the probability a number from 0 to 1 falls; `top` is the largest logit."""
    weights = logits - np.float32(top)
    if temperature != 1:
        weights /= np.float32(max(temperature, COLDEST))
    np.exp(weights, out=weights)
    block = 512  # sums of blocks first, then within one: a running sum over all would take ten times as long
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), block), dtype=np.float64))
    aim = number * sums[-1]
    at = min(int(sums.searchsorted(aim, side="right")), len(sums) - 1)
    own = weights[at * block : (at + 1) * block]
    inside = own.astype(np.float64).cumsum() + (sums[at - 1] if at else 0.0)
    found = int(inside.searchsorted(aim, side="right"))
    if found == len(own):  # by rounding: it must not lead to a share of 0
        found = int(np.flatnonzero(own)[-1])
    return at * block + found


def _lazy_filters(params: SamplingParams, size: int) -> list[Callable[[mx.array], mx.array]]:
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
