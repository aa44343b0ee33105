"""The patch format that the model was trained to write: read it, and compute what files become. No file is touched.

    *** Begin Patch
    *** Add File: notes.txt
    +first line
    *** Update File: src/tide.py
    *** Move to: src/tides.py
    @@ class Tide:
    @@     def height(self):
             hours = self.hours
    -        return 0
    +        return hours
    *** Delete File: old.py
    *** End Patch

An update is a list of hunks in the order of the file. `@@` lines name lines that come before the hunk; of its own
lines, those with a blank or a minus are looked for from there on: as they are, then without blanks at their ends,
then without blanks on both sides. `*** End of File` says that they are the file's last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import RequestError

BEGIN, END = "*** Begin Patch", "*** End Patch"
ADD, UPDATE, DELETE = "*** Add File:", "*** Update File:", "*** Delete File:"
MOVE, END_OF_FILE = "*** Move to:", "*** End of File"
BYTE_ORDER_MARK = "\ufeff"
LEVELS: tuple[Callable[[str], str], ...] = (str, str.rstrip, str.strip)
"""How lines are compared: each is tried on the whole rest of the file before the next."""


@dataclass(frozen=True)
class Hunk:
    """One place to change: (sign, text) of each line, the sign a blank, `-` or `+`; and what to look for before."""

    headers: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    at_end: bool = False
    loose: int = 0
    """How many empty lines end it, without a sign: context, or only there to set the hunk off."""

    @property
    def old(self) -> list[str]:
        """The lines to find."""
        return [text for sign, text in self.lines if sign != "+"]


@dataclass(frozen=True)
class AddFile:
    """A file to create."""

    path: str
    text: str


@dataclass(frozen=True)
class DeleteFile:
    """A file to delete."""

    path: str


@dataclass(frozen=True)
class UpdateFile:
    """A file to change, and perhaps to move."""

    path: str
    hunks: tuple[Hunk, ...]
    move_to: str | None = None


Action = AddFile | DeleteFile | UpdateFile


def parse(patch: str) -> list[Action]:
    """Read a patch.

    Raises:
        RequestError: it is none; the message names the line, what was expected and what was found.
    """
    return _Parser(patch).actions()


class _Parser:
    def __init__(self, patch: str) -> None:
        self._lines = patch.replace("\r\n", "\n").strip().split("\n")
        self._next = 0

    def actions(self) -> list[Action]:
        if self._pop() != BEGIN:
            raise self._error(f"{BEGIN!r}", back=1)
        result: list[Action] = []
        while (action := self._action()) is not None:
            result.append(action)
        if self._next < len(self._lines):
            raise self._error(f"nothing after {END!r}")
        if not result:
            raise self._error(f"{ADD!r}, {UPDATE!r} or {DELETE!r}", back=1)
        return result

    def _action(self) -> Action | None:
        """The next section; None at the end of the patch."""
        while self._peek() == "":
            self._pop()
        if self._peek() is None:
            raise self._error(f"{END!r}")
        line = self._pop() or ""
        if line == END:
            return None
        if line.startswith(ADD):
            return AddFile(self._path(line, ADD), "".join(f"{added}\n" for added in self._added()))
        if line.startswith(DELETE):
            return DeleteFile(self._path(line, DELETE))
        if line.startswith(UPDATE):
            return self._update(self._path(line, UPDATE))
        raise self._error(f"{ADD!r}, {UPDATE!r}, {DELETE!r} or {END!r}", back=1)

    def _added(self) -> list[str]:
        added = []
        while (line := self._peek()) is not None and line.startswith("+"):
            added.append(line[1:])
            self._pop()
        return added

    def _update(self, path: str) -> UpdateFile:
        target = None
        if (line := self._peek()) is not None and line.startswith(MOVE):
            self._pop()
            target = self._path(line, MOVE)
        hunks: list[Hunk] = []
        while (line := self._peek()) is not None and not line.startswith("***"):
            hunks.append(self._hunk())
        if not hunks and target is None:
            raise self._error(f"a hunk for {path} ('@@', then lines that begin with ' ', '-' or '+')")
        return UpdateFile(path, tuple(hunks), target)

    def _hunk(self) -> Hunk:
        headers, lines = [], []
        while (line := self._peek()) is not None and line.startswith("@@"):
            headers.append(line[2:].removeprefix(" "))
            self._pop()
        while (line := self._peek()) is not None and not line.startswith(("@@", "***")):
            if line and line[0] not in " -+":
                raise self._error("a line of a hunk that begins with ' ', '-' or '+'")
            lines.append((line[:1] or " ", line[1:]))
            self._pop()
        if not lines:
            raise self._error("lines of a hunk that begin with ' ', '-' or '+'")
        loose = next(i for i in range(len(lines) + 1) if i == len(lines) or self._lines[self._next - 1 - i])
        at_end = self._peek() == END_OF_FILE
        if at_end:
            self._pop()
        return Hunk(tuple(header for header in headers if header.strip()), tuple(lines), at_end, loose)

    def _path(self, line: str, marker: str) -> str:
        path = line[len(marker) :].strip()
        if not path:
            raise self._error(f"a path after {marker!r}", back=1)
        return path

    def _peek(self) -> str | None:
        """The next line, without the blanks after a marker or an empty line's; None at the end."""
        if self._next >= len(self._lines):
            return None
        line = self._lines[self._next]
        return line.rstrip() if line.startswith("***") else line

    def _pop(self) -> str | None:
        line = self._peek()
        self._next += 1
        return line

    def _error(self, expected: str, back: int = 0) -> RequestError:
        at = self._next - back
        found = _quoted(self._lines[at]) if at < len(self._lines) else "the end"
        return RequestError(f"patch line {at + 1}: expected {expected}, found {found}")


