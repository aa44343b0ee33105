"""A limit to how long the model thinks: at its end the thoughts are closed and the answer is opened.

Closing the thoughts alone is not enough, because the model would begin new ones: so the whole header of the answer
is forced. That is all that the budget does; before and after, the model writes what it likes, or what another guide
allows.

Because headers of thoughts take room as well, and many thoughts have many headers, a deadline may be set beside the
budget: from then on thoughts end, however short they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tokenizer import Tokenizer

from .masks import Mask, is_allowed
from .request import Guide

MAX_HEADER = 32
"""Tokens after which a header without `<|message|>` counts as the beginning of its text."""


def closing_tokens(tokenizer: Tokenizer, opening: Sequence[int] | None = None) -> tuple[int, ...]:
    """What ends thoughts and begins another message, by default with the header of the answer as its `opening`."""
    if opening is None:
        opening = (tokenizer.channel, *tokenizer.encode("final"), tokenizer.message)
    return (tokenizer.end, tokenizer.start, *tokenizer.encode("assistant"), *opening)


@dataclass(frozen=True)
class _Place:
    """Where a sequence stands."""

    header: tuple[int, ...] | None = ()
    """What has been written of a message's header; None in its text."""
    thinking: bool = False
    """Whether the message is thoughts."""
    spent: int = 0
    left: tuple[int, ...] = ()
    """What is still forced."""


class ReasoningBudget:
    """A guide that lets thoughts have `budget` tokens, from behind `<|start|>assistant` to the end of the turn.

    Args:
        tokenizer: the model's.
        budget: tokens of the texts of all thoughts together; their headers do not count. Thoughts that begin when it
            is spent stay empty.
        inner: another guide for the same sequence. What it does not allow is not forced.
        closing: what is forced at the end of the budget; by default what `closing_tokens` gives.
        deadline: tokens of all kinds after which thoughts end, even if the budget is not spent; None: never.

    Raises:
        RequestError: the budget is negative.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        budget: int,
        inner: Guide | None = None,
        closing: Sequence[int] | None = None,
        deadline: int | None = None,
    ) -> None:
        if budget < 0:
            raise RequestError(f"reasoning_budget: 0 or more tokens expected, {budget} found")
        self._tokenizer = tokenizer
        self._budget = budget
        self._inner = inner
        self._closing = closing_tokens(tokenizer) if closing is None else tuple(closing)
        self._deadline = math.inf if deadline is None else deadline
        self._ends = frozenset((*tokenizer.stop_tokens, tokenizer.end, tokenizer.start))
        self._place = _Place()
        self._before: list[_Place] = []

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thoughts so far."""
        return self._place.spent

    def mask(self) -> Mask | None:
        """What may come next; None: anything."""
        if self._place.left:
            return self._only(self._place.left[0])
        return None if self._inner is None else self._inner.mask()

    def forced(self) -> list[int]:
        """Tokens that are certain to come next; often none."""
        if self._place.left:
            return list(self._place.left)
        return [] if self._inner is None else self._inner.forced()

    def idle(self) -> int:
        """How many tokens may come before it has a say: as long as thoughts cannot reach a limit."""
        if self._inner is not None:
            return 0
        return int(max(0, min(self._budget - self._place.spent, self._deadline - len(self._before))))

    def accept(self, token: int) -> None:
        """Go on by one token.

        Raises:
            RequestError: it is not allowed; the budget stays as it was.
        """
        if self._place.left and token != self._place.left[0]:
            raise RequestError(f"token {token} is not the one that ends the thoughts, {self._place.left[0]}")
        if self._inner is not None:
            self._inner.accept(token)
        self._before.append(self._place)
        self._place = self._after(token)

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens.

        Raises:
            RequestError: fewer have been accepted.
        """
        if not 0 <= count <= len(self._before):
            raise RequestError(f"rollback: 0 to {len(self._before)} tokens expected, {count} found")
        if self._inner is not None:
            self._inner.rollback(count)
        for _ in range(count):
            self._place = self._before.pop()

    def _after(self, token: int) -> _Place:
        place = replace(self._moved(token), left=self._place.left[1:])
        is_late = place.spent >= self._budget or len(self._before) >= self._deadline
        if place.thinking and is_late and not place.left:
            place = replace(place, left=self._allowed())
        return place

    def _moved(self, token: int) -> _Place:
        """Where `token` leads, whoever chose it."""
        place = self._place
        if token in self._ends:
            return replace(place, header=(), thinking=False)
        if token == self._tokenizer.message and place.header is not None:
            return replace(place, header=None, thinking=self._is_thought(place.header))
        if place.thinking:
            place = replace(place, spent=place.spent + 1)
        if token == self._tokenizer.channel and place.header is None:  # a message whose beginning is missing, perhaps
            return replace(place, header=(token,))
        if place.header is None:
            return place
        header = (*place.header, token)
        if len(header) <= MAX_HEADER:
            return replace(place, header=header)
        return replace(place, header=None, thinking=place.thinking or self._is_thought(header))

    def _is_thought(self, header: Sequence[int]) -> bool:
        """Whether a message is thoughts: it names a channel, and none that the user or a tool reads."""
        text = self._tokenizer.decode(header)
        others = ("final", "commentary", "to=")
        return self._tokenizer.channel in header and not any(other in text for other in others)

    def _allowed(self) -> tuple[int, ...]:
        """As much of the closing as the inner guide allows."""
        if self._inner is None:
            return self._closing
        count = 0
        try:
            for token in self._closing:
                mask = self._inner.mask()
                if mask is not None and not is_allowed(mask, token):
                    break
                self._inner.accept(token)
                count += 1
        finally:
            self._inner.rollback(count)
        return self._closing[:count]

    def _only(self, token: int) -> Mask:
        mask = np.zeros((self._tokenizer.size + 31) // 32, np.uint32)
        mask[token >> 5] = np.uint32(1 << (token & 31))
        return mask
