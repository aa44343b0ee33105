"""States of earlier prompts."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from gptoss_mlx.cache import Cache


class PrefixStore:
    """Remembers the last few states."""

    def __init__(self, budget: int) -> None:
        self._states: list[tuple[list[int], list[Cache]]] = []
        self._budget = budget

    def add(self, tokens: Sequence[int], caches: Sequence[Cache]) -> None:
        """Remember a state."""
        if self._budget:
            self._states = [*self._states[-15:], (list(tokens), [cache.at(cache.offset) for cache in caches])]

    def find(self, tokens: Sequence[int], limit: int) -> tuple[int, list[Cache]] | None:
        """The longest state that begins the tokens."""
        best = max(
            (s for s in self._states if len(s[0]) <= limit and list(tokens[: len(s[0])]) == s[0]),
            key=lambda s: len(s[0]),
            default=None,
        )
        return (len(best[0]), [copy.copy(cache) for cache in best[1]]) if best else None
