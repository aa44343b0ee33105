"""What the browser found -> pages: documents by their kind, their source, search results, matches of a pattern."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from .backend import Document, SearchResult
from .html_text import html_text
from .links import LOCAL, Links, clean, clean_line, marker, plain, safe_url, site
from .page import Link, Origin, Page

WIDTH = 80
"""Columns of a line, links aside."""
_MAX_TITLE = 120
_MAX_SNIPPET = 600
_MAX_MATCHES = 50
_JSON_GROWTH = 10
_BEFORE, _AFTER = 1, 2
"""Lines shown around a match."""
_PIECES = re.compile(rf"\s{{0,40}}(?:【[^】]{{0,{2 * WIDTH}}}】[.,;:!?)]{{0,5}}|[^\s【]{{1,{WIDTH}}}|【)")
_MARKDOWN_LINK = re.compile(r"(?<!!)\[([^\[\]\n]{1,200})\]\(<?([^\s()<>]{1,2000})>?(?:\s+\"[^\"\n]{0,200}\")?\)")
_MARKDOWN_TITLE = re.compile(r"^#[ \t]+(\S[^\n]*)$", re.MULTILINE)

Quoted = tuple[str, Origin]
"""A line, and what it quotes."""


def document_page(document: Document) -> Page:
    """A document laid out by its media type."""
    title, urls = document.title, list[str]()
    match document.media_type:
        case "text/html" | "application/xhtml+xml":
            html = html_text(document.text, document.url)
            title, lines, urls = html.title or title, html.lines, html.urls
        case "text/markdown":
            heading = _MARKDOWN_TITLE.search(document.text)
            links = Links(document.url)
            lines = [_mark_links(line, links) for line in document.text.splitlines()]
            title, urls = heading[1] if heading else title, links.urls
        case kind if kind.endswith("json"):
            lines = _readable_json(document.text).splitlines()
        case _:
            lines = [clean(line) for line in document.text.splitlines()]
    return _page(document, title, lines, (Link(url) for url in urls))


def source_page(document: Document) -> Page:
    """A document as it was sent."""
    lines = [clean(line) for line in document.text.splitlines()]
    return _page(document, f"Source of {document.title or document.url}", lines)


def results_page(query: str, results: Iterable[SearchResult]) -> Page:
    """What a search found: per result its link and a snippet."""
    quoted, links = list[Quoted](), list[Link]()
    for number, result in enumerate(results):
        url = safe_url(result.url)
        title = clean_line(result.title, _MAX_TITLE) or _place(url)
        snippet = clean_line(result.snippet, _MAX_SNIPPET)
        block = [marker(number, title, _place(url)), *(wrap(snippet) if snippet else ()), ""]
        quoted += [(line, Origin(url, title)) for line in block]
        links.append(Link(url, passage=result.snippet))
    title = f"Search results for: {clean_line(query, _MAX_TITLE)}"
    return _quoting("", title, quoted, links) or Page("", title, ("No results. Try other words.",))


def matches_page(page: Page, pattern: str) -> Page:
    """Where a page says something: per match its link and the lines around it."""
    quoted, links, shown = list[Quoted](), list[Link](), -1
    for line in page.matches(pattern):
        if line <= shown:
            continue
        if len(links) == _MAX_MATCHES:
            quoted.append((f"(More than {_MAX_MATCHES} matches: only these are shown.)", page.origin(line)))
            break
        around = range(max(shown + 1, line - _BEFORE), min(line + _AFTER + 1, len(page.lines)))
        shown = around[-1]
        quoted.append((f"# {marker(len(links), f'match at L{line}')}", page.origin(line)))
        quoted += [(plain(page.lines[number]), page.origin(number)) for number in around]
        quoted.append(("", page.origin(shown)))
        links.append(Link(page.url, page=page, line=line))
    title = f"Matches of “{clean_line(pattern, _MAX_TITLE)}” in {page.title}"
    nothing = Page(page.url, title, ("No matches. Try fewer words, or words that the page uses.",))
    return _quoting(page.url, title, quoted, links) or nothing


def _quoting(url: str, title: str, quoted: list[Quoted], links: list[Link]) -> Page | None:
    """A page of lines that quote others, without the blank one at its end; None for none."""
    if not quoted:
        return None
    lines, origins = zip(*(quoted if quoted[-1][0] else quoted[:-1]), strict=True)
    return Page(url, title, lines, tuple(links), origins)


def wrap(line: str) -> list[str]:
    """A line cut between words to at most WIDTH columns; links stay whole, and may be wider."""
    line = line.expandtabs(4).rstrip()
    if len(line) <= WIDTH:
        return [line]
    lines, current = list[str](), ""
    for piece in _PIECES.findall(line):
        if current and len(current) + len(piece) > WIDTH:
            lines.append(current)
            piece = piece.lstrip()
            current = ""
        current += piece
    return [*lines, current]


def _page(document: Document, title: str, lines: Iterable[str], links: Iterable[Link] = ()) -> Page:
    title = clean_line(title, _MAX_TITLE) or _place(document.url)
    return Page(safe_url(document.url), title, tuple(_wrapped(lines, document.cut)), tuple(links))


def _wrapped(lines: Iterable[str], cut: bool) -> Iterator[str]:
    empty = True
    for line in lines:
        if line.strip() or not empty:
            empty = False
            yield from wrap(line)
    if empty:
        yield "(This page has no text.)"
    if cut:
        yield "(The page is longer: its end was not fetched.)"


def _place(url: str) -> str:
    """A site, or a local document's path in its folder."""
    return clean_line(unquote(url.removeprefix(LOCAL + "/")) if url.startswith(LOCAL) else site(url) or url, _MAX_TITLE)


def _mark_links(line: str, links: Links) -> str:
    return _MARKDOWN_LINK.sub(lambda found: links.mark(found[1], found[2]), clean(line))


def _readable_json(text: str) -> str:
    """JSON with a line per value; as it is where it is none, or would grow beyond measure by its depth."""
    pieces, room = list[str](), _JSON_GROWTH * len(text)
    try:
        for piece in json.JSONEncoder(indent=1, ensure_ascii=False).iterencode(json.loads(text)):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                return clean(text)
    except (ValueError, RecursionError):
        return clean(text)
    return clean("".join(pieces))