def new_contents(actions: Sequence[Action], read: Callable[[str], str | None]) -> dict[str, str | None]:
    """What the actions make of each file that they name: its text, or None where it is gone.

    Args:
        actions: taken in their order; each sees what those before it did.
        read: the text of a file, None where there is no file.

    Raises:
        RequestError: a file is missing, or there already, or a hunk does not fit.
    """
    texts: dict[str, str | None] = {}

    def text_of(path: str, there: bool) -> str:
        text = texts[path] if path in texts else read(path)
        if (text is not None) != there:
            raise RequestError(f"{path}: no such file" if there else f"{path}: there is such a file already")
        return text or ""

    for action in actions:
        path = action.path
        text = text_of(path, there=not isinstance(action, AddFile))
        match action:
            case AddFile(_, added):
                texts[path] = added
            case DeleteFile():
                texts[path] = None
            case UpdateFile(_, hunks, target):
                if target is not None and target != path:
                    text_of(target, there=False)
                    texts[path] = None
                texts[target or path] = updated(path, text, hunks)
    return texts


def updated(path: str, text: str, hunks: Sequence[Hunk]) -> str:
    """The text of a file after the hunks.

    Lines that stay keep their line endings; new ones get the ending of most lines. The end of the file has a line
    break if it had one, and a new file's end has one.

    Raises:
        RequestError: a hunk's place is not found; the message names file, hunk and line.
    """
    mark = BYTE_ORDER_MARK if text.startswith(BYTE_ORDER_MARK) else ""
    lines = split_lines(text.removeprefix(mark))
    newline = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"
    bare = [_bare(line) for line in lines]
    result: list[str] = []
    done = 0
    for number, hunk in enumerate(hunks, 1):
        try:
            start, hunk = _locate(bare, hunk, done)
        except RequestError as error:
            raise RequestError(f"{path}: hunk {number}: {error}") from None
        result += lines[done:start]
        done = start + len(hunk.old)
        result += _changed(lines[start:done], hunk, newline)
    result += lines[done:]
    terminated = not lines or lines[-1].endswith("\n")
    ended = [line if line.endswith("\n") else line + newline for line in result]
    if ended and not terminated:
        ended[-1] = _bare(ended[-1])
    return mark + "".join(ended)


