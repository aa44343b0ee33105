"""Caches without a model: every row is computed from all tokens up to its own, so that a wrong one shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import mlx.core as mx
import numpy as np

from gptoss_mlx.cache import Cache, FullCache, SlidingCache

WINDOW = 20
ROW = 2 * 2 * 4 * 4
"""Bytes of a token in a layer: keys and values, two heads, four numbers."""


def empty() -> list[Cache]:
    """A full layer between two sliding ones."""
    return [SlidingCache(WINDOW, heads=2, width=4), FullCache(heads=2, width=4), SlidingCache(128, heads=2, width=4)]


def rows(tokens: Sequence[int]) -> list[int]:
    """One number per token that says which tokens came before it."""
    return list(accumulate(tokens, lambda before, token: (before * 31 + token + 1) % 4194301, initial=7))[1:]


class Run:
    """Tokens and the caches that have them."""

    def __init__(self, tokens: Sequence[int] = (), caches: list[Cache] | None = None) -> None:
        self.tokens = list(tokens)
        self.caches = empty() if caches is None else caches
        if caches is None and tokens:
            self.tokens = []
            self.feed(tokens)

    def feed(self, tokens: Sequence[int]) -> None:
        """Append tokens to every cache."""
        first = len(self.tokens)
        self.tokens += tokens
        if tokens:
            new = mx.array(rows(self.tokens)[first:], mx.float32)[None, None, :, None]
            keys = mx.broadcast_to(new, (1, 2, len(tokens), 4))
            for cache in self.caches:
                cache.update_and_fetch(keys, -keys)

    def check(self) -> None:
        """Hold the caches against what those of a fresh run would show."""
        expected = rows(self.tokens)
        for cache in self.caches:
            assert cache.offset == len(expected)
            kept = min(cache.window - 1, len(expected)) if isinstance(cache, SlidingCache) else len(expected)
            if not expected:
                continue
            keys, values = cache.state
            for numbers, sign in ((np.array(keys), 1), (np.array(values), -1)):
                assert numbers.shape == (1, 2, kept, 4)
                assert (numbers == sign * np.array(expected[len(expected) - kept :])[None, None, :, None]).all()


def arrays(caches: Sequence[Cache]) -> Iterator[mx.array]:
    """The buffers of some caches, repeated where they are shared."""
    for cache in caches:
        if cache._storage is not None:
            yield from cache._storage.planes
