"""Reading a message's header from what a model wrote, including everything it gets wrong there.

A header stands between `<|start|>` and `<|message|>`: a role or a tool's name, ` to=recipient`, `<|channel|>` and a
channel, a content type, in either order. Models double parts, misspell them, put prose in, or leave `<|message|>`
out and go on with the text. Two readings serve the two cases: `closed_header` when `<|message|>` has come, so that
all before it is header, and `open_header` when it has not, which finds where the text begins.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from .message import CHANNELS, Author, Role

CHANNEL, CONSTRAIN = "<|channel|>", "<|constrain|>"
Segment = tuple[str, str]
"""A marker (`""` for what precedes the first one) and the text up to the next marker."""

_SPACE = " \t\r\n"
_WORD = re.compile(r"[^ \t\r\n]+")
_RECIPIENT = re.compile(r"to=[ \t]*([\w.:/\-]+)")
_TYPE = re.compile(r"[A-Za-z][\w+./\-]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.\-]*")
_BUILT_IN = re.compile(r"python|(?:functions|browser)\.[\w.\-]+")
_TYPES = ("json", "code")
_ROLES = tuple(role.value for role in Role)
_GLUED = Role.ASSISTANT.value  # the role that a text may be glued to
_BEGINNINGS = ("to=", "functions.", "browser.")
_MIN_ABBREVIATION = 4


@dataclass(frozen=True)
class Header:
    """What a header says. `settled` is False where it should name a channel and does not name a known one."""

    author: Author
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    settled: bool = True
    rest: str | None = None
    """In an open header: the text that is no header any more; None while all of it may be header."""


@dataclass
class _Parts:
    """What has been found so far."""

    channels: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    marked: bool = False
    """Whether a channel marker stands in the header."""


def closed_header(segments: Sequence[Segment], role: Role | None, tools: Collection[str]) -> Header:
    """The header that `<|message|>` has closed. `role` is the one that is known already, if any."""
    parts = _Parts()
    author, words = _author(segments, role)
    others = _known_words(words, author.role, parts, tools)
    for marker, text in segments[1:]:
        found = [match.group() for match in _WORD.finditer(text)]
        first = "" if not found or found[0].startswith("to=") else found.pop(0)
        if marker == CHANNEL:
            parts.marked = True
            name, _, glued = first.partition("to=")
            parts.channels.append(name.partition("<")[0])
            found = [f"to={glued}", *found] if glued else found
            others += _known_words(found, author.role, parts, tools)
        else:
            parts.types += [f"{CONSTRAIN}{first}"] if first else []
            _known_words(found, author.role, parts, tools)  # prose after a type is passed over
    return _finish(author, parts, tools, others)


def open_header(segments: Sequence[Segment], role: Role | None, tools: Collection[str], *, ended: bool) -> Header:
    """The header of a message whose `<|message|>` has not come.

    `rest` is the text that cannot belong to a header; `ended` says that nothing more will come, so that a word
    which could have become part of a header is text after all.
    """
    return _OpenHeader(segments, role, tools, ended).read()


def _author(segments: Sequence[Segment], role: Role | None) -> tuple[Author, list[str]]:
    """Who speaks, and the words after that before the first marker."""
    words = [match.group() for match in _WORD.finditer(segments[0][1])]
    if role is not None:
        return _preset(role), words
    if not words:
        return Author(Role.ASSISTANT), []
    first, later = words[0], words[1:]
    for known in Role:
        repeated = first.replace(known.value, "")
        if first.startswith(known.value) and (not repeated or repeated in CHANNELS):
            name = known.value if known is Role.TOOL else None
            return Author(known, name), [repeated, *later] if repeated else later
        if first.startswith(f"{known.value}:") and known is not Role.TOOL:
            return Author(known, _clean(first.partition(":")[2])), later
    if first.startswith("to="):
        return Author(Role.ASSISTANT), words
    name, to, glued = first.partition("to=")
    return Author(Role.TOOL, _clean(name)), [to + glued, *later] if to else later


def _preset(role: Role) -> Author:
    return Author(role, role.value if role is Role.TOOL else None)


def _known_words(words: Sequence[str], role: Role, parts: _Parts, tools: Collection[str]) -> list[str]:
    """Sort `words` of a closed header into `parts`; the words of which nothing is known."""
    others: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word.startswith("to="):
            name = word.removeprefix("to=") or next(waiting, "")
            parts.recipients.append(_clean(name.removeprefix("to=").partition("<")[0]))
        elif word in _TYPES:
            parts.types.append(word)
        elif _names_tool(word, tools):
            parts.recipients.append(word)
        elif word in CHANNELS and not parts.marked:
            parts.channels.append(word)
        elif word != role.value:
            others.append(word)
    return others


def _names_tool(word: str, tools: Collection[str]) -> bool:
    return bool(_BUILT_IN.fullmatch(word)) or word in tools or f"functions.{word}" in tools


def _finish(
    author: Author, parts: _Parts, tools: Collection[str], others: Sequence[str], rest: str | None = None
) -> Header:
    known = [name for name in map(nearest_channel, parts.channels) if name is not None]
    written = [_clean(name) for name in parts.channels if name]
    channel = known[-1] if known else None
    if author.role is not Role.ASSISTANT:
        channel = written[-1] if written else None
    recipient = _recipient(author.role, parts.recipients, tools)
    kind = _clean(parts.types[0]) if parts.types else None
    if others and kind is None and (recipient is not None or channel == "final"):
        kind = _clean(others[0])
    elif others and kind is not None and recipient is None and channel == "commentary":
        recipient = others[0] if _IDENTIFIER.fullmatch(others[0]) else None
    settled = channel is not None or author.role is not Role.ASSISTANT or not parts.marked
    if not settled and recipient is not None:
        channel, settled = ("commentary" if recipient.startswith("functions.") else "analysis"), True
    return Header(author, channel, recipient, kind, settled, rest)


def _recipient(role: Role, found: Sequence[str], tools: Collection[str]) -> str | None:
    """The one that is meant when recipients are doubled; an assistant that writes to itself addresses nobody."""
    nobody = ("", "all", "assistant") if role is Role.ASSISTANT else ("", "all")
    names = [name for name in found if name not in nobody]
    return declared_name(names[0], tools) if names else None


def declared_name(recipient: str, tools: Collection[str]) -> str:
    """`recipient` as it was declared: with a missing `functions.` added, with a superfluous one removed."""
    if recipient in tools:
        return recipient
    bare = recipient
    while bare.startswith("functions."):
        bare = bare.removeprefix("functions.")
    return next((name for name in (f"functions.{bare}", bare) if name in tools), recipient)


def nearest_channel(word: str) -> str | None:
    """The channel that `word` means: exactly, in another case, cut short, with more behind it, or misspelt."""
    plain = re.sub(r"[^a-z]", "", word.lower())
    for name in CHANNELS:
        if plain.startswith(name) or (len(plain) >= _MIN_ABBREVIATION and name.startswith(plain)):
            return name
    close = difflib.get_close_matches(plain, CHANNELS, n=1, cutoff=0.75)
    return close[0] if close else None


class _OpenHeader:
    """Reads a header from the left as far as it goes."""

    def __init__(self, segments: Sequence[Segment], role: Role | None, tools: Collection[str], ended: bool) -> None:
        (_, self._text), *self._later = segments
        self._role, self._tools, self._ended = role, tools, ended
        self._parts = _Parts()

    def read(self) -> Header:
        """What the header says so far, and the text after it."""
        author, rest = self._opening()
        for i, (marker, text) in enumerate(self._later):
            if rest is not None:
                rest += text
                continue
            last = i == len(self._later) - 1
            begin = self._channel(text, last) if marker == CHANNEL else self._type(text)
            rest = None if begin is None else self._scan(text, begin, last)
        self._parts.marked = any(marker == CHANNEL for marker, _ in self._later)
        return _finish(author, self._parts, self._tools, [], rest)

    def _opening(self) -> tuple[Author, str | None]:
        """Who speaks, and the text that begins before any marker."""
        if self._role is not None:
            return _preset(self._role), self._before_markers(0)
        word = _WORD.search(self._text)
        if word is None:
            return Author(Role.ASSISTANT), None
        author, left = _author([("", word.group())], None)
        begin = word.end() - sum(map(len, left))
        if author.role is not Role.TOOL or author.name == Role.TOOL.value or self._later:
            return author, self._before_markers(begin)
        if word.end() == len(self._text) and not self._ended:
            return author, None  # a tool's name, perhaps
        rest = self._before_markers(begin)
        if self._parts.recipients or (rest is None and not self._ended):
            return author, rest
        glued = len(_GLUED) if word.group().startswith(_GLUED) else 0
        return Author(Role.ASSISTANT), self._text[word.start() + glued :].lstrip(_SPACE)

    def _before_markers(self, begin: int) -> str | None:
        """Where no marker follows, only recipients are header for certain; other known words wait."""
        last = not self._later
        rest = self._scan(self._text, begin, last)
        if not last or self._parts.recipients or (rest is None and not self._ended):
            return rest
        self._parts.types.clear()
        return self._text[begin:].lstrip(_SPACE) or None

    def _channel(self, text: str, last: bool) -> int | None:
        """Read the channel at the beginning of `text`; where to go on, or None to wait for more of the word."""
        word = _WORD.search(text)
        if word is None or word.group().startswith("to="):
            return 0
        name = word.group().lower()
        partial = last and not self._ended and word.end() == len(text)
        if partial and any(channel.startswith(name) and channel != name for channel in CHANNELS):
            return None
        for channel in CHANNELS:
            if name.startswith(channel):
                self._parts.channels.append(channel)
                return word.start() + len(channel)
            if channel.startswith(name) and len(name) >= _MIN_ABBREVIATION:
                self._parts.channels.append(channel)
                return word.end()
        return word.start()

    def _type(self, text: str) -> int:
        match = _TYPE.match(text, len(text) - len(text.lstrip(_SPACE)))
        if match is None or match.group() == "to":
            return 0
        self._parts.types.append(f"{CONSTRAIN}{match.group()}")
        return match.end()

    def _scan(self, text: str, begin: int, last: bool) -> str | None:
        """Take recipients and content types from `text`; the text from the first word that is neither, if any."""
        position = begin
        for word in _WORD.finditer(text, begin):
            if word.start() < position:
                continue
            whole = self._ended or not last or word.end() < len(text)
            recipient = _RECIPIENT.match(text, word.start())
            if recipient is not None:
                self._parts.recipients.append(recipient.group(1))
                position = recipient.end()
                if position < word.end():
                    return text[position:]
            elif not self._ended and last and word.group() == "to=" and not text[word.end() :].strip(_SPACE):
                return None
            elif not (self._take(word.group(), last) if whole else _may_become_header(word.group(), self._tools)):
                return text[word.start() :]
        return None

    def _take(self, word: str, last: bool) -> bool:
        """Whether `word` belongs to a header; before a marker a doubled role or a channel does."""
        if word in _TYPES:
            self._parts.types.append(word)
            return True
        if _names_tool(word, self._tools):
            self._parts.recipients.append(word)
            return True
        return not last and (word in CHANNELS or word in _ROLES)


def _may_become_header(word: str, tools: Collection[str]) -> bool:
    """Whether more letters could make `word` a part of a header."""
    wholes = (*_BEGINNINGS, "python", *_TYPES, *CHANNELS, *_ROLES, *tools)
    return any(whole.startswith(word) for whole in wholes) or word.startswith(_BEGINNINGS)


def _clean(text: str) -> str:
    """`text` with the bytes that are not UTF-8 (kept as surrogates until here) replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