def split_lines(text: str) -> list[str]:
    """The lines with their endings; only a line feed, alone or after a carriage return, ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _bare(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _changed(old: list[str], hunk: Hunk, newline: str) -> list[str]:
    """The lines that a hunk leaves, those of its context as they are in the file."""
    kept = iter(old)
    result = []
    for sign, text in hunk.lines:
        if sign == "+":
            result.append(text + newline)
            continue
        line = next(kept)
        if sign == " ":
            result.append(line)
    return result


def _locate(lines: list[str], hunk: Hunk, done: int) -> tuple[int, Hunk]:
    """Where the hunk's old lines begin, and the hunk, without its loose lines if they do not belong to it."""
    starts, insertion = _after_headers(lines, hunk.headers, done)
    tight = replace(hunk, lines=hunk.lines[: len(hunk.lines) - hunk.loose])
    if tight.lines and not tight.old:
        return _insertion(lines, tight, insertion), tight
    for candidate in (hunk, tight):
        for start in starts if candidate.lines else ():
            found = _find(lines, candidate.old, start, candidate.at_end)
            if found is not None:
                return found, candidate
    raise _not_found(lines, hunk, starts[0])


def _after_headers(lines: list[str], headers: Sequence[str], done: int) -> tuple[list[int], int | None]:
    """Where to look for the old lines, first choice first, and the place after the last header.

    The header's own line may be among the old lines. A header that stands only before what is done names the part of
    the file that the last hunk was in; if it comes again as well, it may name either.
    """
    start = cursor = done
    insertion, behind, only_behind = None, False, False
    for header in headers:
        found = _find(lines, [header], cursor)
        passed = cursor == done and _find(lines[:done], [header], 0) is not None
        if found is None and not passed:
            raise RequestError(f"header not found: {_quoted(header)}; copy the line as it stands in the file")
        behind, only_behind = behind or passed, only_behind or found is None
        insertion = None
        if found is not None:
            start, cursor, insertion = found, found + 1, found + 1
    starts = [done, start] if only_behind else [start, done] if behind else [start]
    return starts, insertion


def _insertion(lines: list[str], hunk: Hunk, after: int | None) -> int:
    """Where a hunk without old lines goes: after its header, or to the file's end."""
    if hunk.at_end or not lines:
        return len(lines)
    if after is None:
        raise RequestError(f"no context; give lines around {_quoted(hunk.lines[0][1])}, a header or {END_OF_FILE!r}")
    return after


def _find(lines: list[str], wanted: list[str], start: int, at_end: bool = False) -> int | None:
    """The first place from `start` on where the wanted lines stand; `at_end`: only as the last ones."""
    last = len(lines) - len(wanted)
    places = range(max(start, last) if at_end else start, last + 1)
    for level in LEVELS:
        compared, sought = list(map(level, lines)), list(map(level, wanted))
        for place in places:
            if compared[place] == sought[0] and compared[place : place + len(sought)] == sought:
                return place
    return None


def _not_found(lines: list[str], hunk: Hunk, start: int) -> RequestError:
    """What to tell of old lines that are not there."""
    old = hunk.old
    if _find(lines, old, start) is not None:
        return RequestError(f"not the last lines of the file: {_quoted(old[0])}; leave out {END_OF_FILE!r}")
    if _find(lines, old, 0) is not None:
        return RequestError(f"found only before the place it should follow: {_quoted(old[0])}; keep the file's order")
    missing = next((line for line in old if _find(lines, [line], start) is None), None)
    if missing is not None:
        return RequestError(f"line not found: {_quoted(missing)}; copy it as it stands in the file")
    return RequestError(f"lines not found one after the other, from {_quoted(old[0])} on; copy them from the file")


def _quoted(line: str) -> str:
    return repr(line if len(line) <= 80 else f"{line[:80]}...")
