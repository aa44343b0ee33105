"""Citations in an answer, 【3†L5-L9】: which page and which lines they mean."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..citation import Citation
from .page import Page

_CITATION = re.compile(r"【\s*(\d{1,9})\s*(?:†([^【】\n]{0,200}))?】")
_LINES = re.compile(r"\s*L?(\d{1,9})(?:\s*[-–—‑]\s*L?(\d{1,9}))?\b", re.IGNORECASE)


def find_citations(text: str, page: Callable[[int], Page | None]) -> list[Citation]:
    """The citations of an answer, in its order. What names no page that was displayed is left out.

    A citation of search results, or of the matches of a pattern, counts for the page that its line quotes.

    Args:
        text: the answer.
        page: the page displayed under a cursor, None for an unknown cursor.
    """
    found: list[Citation] = []
    for match in _CITATION.finditer(text):
        cursor = int(match[1])
        cited = page(cursor)
        if cited is None:
            continue
        citation = _resolve(match, cursor, cited)
        if citation.url:
            found.append(citation)
    return found


def _resolve(match: re.Match[str], cursor: int, page: Page) -> Citation:
    given = _LINES.match(match[2] or "")
    if given is None:
        return Citation(match.start(), match.end(), cursor, page.url, page.title)
    first, last = sorted((int(given[1]), int(given[2] or given[1])))
    begin, end = page.origin(first), page.origin(last)
    lines = None
    if begin.line is not None:
        same = end.url == begin.url and end.line is not None
        lines = (begin.line, max(begin.line, end.line) if same and end.line is not None else begin.line)
    return Citation(match.start(), match.end(), cursor, begin.url, begin.title, lines)
