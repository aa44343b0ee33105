"""The plain web: documents by HTTP, without scripts, cookies or a search of its own."""

from __future__ import annotations

from http import HTTPStatus
from importlib.util import find_spec

from ...errors import RequestError
from .backend import BrowserError, Document, SearchResult, at_least
from .decode import decode


class Web:
    """Fetches documents of http and https addresses; only public ones, whatever a page or a redirect says.

    Args:
        max_bytes: how much of a document is read; the rest is cut off.
        timeout: seconds for a document, redirects included.
        max_redirects: how often a server may send on.
        allow_private: also reach this machine and its own networks. Whatever the model reads could make it ask for
            addresses there: leave it off, but for tests.

    Raises:
        BrowserError: httpx is not installed.
        RequestError: a bound makes no sense.
    """

    instructions = "The browser cannot search: open addresses that you know, and links in what they show."

    def __init__(
        self,
        *,
        max_bytes: int = 2_000_000,
        timeout: float = 20.0,
        max_redirects: int = 5,
        allow_private: bool = False,
    ) -> None:
        check_httpx()
        at_least(1, max_bytes=max_bytes)
        at_least(0, max_redirects=max_redirects)
        if not 0 < timeout < float("inf"):
            raise RequestError(f"browser: timeout of some seconds expected, {timeout} found")
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_redirects = max_redirects
        self._allow_private = allow_private

    async def search(self, query: str, topn: int) -> list[SearchResult]:
        """The plain web cannot be searched: always a BrowserError."""
        raise BrowserError("browser.search: there is no search service; open an address that you know")

    async def fetch(self, url: str) -> Document:
        """The document at an address; see `Backend.fetch`."""
        from .transport import Limits, Request, ask

        limits = Limits(self._max_bytes, self._timeout, self._max_redirects)
        answer = await ask(Request("GET", url), limits, guarded=not self._allow_private, accepts=is_text)
        if not 200 <= answer.status < 300:
            raise BrowserError(f"{url}: the server answers {described(answer.status)}")
        if not is_text(answer.media_type):
            raise BrowserError(f"{url}: {answer.media_type} is no text; pages, text and JSON can be shown")
        text = decode(answer.body, answer.charset, cut=answer.cut)
        return Document(answer.url, text, answer.media_type, cut=answer.cut)

    async def close(self) -> None:
        """Nothing to close: connections end with each document."""


def is_text(media_type: str) -> bool:
    """Whether a media type is one of text."""
    kind, _, subtype = media_type.partition("/")
    return kind == "text" or (kind == "application" and subtype.rpartition("+")[2] in ("json", "xml"))


def described(status: int) -> str:
    """An HTTP status with its name, where it has one."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def check_httpx() -> None:
    """See to it that httpx is there.

    Raises:
        BrowserError: it is not.
    """
    if find_spec("httpx") is None:
        raise BrowserError("browser: httpx is not installed; pip install 'gptoss-mlx[tools]'")
