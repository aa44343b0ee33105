"""The browser that gpt-oss was trained on: `browser.search`, `browser.open` and `browser.find` over a back end.

Every display gets the next number, its cursor, by which the model opens links, scrolls, and cites what it read.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ...harmony.message import ToolNamespace
from ..citation import Citation
from ..tool import RunnableTool, ToolResult
from .backend import Backend, BrowserError, at_least
from .citations import find_citations
from .layout import document_page, matches_page, results_page, source_page
from .page import Page

SOURCE = "web"
"""The one source that the trained description names."""
_MAX_RESULTS = 20
_MAX_ARGUMENTS = 20_000
_SHOWN = 60
"""Characters of a wrong argument that an error repeats."""


class BrowserTool(RunnableTool):
    """The built-in browser.

    Args:
        backend: where pages come from; closed with the tool.
        view_chars: how much of a page one display holds at most.
        max_pages: how many displays are kept; cursors of older ones lead nowhere any more.

    Raises:
        RequestError: a bound is less than 1.
    """

    def __init__(self, backend: Backend, *, view_chars: int = 6000, max_pages: int = 50) -> None:
        at_least(1, view_chars=view_chars, max_pages=max_pages)
        self.namespace = ToolNamespace.browser()
        self._schemas = {tool.name: tool.parameters or {} for tool in self.namespace.tools}
        self.instructions = backend.instructions
        self._backend = backend
        self._view_chars = view_chars
        self._max_pages = max_pages
        self._pages: dict[int, Page] = {}  # by cursor, the oldest first
        self._next = 0

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Show what the model asks for; see `RunnableTool.run`."""
        name = recipient.rpartition(".")[2]
        try:
            return ToolResult(await self._run(name, arguments))
        except BrowserError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a back end may be anybody's, and a call must not end the turn
            reason = f"browser.{name} failed: {type(error).__name__}: {error}"
        return ToolResult(f"Error: {' '.join(reason.split())}", failed=True)

    async def close(self) -> None:
        """Close the back end."""
        await self._backend.close()

    def page(self, cursor: int) -> Page | None:
        """The page that was displayed under a cursor, as long as it is kept."""
        return self._pages.get(cursor)

    def citations(self, text: str) -> list[Citation]:
        """What an answer cites of the pages that were displayed; see `RunnableTool.citations`."""
        return find_citations(text, self.page)

    async def _run(self, name: str, arguments: str) -> str:
        given = self._read(name, arguments)
        if given.pop("source", None) not in (None, "", SOURCE):
            raise BrowserError(f"browser.{name}: source: only {SOURCE!r} exists; leave it out")
        match name:
            case "search":
                return await self._search(**given)
            case "open":
                return await self._open(**given)
            case _:
                return await self._find(**given)

    async def _search(self, query: str, topn: int) -> str:
        if not query.strip():
            raise BrowserError("browser.search: query: some words expected, none found")
        wanted = max(1, min(topn, _MAX_RESULTS))
        results = await self._backend.search(query, wanted)
        return self._show(results_page(query, results[:wanted]))

    async def _open(self, id: int | str, cursor: int, loc: int, num_lines: int, view_source: bool) -> str:
        page, line = await self._target(id, cursor, view_source)
        if loc >= 0:
            line = loc
        if line >= len(page.lines):
            raise BrowserError(
                f"browser.open: loc: the page has lines 0 to {len(page.lines) - 1}, line {line} was asked for"
            )
        return self._show(page, line, num_lines if num_lines > 0 else None)

    async def _target(self, id: int | str, cursor: int, view_source: bool) -> tuple[Page, int]:
        """The page that `open` is about, and where in it to begin if the model does not say."""
        if isinstance(id, str):
            return await self._fetch(id, view_source), 0
        page = self._displayed(cursor)
        if id < 0 and not view_source:
            return page, 0
        if id < 0:
            if not page.url:
                raise BrowserError("browser.open: view_source: search results have no source; open one of them")
            return await self._fetch(page.url, view_source), 0
        if id >= len(page.links):
            links = f"whose links are 0 to {len(page.links) - 1}" if page.links else "which has no links"
            raise BrowserError(f"browser.open: id: link {id} is not on the page, {links}; check the cursor")
        link = page.links[id]
        if link.page is not None and not view_source:
            return link.page, link.page.around(link.line)
        opened = await self._fetch(link.url, view_source)
        return opened, opened.around(await asyncio.to_thread(opened.locate, link.passage))

    async def _fetch(self, url: str, view_source: bool) -> Page:
        document = await self._backend.fetch(url)
        return await asyncio.to_thread(source_page if view_source else document_page, document)

    async def _find(self, pattern: str, cursor: int) -> str:
        if not pattern.strip():
            raise BrowserError("browser.find: pattern: some words expected, none found")
        return self._show(await asyncio.to_thread(matches_page, self._displayed(cursor), pattern))

    def _displayed(self, cursor: int) -> Page:
        """The page under a cursor, the latest one for -1."""
        if not self._pages:
            raise BrowserError("browser: no page is open; call browser.search, or browser.open with a URL as id")
        page = self._pages.get(cursor if cursor >= 0 else self._next - 1)
        if page is None:
            raise BrowserError(
                f"browser: cursor: no page {cursor}; the cursors are {min(self._pages)} to {self._next - 1}"
            )
        return page

    def _show(self, page: Page, first: int = 0, count: int | None = None) -> str:
        cursor = self._next
        self._next += 1
        self._pages[cursor] = page
        while len(self._pages) > self._max_pages:
            del self._pages[next(iter(self._pages))]
        return page.show(cursor, first, count, self._view_chars)

    def _read(self, name: str, arguments: str) -> dict[str, Any]:
        """The arguments of a call, checked and completed by the schema that the model was given."""
        where = f"browser.{name}"
        if name not in self._schemas:
            raise BrowserError(f"{where}: no such function; call browser.{', browser.'.join(self._schemas)}")
        properties, required = self._schemas[name]["properties"], self._schemas[name].get("required", ())
        given = _read_object(where, arguments)
        unknown = next((key for key in given if key not in properties), None)
        if unknown is not None:
            raise BrowserError(f"{where}: unknown argument {unknown[:_SHOWN]!r}; it takes {', '.join(properties)}")
        read = {key: _read_value(f"{where}: {key}", given.get(key), schema) for key, schema in properties.items()}
        missing = next((key for key in required if read[key] is None), None)
        if missing is not None:
            raise BrowserError(f"{where}: {missing} is missing")
        return read


def _read_object(where: str, arguments: str) -> dict[str, Any]:
    if len(arguments) > _MAX_ARGUMENTS:
        raise BrowserError(f"{where}: at most {_MAX_ARGUMENTS} characters expected, {len(arguments)} found")
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BrowserError(f"{where}: a JSON object of arguments expected, {arguments[:_SHOWN]!r} found")
    return given


def _read_value(where: str, value: Any, schema: dict[str, Any]) -> Any:
    """A value of the schema's type, read from what models write for it; the default for none."""
    if value is None:
        return schema.get("default")
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "number" in kinds and (number := _integer(value)) is not None:
        return number
    if "boolean" in kinds and isinstance(value, bool):
        return value
    if "string" in kinds and isinstance(value, str):
        return value.encode(errors="replace").decode()
    expected = " or ".join({"number": "an integer", "string": "a text", "boolean": "true or false"}[k] for k in kinds)
    raise BrowserError(f"{where}: {expected} expected, {json.dumps(value)[:_SHOWN]} found")


def _integer(value: Any) -> int | None:
    """A whole number, also one written `3.0` or `"3"`."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)
