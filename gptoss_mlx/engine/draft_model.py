"""Drafts by a smaller model of the same vocabulary."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
        self._read: list[int] = []  # what the caches hold
        self._caches: list[Cache] = model.make_cache()

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """The likeliest continuation, token by token."""
        started = time.perf_counter()
        fresh = list(tokens[self._rewind(tokens) :])
        guess: list[int] = []
        with kernels.rounding("step"):
            for first in range(0, len(fresh) - 1, PREFILL_CHUNK):
                part = fresh[first : min(first + PREFILL_CHUNK, len(fresh) - 1)]
                mx.eval(self._model.hidden(mx.array([part]), self._caches))
            following = fresh[-1]
            for _ in range(count):
                logits = self._model(mx.array([[following]]), self._caches, positions=slice(-1, None))[0, -1]
                following = number(mx.argmax(logits[: self._vocabulary]))
                guess.append(following)
        self._read = [*tokens, *guess[:-1]]
        spent = (time.perf_counter() - started) / count
        self.seconds += (spent - self.seconds) * (self.WEIGHT if self.seconds else 1.0)
        return guess

    def _rewind(self, tokens: Sequence[int]) -> int:
        """Go back to where the caches agree with all but the last of some tokens. Returns that position."""
        kept = 0
        for read, token in zip(self._read, tokens[:-1], strict=False):
            if read != token:
                break
            kept += 1
        if all(cache.can_rewind(kept) for cache in self._caches):
            for cache in self._caches:
                cache.rewind(kept)
            return kept
        self._caches = self._model.make_cache()
        return 0
