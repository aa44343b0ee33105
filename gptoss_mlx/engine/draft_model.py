"""Drafts by a smaller model of the same vocabulary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile

import mlx.core as mx

from gptoss_mlx import kernels
from gptoss_mlx.cache import Cache
from gptoss_mlx.model import Model

from .prefill import PREFILL_CHUNK
from .sequence import number


class DraftModel:
    """Guesses what another model would most likely say; for one sequence."""

    free = False
    WEIGHT = 0.2

    def __init__(self, model: Model, vocabulary: int) -> None:
        self.seconds = 0.0
        self._model = model
        self._vocabulary = vocabulary
        self._read = 0  # tokens of the sequence in the caches,
        self._guess: list[int] = []  # and the guesses that follow them there
        self._caches: list[Cache] = model.make_cache()

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """The likeliest continuation, token by token; none before the tokens have been read, a chunk per call."""
        self._rewind(tokens)
        if len(tokens) - self._read > PREFILL_CHUNK:
            self._feed(tokens[self._read : self._read + PREFILL_CHUNK])
            return []
        started = time.perf_counter()
        self._feed(tokens[self._read : -1])
        following, guess = tokens[-1], list[int]()
        with kernels.rounding("step"):
            for _ in range(count):
                logits = self._model(mx.array([[following]]), self._caches, positions=slice(-1, None))[0, -1]
                following = number(mx.argmax(logits[: self._vocabulary]))
                guess.append(following)
        self._read, self._guess = len(tokens), guess[:-1]
        spent = (time.perf_counter() - started) / count
        self.seconds += (spent - self.seconds) * (self.WEIGHT if self.seconds else 1.0)
        return guess

    def _feed(self, tokens: Sequence[int]) -> None:
        if tokens:
            with kernels.rounding("prompt"):
                mx.eval(self._model.hidden(mx.array([list(tokens)]), self._caches))
            self._read += len(tokens)

    def _rewind(self, tokens: Sequence[int]) -> None:
        """Go back to where the caches agree with all but the last of some tokens, which have only grown."""
        true = list(takewhile(lambda pair: pair[0] == pair[1], zip(self._guess, tokens[self._read :], strict=False)))
        kept = min(self._read + len(true), len(tokens) - 1)
        if not all(cache.can_rewind(kept) for cache in self._caches):
            kept, self._caches = 0, self._model.make_cache()
        for cache in self._caches:
            cache.rewind(kept)
        self._read, self._guess = kept, []
