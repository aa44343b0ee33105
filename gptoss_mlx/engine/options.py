"""What an engine may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.errors import RequestError


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may take.

    Raises:
        RequestError: a number is out of its range.
    """

    max_sequences: int = 8
    """Sequences that run together; others wait."""
    max_waiting: int = 256
    """Sequences that wait; more are refused."""
    prefix_bytes: int = 2 << 30
    """Memory for the states of earlier prompts; 0 remembers nothing."""
    prompt_cache: Path | None = None
    """A folder that keeps the states of prompts for later processes (`Engine.save`); None: nothing leaves memory."""
    prompt_cache_bytes: int = 16 << 30
    """Bytes that such a folder may take."""
    speculate: bool = True
    """Whether to draft tokens from what was said before, where that pays."""

    def __post_init__(self) -> None:
        for name, least in (("max_sequences", 1), ("max_waiting", 0), ("prefix_bytes", 0), ("prompt_cache_bytes", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name}: {least} or more expected, {getattr(self, name)} found")
