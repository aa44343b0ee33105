"""What an answer cites of what a tool has shown, and how to show that to a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote

_MARKDOWN = re.compile(r"([\\\[\]*_`<>&])")
_UNSAFE = re.compile(r"[\s<>\\]")


@dataclass(frozen=True)
class Citation:
    """A place in an answer that names a page as its source."""

    start: int
    end: int
    """The characters of the answer that spell the citation: `text[start:end]`."""
    cursor: int
    url: str
    title: str
    lines: tuple[int, int] | None = None
    """First and last line of the document at `url`; None where the citation names none."""

    @property
    def link(self) -> str | None:
        """The address that a person may follow, fit for Markdown's `<...>`; None for what is not on the web."""
        on_web = self.url.startswith(("https://", "http://"))
        return _UNSAFE.sub(lambda found: quote(found[0], errors="replace"), self.url) if on_web else None


def with_footnotes(text: str, citations: Iterable[Citation]) -> str:
    """An answer in Markdown with its citations as footnotes; the same source and lines share one."""
    marked, notes = _marked(text, citations, lambda number, _: f"[^{number}]")
    return marked + _listed("", (f"[^{number}]: {note}" for number, note in enumerate(notes, 1)))


def with_links(text: str, citations: Iterable[Citation]) -> str:
    """The same as links with a list of sources below, for what shows Markdown and knows no footnotes."""
    marked, notes = _marked(text, citations, _linked)
    return marked + _listed("Sources:\n\n", (f"{number}. {note}" for number, note in enumerate(notes, 1)))


def _linked(number: int, citation: Citation) -> str:
    return f"[{number}]" if citation.link is None else f"[[{number}]](<{citation.link}>)"


def _listed(heading: str, notes: Iterable[str]) -> str:
    listed = "\n".join(notes)
    return f"\n\n{heading}{listed}" if listed else ""


def _marked(
    text: str, citations: Iterable[Citation], mark: Callable[[int, Citation], str]
) -> tuple[str, Iterable[str]]:
    """The text with a mark for each citation, and what the numbers mean, from 1 on."""
    numbers: dict[str, int] = {}
    parts, position = [], 0
    for citation in citations:
        number = numbers.setdefault(_source(citation), len(numbers) + 1)
        parts += [text[position : citation.start], mark(number, citation)]
        position = citation.end
    return "".join([*parts, text[position:]]), numbers


def _source(citation: Citation) -> str:
    title = _MARKDOWN.sub(r"\\\1", " ".join(citation.title.split()))
    address = citation.url.replace("`", "%60")
    source = f"{title} `{address}`" if citation.link is None else f"[{title}](<{citation.link}>)"
    if citation.lines is None:
        return source
    first, last = citation.lines
    return f"{source}, line {first}" if first == last else f"{source}, lines {first}–{last}"
