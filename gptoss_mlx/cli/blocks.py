"""The parts of an answer on the screen: streamed text, Markdown, collapsed thoughts, panels of calls and results.

A block takes text while it arrives. Where the cursor may move, its unfinished end is redrawn; elsewhere a block only
ever appends. `close` leaves the cursor on a new line.
"""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from gptoss_mlx.tools import ToolResult

FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)
BLANK_LINE = re.compile(r"\n[ \t]*\n")
CONTROLS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
"""Control characters -> pictures of them: what a model or a tool writes must not steer the terminal."""
REFRESHES = 12
"""Redraws a second."""
RESULT_LINES = 12
"""What is shown of a result; the model reads all of it."""
THOUGHT_LINES = 3
"""What is shown of collapsed thoughts while they arrive."""


class Block(Protocol):
    """A part of an answer."""

    def push(self, text: str) -> None:
        """Take a piece of the text."""

    def close(self) -> None:
        """Show the rest for good."""


def visible(text: str) -> str:
    """`text` without control characters."""
    return text.translate(CONTROLS)


class PlainText:
    """Text as it comes, broken between words on a terminal."""

    def __init__(self, console: Console, *, dim: bool = False) -> None:
        self._console = console
        self._style = "dim" if dim else None
        self._wrap = WordWrap()

    def push(self, text: str) -> None:
        """Take a piece of the text."""
        self._wrap.width = self._console.width if self._console.is_terminal else None  # it may change meanwhile
        self._print(self._wrap.push(visible(text) if self._console.is_terminal else text), end="")

    def close(self) -> None:
        """Print the last word."""
        self._print(self._wrap.flush(), end="\n")

    def _print(self, text: str, end: str) -> None:
        self._console.print(text, style=self._style, end=end, markup=False, soft_wrap=True)
        self._console.file.flush()


class WordWrap:
    """Breaks streamed text between words; the word that is being written waits until it is whole.

    Args:
        width: columns of the terminal; None passes everything on as it comes.
    """

    def __init__(self, width: int | None = None) -> None:
        self.width = width
        self._column = 0
        self._word = ""

    def push(self, text: str) -> str:
        """Take a piece; return what can be printed."""
        if self.width is None:
            return text
        *whole, self._word = re.split(r"(?<=\s)", self._word + text)
        return "".join(map(self._placed, whole))

    def flush(self) -> str:
        """Return the last word; the next text begins a new line."""
        out, self._word = self._placed(self._word), ""
        self._column = 0
        return out

    def _placed(self, word: str) -> str:
        length = cell_len(word.rstrip())
        # the last column is left to the space behind a word, which must not begin the next line
        breaks = self.width is not None and self._column > 0 and self._column + length >= self.width
        self._column = 0 if word.endswith("\n") else (0 if breaks else self._column) + cell_len(word)
        return "\n" + word if breaks else word


class Redrawn:
    """Something at the bottom of the screen that is redrawn until it is removed; nothing where the cursor stays.

    Args:
        make: what is there now; asked at each redrawing, and not for each token.
    """

    def __init__(self, console: Console, moves: bool, make: Callable[[], RenderableType]) -> None:
        self._make = make
        self._live = Live(
            console=console, refresh_per_second=REFRESHES, transient=True, get_renderable=lambda: End(self._make())
        )
        if moves:
            self._live.start()

    def remove(self) -> None:
        """Clear its place."""
        self._make = lambda: ""
        self._live.stop()


