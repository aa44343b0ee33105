"""HTML -> lines of text, with headings, lists, rough tables, preformatted text and links that can be opened.

No browser: scripts do not run, styles hide nothing. Whatever the input, text comes out, in time that grows
linearly with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser

from .links import Links, clean, clean_line

_DROPPED = {"template", "svg", "iframe", "object", "select", "audio", "video", "canvas"}
_PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "table", "blockquote", "dl", "ul", "ol"}
_BREAKS = {
    *_PARAGRAPHS, "address", "article", "aside", "body", "br", "caption", "dd", "details", "dialog", "div", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "legend", "li", "main", "nav", "section",
    "summary", "tr",
}  # fmt: skip
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_MAX_TITLE = 200
_MAX_DEPTH = 8
"""Of lists and quotations that are shown as nested."""
_UNSEEN = re.compile(r"<!--|<(script|style)\b[^>]*>", re.IGNORECASE)
_SECTION = re.compile(r"<!\[+")
_ENDS = {name: re.compile(rf"</{name}\b", re.IGNORECASE) for name in ("script", "style")} | {None: re.compile("-->")}

Attributes = list[tuple[str, str | None]]


@dataclass(frozen=True)
class HtmlText:
    """A page's title, its lines, not yet wrapped, and the addresses of its links."""

    title: str
    lines: list[str]
    urls: list[str]


def html_text(html: str, url: str) -> HtmlText:
    """The text of an HTML page whose address is `url`."""
    renderer = _Renderer(url)
    renderer.feed(_only_seen(html))
    renderer.close()
    renderer.end_line()
    if renderer.lines and not renderer.lines[-1]:
        renderer.lines.pop()
    return HtmlText(clean_line("".join(renderer.title), _MAX_TITLE), renderer.lines, renderer.links.urls)


def _only_seen(html: str) -> str:
    """The HTML without comments, scripts, styles and an unfinished tag at the end.

    The standard parser takes quadratic time for many unfinished ones; here each is looked for once. It also raises on
    some sections that begin with `<![`: they become the comments that they are in HTML.
    """
    tags, rest = _finished(html)
    kept, position = [], 0
    while found := _UNSEEN.search(tags, position):
        kept.append(tags[position : found.start()])
        name = found[1].lower() if found[1] else None
        closed = _ENDS[name].search(tags, found.end())
        if closed is None:  # as in browsers, the rest of the page is in it
            position, rest = len(tags), ""
            break
        kept += ["<!---->"] if name is None else []  # what stands around a comment must not join to a tag
        position = closed.end() if name is None else closed.start()
    kept.append(tags[position:])
    return _SECTION.sub("<! ", "".join(_finished("".join(kept)))) + rest


def _finished(html: str) -> tuple[str, str]:
    """HTML up to the end of its last tag, and the text that follows."""
    end = html.rfind(">") + 1
    return html[:end], html[end:].partition("<")[0]


class _Renderer(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links = Links(url)
        self.lines: list[str] = []
        self.title: list[str] = []
        self._in_title = False
        self._dropped: list[str] = []  # open elements of one name, whose content is left out
        self._parts: list[str] = []  # of the line under way
        self._anchor: tuple[str, int] | None = None  # of the open link: address, where in the parts it begins
        self._bullet = ""
        self._lists: list[int | None] = []  # per open list: the number of its next item, None without numbers
        self._quotes = self._pre = self._cells = 0

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        if self._dropped:
            self._dropped += [tag] if tag == self._dropped[0] else []
            return
        self._in_title = False
        if tag in _BREAKS:
            self.end_line(paragraph=self._separate(tag))
        match tag:
            case "title":
                self._in_title = not self.title
            case "base":
                self.links.rebase(_attribute(attrs, "href"))
            case "a":
                self._end_link()
                self._anchor = (_attribute(attrs, "href"), len(self._parts))
            case "img":
                alt = " ".join(_attribute(attrs, "alt").split())
                self._write(f"[Image: {alt}]" if alt else "")
            case "td" | "th":
                self._parts += [" | "] if self._cells else []
                self._cells += 1
            case "hr":
                self._write("---")
                self.end_line()
            case _ if tag in _DROPPED:
                self._dropped = [tag]
            case _:
                self._open(tag, attrs)

    def _open(self, tag: str, attrs: Attributes) -> None:
        match tag:
            case "ul":
                self._lists.append(None)
            case "ol":
                start = _attribute(attrs, "start")
                self._lists.append(int(start) if re.fullmatch(r"\d{1,9}", start) else 1)
            case "li":
                self._bullet = self._next_bullet()
            case "tr":
                self._cells = 0
            case "pre":
                self._pre += 1
            case "blockquote":
                self._quotes += 1
            case _:
                self._bullet += _HEADINGS.get(tag, "")

    def handle_endtag(self, tag: str) -> None:
        if self._dropped:
            if tag == self._dropped[0]:
                self._dropped.pop()
            return
        self._in_title = False
        if tag == "a":
            self._end_link()
        if tag not in _BREAKS:
            return
        self.end_line()
        match tag:
            case "ul" | "ol":
                del self._lists[-1:]
            case "table" | "tr":
                self._cells = 0
            case "pre":
                self._pre = max(0, self._pre - 1)
            case "blockquote":
                self._quotes = max(0, self._quotes - 1)
        if tag in ("li", "ul", "ol") or tag in _HEADINGS:
            self._bullet = "  " if self._lists and tag != "li" else ""
        if self._separate(tag):
            self._blank_line()

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._in_title:
            self.title.append(data)
        elif self._pre:
            first, *others = data.split("\n")
            self._parts.append(clean(first))
            for line in others:
                self.end_line()
                self._parts.append(clean(line))
        else:
            self._write(data)

    def _write(self, text: str) -> None:
        """Add to the line, with each run of white space as one space."""
        words = re.sub(r"\s+", " ", clean(text))
        before = self._parts[-1] if self._parts else " "
        words = words.removeprefix(" ") if before.endswith(" ") else words
        if words:
            self._parts.append(words)

    def _end_link(self) -> None:
        if self._anchor is None:
            return
        href, begin = self._anchor
        self._anchor = None
        text = "".join(self._parts[begin:])
        words = text.strip()
        if words:
            before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
            self._parts[begin:] = [part for part in (before, self.links.mark(words, href), after) if part]

    def end_line(self, *, paragraph: bool = False) -> None:
        """Put the line under way, if any, among the lines, and leave a blank one after it where a paragraph begins."""
        href = self._anchor[0] if self._anchor and not "".join(self._parts[self._anchor[1] :]).strip() else None
        self._end_link()
        self._anchor = None if href is None else (href, 0)  # a link without words so far goes on in the next line
        line = "".join(self._parts).rstrip()
        line = line if self._pre else line.strip()
        self._parts = []
        if line:
            depth = max(0, min(len(self._lists), _MAX_DEPTH) - 1)
            self.lines.append("> " * min(self._quotes, _MAX_DEPTH) + "  " * depth + self._bullet + line)
            self._bullet = "  " if self._bullet and self._lists else ""
        elif self._pre:
            self._blank_line()
        if paragraph:
            self._blank_line()

    def _blank_line(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def _separate(self, tag: str) -> bool:
        """Whether a blank line stands before and after: not in lists and tables."""
        return tag in _PARAGRAPHS and not self._lists and not self._cells

    def _next_bullet(self) -> str:
        number = self._lists[-1] if self._lists else None
        if number is None:
            return "* "
        self._lists[-1] = number + 1
        return f"{number}. "


def _attribute(attrs: Attributes, name: str) -> str:
    return next((value or "" for key, value in attrs if key == name), "")
