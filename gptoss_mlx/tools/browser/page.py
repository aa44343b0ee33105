"""A page as the model sees it: numbered lines under a header, with links that it can open."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from .links import clean, clean_line, plain

_MAX_URL = 300
_PASSAGE_WORDS = 6
"""Of a snippet, how many are looked for in the page that it comes from."""
_ABOVE = 4
"""Lines shown above the one that was asked for."""


@dataclass(frozen=True)
class Link:
    """Where a link leads: to an address, or to a line of a page that is open already."""

    url: str
    passage: str = ""
    """Words of the page there, at which it should open."""
    page: Page | None = None
    line: int = 0


@dataclass(frozen=True)
class Origin:
    """What a line of a page quotes: an address, its title, and the number of the line there, if it is known."""

    url: str
    title: str
    line: int | None = None


@dataclass(frozen=True)
class Page:
    """Lines that have been wrapped, cleaned and numbered by their place; there is at least one."""

    url: str
    """Empty for search results."""
    title: str
    lines: tuple[str, ...]
    links: tuple[Link, ...] = ()
    origins: tuple[Origin, ...] = ()
    """Per line, where this page only shows parts of others."""

    def show(self, cursor: int, first: int, count: int | None, chars: int) -> str:
        """The display of a window.

        Args:
            cursor: the number of this display.
            first: the first line, which must exist.
            count: how many lines at most; None leaves it to `chars`.
            chars: how many characters of lines at most; one line is always shown.
        """
        numbered: list[str] = []
        for number, line in enumerate(self.lines[first : None if count is None else first + count], first):
            numbered.append(f"L{number}: {line}")
            chars -= len(numbered[-1]) + 1
            if chars < 0 and len(numbered) > 1:
                numbered.pop()
                break
        place = f" ({clean_line(self.url, _MAX_URL)})" if self.url else ""
        window = f"viewing lines [{first} - {first + len(numbered) - 1}] of {len(self.lines) - 1}"
        return "\n".join([f"[{cursor}] {self.title}{place}", f"**{window}**", "", *numbered])

    def matches(self, pattern: str) -> list[int]:
        """The lines in which `pattern` begins, whatever its case and white space, also across line ends."""
        wanted = _normal(pattern)
        found: list[int] = []
        text, starts = self._searchable
        at = text.find(wanted) if wanted else -1
        while at >= 0:
            line = bisect_right(starts, at) - 1
            if not found or found[-1] != line:
                found.append(line)
            at = text.find(wanted, at + len(wanted))
        return found

    def around(self, line: int) -> int:
        """The line to begin at for `line` to be seen with what precedes it."""
        return max(0, min(line, len(self.lines) - 1) - _ABOVE)

    def locate(self, passage: str) -> int:
        """The line where the words of a snippet stand; 0 where they do not."""
        for fragment in passage.replace("...", "…").split("…"):
            found = self.matches(" ".join(fragment.split()[:_PASSAGE_WORDS]))
            if found:
                return found[0]
        return 0

    def origin(self, line: int) -> Origin:
        """What a line quotes; itself for a page that shows a document."""
        if self.origins:
            return self.origins[min(line, len(self.origins) - 1)]
        return Origin(self.url, self.title, min(line, len(self.lines) - 1))

    @cached_property
    def _searchable(self) -> tuple[str, list[int]]:
        """The text in which patterns are looked for, and where in it each line begins."""
        lines = [_normal(line) for line in self.lines]
        return " ".join(lines), list(accumulate((len(line) + 1 for line in lines[:-1]), initial=0))


def _normal(text: str) -> str:
    return " ".join(clean(plain(text)).split()).casefold()