class End:
    """As much of the end of something as the screen has lines for: what is cleared again must not have scrolled."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._renderable, options.update(height=None), pad=False, new_lines=True)
        for line in lines[-(console.height - 1) :]:
            yield from line


class Waiting:
    """What is waited for and for how long, as soon as it is long; it leaves nothing behind."""

    def __init__(self, console: Console, moves: bool, what: str) -> None:
        self._what = visible(what)
        self._begun = time.monotonic()
        self._end = Redrawn(console, moves, self._line)

    def push(self, text: str) -> None:
        """Take nothing: there is none yet."""

    def close(self) -> None:
        """Clear its place."""
        self._end.remove()

    def _line(self) -> Text:
        seconds = int(time.monotonic() - self._begun)
        return Text(f"{self._what} … {seconds} s, Ctrl-C stops" if seconds else "", style="dim")


class MarkdownText:
    """Markdown, block by block: finished blocks stay, only the last one is redrawn."""

    def __init__(self, console: Console, moves: bool) -> None:
        self._console = console
        self._text = ""
        self._end = Redrawn(console, moves, lambda: formatted(self._text))

    def push(self, text: str) -> None:
        """Take a piece of the text."""
        self._text += visible(text)
        finished = ""
        if "\n" in text:
            finished, self._text = split_blocks(self._text)
        if finished:
            self._console.print(formatted(finished))
            self._console.print()

    def close(self) -> None:
        """Print the last block for good."""
        self._end.remove()
        if self._text.strip():
            self._console.print(formatted(self._text))


def formatted(text: str) -> Markdown:
    """Markdown with its addresses in sight: not every terminal has links, and a link may say something else."""
    return Markdown(text, hyperlinks=False)


def split_blocks(text: str) -> tuple[str, str]:
    """Cut after the last blank line outside of a code fence: (finished blocks, the block that is being written)."""
    fences = [match.start() for match in FENCE.finditer(text)]
    ends = [match.end() for match in BLANK_LINE.finditer(text)]
    cut = next((end for end in reversed(ends) if bisect_left(fences, end) % 2 == 0), None)
    return ("", text) if cut is None else (text[:cut].rstrip("\n"), text[cut:])


class CollapsedThoughts:
    """Thoughts of which the last lines are seen while they arrive, and then one line that tells how long they were.

    Args:
        count: the number of tokens of a text.
    """

    def __init__(self, console: Console, moves: bool, count: Callable[[str], int]) -> None:
        self._console = console
        self._count = count
        self._text = ""
        self._end = Redrawn(console, moves, self._tail)

    def push(self, text: str) -> None:
        """Take a piece of the thoughts."""
        self._text += text

    def close(self) -> None:
        """Leave one line."""
        self._end.remove()
        tokens = self._count(self._text)
        unit = "token" if tokens == 1 else "tokens"
        self._console.print(f"thought for {tokens:,} {unit}", style="dim", markup=False)

    def _tail(self) -> RenderableType:
        shown = Text(visible(self._text[-1000:]), style="dim")
        return Text("\n").join(shown.wrap(self._console, self._console.width)[-THOUGHT_LINES:])


class CallPanel:
    """A call while the model writes it, and as a panel for good."""

    def __init__(self, console: Console, moves: bool, name: str) -> None:
        self._console = console
        self._name = name
        self._text = ""
        self._end = Redrawn(console, moves, self._panel)

    def push(self, text: str) -> None:
        """Take a piece of the arguments."""
        self._text += text

    def close(self) -> None:
        """Print the panel."""
        self._end.remove()
        self._console.print(self._panel())

    def _panel(self) -> Panel:
        text, language = pretty_arguments(self._name, self._text)
        code = Syntax(visible(text), language, theme="ansi_dark", background_color="default", word_wrap=True)
        return Panel(code, title=Text(f"call {visible(self._name)}"), title_align="left", border_style="cyan")


class CallLine:
    """A call in plain text."""

    def __init__(self, console: Console, name: str) -> None:
        self._text = PlainText(console)
        self._text.push(f"-> {name} ")

    def push(self, text: str) -> None:
        """Take a piece of the arguments."""
        self._text.push(text)

    def close(self) -> None:
        """End the line."""
        self._text.close()


def pretty_arguments(name: str, arguments: str) -> tuple[str, str]:
    """Arguments as people read them, and their language: code of `python`, lines, indented JSON, or what there is."""
    if name == "python":
        return arguments, "python"
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments, "text"
    if isinstance(value, dict) and len(value) == 1:
        (only,) = value.values()
        if isinstance(only, str) and "\n" in only:  # its lines, such as a patch's
            return only, "diff" if name == "apply_patch" else "text"
    if isinstance(value, dict) and len(value) > 1:
        return json.dumps(value, ensure_ascii=False, indent=2), "json"
    return arguments, "json"


def result_panel(result: ToolResult) -> Panel:
    """A result: its first lines."""
    lines = [visible(line) for line in result.text.rstrip("\n").split("\n")]
    left = len(lines) - RESULT_LINES
    if left > 1:
        lines = [*lines[:RESULT_LINES], f"… {left} more lines"]
    title, border = ("failed", "red") if result.failed else ("result", "green")
    return Panel(Text("\n".join(lines), overflow="fold"), title=title, title_align="left", border_style=border)
