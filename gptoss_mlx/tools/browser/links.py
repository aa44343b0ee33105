"""Links and citations as the model was trained to see them: 【3†text†domain】.

The first part is the number that `browser.open` takes, the last the site, where it is another one than the page's.
Text from outside never holds these brackets: what looks like a link or a citation was written here.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin, urlsplit

LOCAL = "local://"
"""Begins the address of a document in a local folder; the path follows: `local:///notes/tides.md`."""

_MAX_URL, _MAX_HOST, _MAX_LINKS = 2000, 253, 5000
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")
_CLEAN = {**_CONTROLS, **_SURROGATES, **str.maketrans("【】†", "〖〗‡")}
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff<>【】†]")
_MARKS = re.compile(r"【\d*†|(?:†[^】†]*)?】")


def clean(text: str) -> str:
    """Text from outside without what could pass for a link, and without control characters."""
    return text.translate(_CLEAN)


def clean_line(text: str, limit: int) -> str:
    """The same on one line, shortened to `limit` characters."""
    line = " ".join(clean(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def plain(line: str) -> str:
    """A line of a page with the words of its links, but not their marks."""
    return _MARKS.sub("", line)


def site(url: str) -> str:
    """The site that an address belongs to, as a reader would call it; empty for local documents and bad addresses."""
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def marker(number: int, text: str, place: str = "") -> str:
    """A link's spelling in a page. `text` and `place` are clean."""
    return f"【{number}†{text}†{place}】" if place else f"【{number}†{text}】"


class Links:
    """The links of a page, numbered as they are met; one address has one number."""

    def __init__(self, base: str) -> None:
        self._own = self._base = base
        self._numbers: dict[str, int] = {}

    @property
    def urls(self) -> list[str]:
        """The addresses in the order of their numbers."""
        return list(self._numbers)

    def rebase(self, href: str) -> None:
        """Let relative addresses start from another page than the one that they are on."""
        self._base = join(self._own, href) or self._base

    def mark(self, text: str, href: str) -> str:
        """The spelling of a link; only its text where it leads to no other page, or is one too many.

        `text` is clean.
        """
        url = join(self._base, href)
        if url is None or url == self._own.partition("#")[0]:
            return text
        if url not in self._numbers and len(self._numbers) == _MAX_LINKS:
            return text
        number = self._numbers.setdefault(url, len(self._numbers))
        place = site(url)
        return marker(number, text, place if place != site(self._own) else "")


def join(base: str, href: str) -> str | None:
    """The address, without fragment, that a link on the page `base` leads to; None where it is no page's address."""
    href = href.strip()
    try:
        if base.startswith(LOCAL) and not urlsplit(href).scheme:  # urljoin knows no relative addresses of our scheme
            url = LOCAL + urljoin(base.removeprefix(LOCAL), href)
        else:
            url = urljoin(base, href)
        url = url.partition("#")[0]
        parts = urlsplit(url)
        on_web = parts.scheme in ("http", "https") and 0 < len(parts.hostname or "") <= _MAX_HOST
    except ValueError:
        return None
    return safe_url(url) if (on_web or url.startswith(LOCAL)) and len(url) <= _MAX_URL else None


def safe_url(url: str) -> str:
    """An address with blanks, control characters and our own brackets percent-encoded."""
    return _UNSAFE.sub(lambda found: quote(found[0], errors="replace"), url)
