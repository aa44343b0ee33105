"""How fast an answer came and how full the context is, in one line; and the same of a whole session."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from gptoss_mlx.events import Event, Usage


class Stopwatch:
    """Measures the time until the first event of an answer."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self.first_token: float | None = None
        """Seconds, once it is there."""

    def watch(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """Pass the events on."""
        for event in events:
            if self.first_token is None:
                self.first_token = time.perf_counter() - self._begun
            yield event


def status_line(usage: Usage, context: int, room: int, first_token: float | None) -> str:
    """What is shown after an answer.

    Args:
        usage: of the reply.
        context: tokens that the conversation takes now.
        room: tokens that the model can hold.
        first_token: seconds until it came.
    """
    parts = [f"{usage.tokens_per_second:.1f} tokens/s", f"context {context:,} of {room:,}"]
    if usage.cached_tokens:
        parts.append(f"{usage.cached_tokens:,} reused")
    if first_token is not None:
        parts.append(f"first token after {first_token:.2f} s")
    return " · ".join(parts)


@dataclass
class Totals:
    """What a session has used."""

    answers: int = 0
    usage: Usage = field(default_factory=Usage)

    def add(self, usage: Usage) -> None:
        """Count one answer."""
        self.answers += 1
        self.usage += usage

    def lines(self) -> list[str]:
        """What `/stats` shows."""
        u = self.usage
        return [
            f"answers         {self.answers:,}",
            f"tokens read     {u.prompt_tokens:,}, {u.cached_tokens:,} of them reused, {u.prompt_seconds:.1f} s",
            f"tokens written  {u.completion_tokens:,}, {u.reasoning_tokens:,} of them thoughts, "
            f"{u.completion_seconds:.1f} s",
            f"decoding        {u.tokens_per_second:.1f} tokens/s",
        ]
