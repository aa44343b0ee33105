"""One sequence in the engine: its tokens, its caches, and what comes out of it."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Collection

import mlx.core as mx
import numpy as np

from gptoss_mlx.cache import Cache
from gptoss_mlx.sampling import Logits, Sampler

from .drafts import Costs, Drafter, Speculation
from .masks import mask_bias
from .request import Figures, Generated, Request, TokenLogprobs


class Sequence:
    """A request on its way. The engine moves it on; whoever asked takes `outbox` until `finished`."""

    def __init__(self, request: Request, vocabulary: int, room: int, stop_tokens: Collection[int]) -> None:
        self.request = request
        self.prompt = len(request.prompt)
        self.tokens = list(request.prompt)
        self.caches: list[Cache] = []
        self.outbox: deque[Generated] = deque()
        self.figures = Figures(prompt_tokens=self.prompt)
        self.finished = False
        self.error: Exception | None = None
        self.ahead: mx.array | None = None  # the next token, chosen but not waited for
        self._left = room if request.max_tokens is None else min(request.max_tokens, room)
        self._stop_tokens = stop_tokens
        self._sampler = Sampler(request.sampling, vocabulary)
        self._speculation: Speculation | None = None
        self._certain: list[int] = []  # tokens that the guide forces and the model is still to be asked about
        self._started = time.perf_counter()
        self._cancelled = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes, as far as is known; see `ask`."""
        return self.finished or self._cancelled

    def ask(self) -> None:
        """Learn from the request whether anybody wants the rest."""
        if self.request.cancelled is not None and self.request.cancelled():
            self._cancelled = True

    def cancel(self) -> None:
        """Want no more."""
        self._cancelled = True

    def fail(self, error: Exception) -> None:
        """End here because of `error`."""
        self.error, self.finished = error, True

    def release(self) -> None:
        """Let go of what only further steps would need."""
        self.caches, self.ahead, self._speculation = [], None, None

    @property
    def offset(self) -> int:
        """Tokens that the caches hold."""
        return self.caches[0].offset

    @property
    def is_decoding(self) -> bool:
        """Whether the whole prompt has been read."""
        return len(self.tokens) > self.prompt

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        return self._left

    @property
    def reach(self) -> int:
        """Tokens that it was asked to grow to; without a limit in the request, those that it has."""
        return len(self.tokens) + (self._left if self.request.max_tokens is not None else 0)

    @property
    def is_plain(self) -> bool:
        """Whether tokens can be chosen without looking at logits, masks or history on the way."""
        request = self.request
        free = request.guide is None or request.guide.idle() >= 2  # the next one, and the one chosen ahead of it
        return free and request.logprobs is None and not request.sampling.adjusts

    def speculate(self, drafter: Drafter) -> None:
        """Guess at the tokens to come from now on."""
        self._speculation = Speculation(drafter)

    def draft(self, rows: int, costs: Costs) -> list[int]:
        """Guesses to verify behind the tokens that the caches lack."""
        if self._certain:
            return self._certain[: self._left - 1]
        if self._speculation is None:
            return []
        drafted = self._speculation.draft(self.tokens, self._left - 1, rows, costs)
        self.figures.drafted_tokens += len(drafted)
        return drafted

    def wants_draft(self, costs: Costs) -> bool:
        """Whether a draft behind the last token would pay."""
        return self._speculation is not None and bool(self._speculation.draft(self.tokens, self._left - 1, 1, costs))

    def settle(self) -> None:
        """Wait for a token that was chosen ahead, so that tokens and caches are in step."""
        if self.ahead is not None:
            token, self.ahead = self.ahead, None
            if not self.finished:
                self.follow(number(token))

    def follow(self, token: int) -> None:
        """Take the next token, which was chosen when the guide had no say."""
        if self.request.guide is not None:
            self.request.guide.accept(token)
        self.push(token)
        if self._speculation is not None:
            self._speculation.learn([token])

    def take(self, rows: list[Logits], drafted: list[int]) -> None:
        """Choose tokens from the logits behind the last token and behind each drafted one, as far as these hold.

        The caches hold all drafted tokens then; they are rewound to what came true.
        """
        chosen: list[int] = []
        guessed = not self._certain
        for i, logits in enumerate(rows):
            chosen.append(self._choose(logits))
            if self.finished or i == len(drafted) or drafted[i] != chosen[-1]:
                break
        if guessed:
            self.figures.accepted_tokens += sum(map(operator.eq, drafted, chosen))
        if self._speculation is not None:
            self._speculation.learn(chosen)
        if drafted:
            self._rewind(self.offset - len(drafted) + len(chosen) - 1)
        if not self.finished:
            self._force()

    def choose_lazily(self, logits: mx.array, further: int = 0) -> mx.array:
        """The token that comes `further` behind the next one (1,), not evaluated."""
        return self._sampler.choose_lazily(logits, len(self.tokens) - self.prompt + further)

    def push(self, token: int, *, forced: bool = False, logprobs: TokenLogprobs | None = None) -> None:
        """Take the next token."""
        if not self.figures.generated_tokens:
            self.figures.prompt_seconds = time.perf_counter() - self._started
        self.tokens.append(token)
        self.figures.generated_tokens += 1
        self._left -= 1
        stopped = token in self._stop_tokens
        self.outbox.append(Generated(token, stopped, forced, logprobs))
        self.finished = stopped or self._left <= 0  # last: who sees it takes what is in the outbox, and goes

    def _choose(self, logits: Logits) -> int:
        guide, count = self.request.guide, self.request.logprobs
        forced = bool(self._certain)
        token = self._certain.pop(0) if forced else self._sampled(logits)
        if guide is not None:
            guide.accept(token)
        self.push(token, forced=forced, logprobs=None if count is None else logprobs_of(logits, token, count))
        return token

    def _sampled(self, logits: Logits) -> int:
        mask = None if self.request.guide is None else self.request.guide.mask()
        bias = None if mask is None else mask_bias(mask, len(logits))
        return self._sampler.choose(logits, self.tokens, self.prompt, bias)

    def _force(self) -> None:
        """Take what the guide forces: at once, or with the next pass where its log-probabilities are wanted."""
        guide = self.request.guide
        if guide is None:
            return
        forced = guide.forced()
        if self.request.logprobs is not None:
            self._certain = forced
            return
        for token in forced:
            if self.finished:
                return
            guide.accept(token)
            self.push(token, forced=True)

    def _rewind(self, offset: int) -> None:
        for cache in self.caches:
            if cache.offset != offset:
                cache.rewind(offset)


def logprobs_of(logits: Logits, token: int, count: int) -> TokenLogprobs:
    """Log-probabilities of a token and of the `count` likeliest ones, from logits (vocabulary,)."""
    top = logits.max()
    norm = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
    best = (
        np.argpartition(-logits, count - 1)[:count] if 0 < count < len(logits) else np.arange(min(count, len(logits)))
    )
    ordered = sorted(best.tolist(), key=lambda i: (-logits[i], i))
    return TokenLogprobs(token, float(logits[token]) - norm, tuple((i, float(logits[i]) - norm) for i in ordered))


def number(token: mx.array) -> int:
    """The id in an array of one, waited for."""
    return int(np.array(token).reshape(()))
