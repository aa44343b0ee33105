"""Search services of the web, each by its API key; documents come over plain HTTP (see `web`)."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from .backend import BrowserError, Document, SearchResult
from .html_text import html_text
from .web import Web, described

if TYPE_CHECKING:
    from .transport import Request

_MAX_BYTES = 4_000_000
_TIMEOUT = 20.0


class SearchService(ABC):
    """A service that searches the web.

    Args:
        key: its API key; None takes it from the environment variable `variable`.
        web: fetches the documents; None for one with the usual limits.
        endpoint: where the service is asked; None for its public address.

    Raises:
        BrowserError: there is no key, or httpx is not installed.
    """

    variable: ClassVar[str]
    public_endpoint: ClassVar[str]
    found: ClassVar[tuple[str, ...]]
    """Where in the answer the list of results is."""
    snippet: ClassVar[str]
    """Which field of a result quotes the page."""
    markup: ClassVar[bool] = False
    """Whether titles and snippets hold tags and entities."""
    instructions = None

    def __init__(self, key: str | None = None, *, web: Web | None = None, endpoint: str | None = None) -> None:
        self._name = type(self).__name__
        self._key = (key or os.environ.get(self.variable, "")).strip()
        if not self._key:
            raise BrowserError(f"browser: {self._name} needs an API key; set {self.variable} or pass key=")
        if not self._key.isascii() or not self._key.isprintable():  # errors about headers would show it
            raise BrowserError(f"browser: {self._name}: an API key of printable ASCII expected; check {self.variable}")
        self._web = web or Web()
        self._endpoint = endpoint or self.public_endpoint

    async def search(self, query: str, topn: int) -> list[SearchResult]:
        """What the service finds; see `Backend.search`."""
        from .transport import Limits, ask

        request = self.request(query, topn)
        answer = await ask(request, Limits(_MAX_BYTES, _TIMEOUT), guarded=False)
        if answer.status in (401, 403):
            raise BrowserError(f"browser.search: {self._name} refuses the API key; check {self.variable}")
        if answer.status != 200:
            raise BrowserError(f"browser.search: {self._name} answers {described(answer.status)}")
        try:
            return self._results(json.loads(answer.body))[:topn]
        except (ValueError, RecursionError):
            raise BrowserError(f"browser.search: {self._name} answers something else than its JSON") from None

    async def fetch(self, url: str) -> Document:
        """The document at an address; see `Web.fetch`."""
        return await self._web.fetch(url)

    async def close(self) -> None:
        """Close what fetches the documents."""
        await self._web.close()

    @abstractmethod
    def request(self, query: str, topn: int) -> Request:
        """What to ask the service."""

    def _results(self, answer: Any) -> list[SearchResult]:
        for name in self.found:
            answer = answer.get(name) if isinstance(answer, dict) else None
        items = answer if isinstance(answer, list) else []
        return [self._result(item) for item in items if isinstance(item, dict) and isinstance(item.get("url"), str)]

    def _result(self, item: dict[str, Any]) -> SearchResult:
        quoted = item.get(self.snippet)
        quotes = quoted if isinstance(quoted, list) else [quoted]
        snippet = " … ".join(self._text(quote) for quote in quotes if isinstance(quote, str))
        title = item.get("title")
        return SearchResult(item["url"], self._text(title) if isinstance(title, str) else "", snippet)

    def _text(self, text: str) -> str:
        return " ".join(html_text(text, "").lines) if self.markup else text


class Exa(SearchService):
    """https://exa.ai"""

    variable = "EXA_API_KEY"
    public_endpoint = "https://api.exa.ai/search"
    found = ("results",)
    snippet = "highlights"

    def request(self, query: str, topn: int) -> Request:
        """See `SearchService.request`."""
        from .transport import Request

        asked = {"query": query, "numResults": topn, "contents": {"highlights": True}}
        return Request("POST", self._endpoint, {"x-api-key": self._key}, json=asked)


class Brave(SearchService):
    """https://brave.com/search/api"""

    variable = "BRAVE_API_KEY"
    public_endpoint = "https://api.search.brave.com/res/v1/web/search"
    found = ("web", "results")
    snippet = "description"
    markup = True

    def request(self, query: str, topn: int) -> Request:
        """See `SearchService.request`."""
        from .transport import Request

        headers = {"X-Subscription-Token": self._key, "Accept": "application/json"}
        return Request("GET", self._endpoint, headers, params={"q": query[:400], "count": str(min(topn, 20))})


class Tavily(SearchService):
    """https://tavily.com"""

    variable = "TAVILY_API_KEY"
    public_endpoint = "https://api.tavily.com/search"
    found = ("results",)
    snippet = "content"

    def request(self, query: str, topn: int) -> Request:
        """See `SearchService.request`."""
        from .transport import Request

        asked = {"query": query, "max_results": min(topn, 20)}
        return Request("POST", self._endpoint, {"Authorization": f"Bearer {self._key}"}, json=asked)
