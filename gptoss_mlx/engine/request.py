"""What the engine is asked for, and what it is guided by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from gptoss_mlx.sampling import SamplingParams

from .masks import Mask


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely the model held a token, and the likeliest ones in its place."""

    token: int
    logprob: float
    """Natural logarithm of its probability."""
    top: tuple[tuple[int, float], ...] = ()
    """Tokens and their logarithms, the likeliest first."""


class Guide(Protocol):
    """Says which tokens may come next in one sequence, from where its prompt ends."""

    def mask(self) -> Mask | None:
        """What may come next; None: anything."""

    def accept(self, token: int) -> None:
        """Go on by one token; RequestError if it is not allowed."""

    def forced(self) -> list[int]:
        """Tokens that are certain to come next; often none."""

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""


@dataclass
class Figures:
    """What the engine tells of its work on a request."""

    cached_tokens: int = 0
    """Tokens of the prompt that it remembered."""


@dataclass(frozen=True)
class Request:
    """One sequence to generate."""

    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int
    boundaries: tuple[int, ...] = ()
    """Positions in the prompt where messages begin: worth remembering."""
    guide: Guide | None = None
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each; None: nothing."""
    figures: Figures = field(default_factory=Figures)
