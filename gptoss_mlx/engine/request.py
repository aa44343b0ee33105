"""What the engine is asked, and what it answers, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gptoss_mlx.errors import RequestError
from gptoss_mlx.sampling import SamplingParams

from .masks import Mask

MOST_LOGPROBS = 20


class Guide(Protocol):
    """Follows one sequence and says what may come next, such as `structure.Constraint`."""

    def mask(self) -> Mask | None:
        """The tokens that may come next; None: all."""

    def accept(self, token: int) -> None:
        """Take the next token, which the mask allowed."""

    def forced(self) -> list[int]:
        """Tokens that come next whatever the model thinks; often none."""

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""

    def idle(self) -> int:
        """How many tokens may come, whatever they are, before it could forbid or force any; 0: it has a say now."""


@dataclass
class Figures:
    """What became of a request, as it goes on."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, those that an earlier one had left behind."""
    generated_tokens: int = 0
    drafted_tokens: int = 0
    """Tokens that were guessed and verified."""
    accepted_tokens: int = 0
    """Those of them that were right."""
    prompt_seconds: float = 0.0
    """From the request to the first token."""


@dataclass(frozen=True)
class Request:
    """One sequence to be continued.

    Raises:
        RequestError: `max_tokens` or `logprobs` is out of its range.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """How many tokens at most; None: what the context holds."""
    boundaries: Sequence[int] = ()
    """Positions of the prompt where later prompts may part from it: where messages begin."""
    guide: Guide | None = None
    """What the tokens must be like; used for this request alone."""
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each token (0: only its own log-probability); None: nothing."""
    cancelled: Callable[[], bool] | None = None
    """Asked before each step, from any thread: whether nobody wants the rest."""
    figures: Figures = field(default_factory=Figures, compare=False)
    """What became of it the last time; kept by whoever runs it."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(f"max_tokens: 1 or more expected, {self.max_tokens} found")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise RequestError(f"logprobs: 0 to {MOST_LOGPROBS} expected, {self.logprobs} found")


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities, before temperature, filters, penalties and guides."""

    token: int
    logprob: float
    """Of the token itself."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens, most likely first."""


@dataclass(frozen=True)
class Generated:
    """One token out of the engine."""

    token: int
    stopped: bool
    """Whether it is a stop token, after which nothing follows."""
    forced: bool = False
    """Whether the guide left no choice."""
    logprobs: TokenLogprobs | None = None
