"""Where pages come from: what a back end of the browser offers, and what it hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...errors import GptOssError, RequestError


class BrowserError(GptOssError):
    """A page cannot be searched for, fetched or shown. The model reads the message and may try something else."""


def at_least(least: int, **bounds: int) -> None:
    """Check bounds that a caller set; RequestError names the first that is too small."""
    for name, value in bounds.items():
        if value < least:
            raise RequestError(f"browser: {name} of at least {least} expected, {value} found")


@dataclass(frozen=True)
class SearchResult:
    """One hit of a search."""

    url: str
    title: str
    snippet: str = ""
    """Some of the page's own words; the page opens where they stand."""


@dataclass(frozen=True)
class Document:
    """What an address leads to, decoded but not yet laid out."""

    url: str
    """After redirects."""
    text: str
    media_type: str = "text/plain"
    title: str = ""
    """What to call it where it names no title itself; empty for its address."""
    cut: bool = False
    """Whether the end is missing because the document is too long."""


class Backend(Protocol):
    """A source of pages. Its methods raise BrowserError for whatever they cannot do."""

    @property
    def instructions(self) -> str | None:
        """What the model should know about this source, None for nothing."""

    async def search(self, query: str, topn: int) -> list[SearchResult]:
        """At most `topn` hits, the best first."""

    async def fetch(self, url: str) -> Document:
        """The document at an address: one of a result, of a link in a document, or one that the model knows."""

    async def close(self) -> None:
        """Let go of files and connections."""
