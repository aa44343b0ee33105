"""How an answer looks while it arrives: thoughts dimmed or collapsed, the answer as Markdown, calls as panels.

Where standard output is no terminal, plain text: the answer as the model wrote it, and nothing else unless asked for;
calls and their results go to standard error. With NO_COLOR set, or on a dumb terminal, the same as on a terminal
without any control sequence.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from gptoss_mlx.errors import RequestError
from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, Event, TextDelta, ToolOutput
from gptoss_mlx.tools import ToolResult

from .blocks import (
    Block,
    CallLine,
    CallPanel,
    CollapsedThoughts,
    MarkdownText,
    PlainText,
    Waiting,
    result_panel,
    visible,
)
from .sessions import data_folder, new_name, write_file

ANALYSIS = ("shown", "collapsed", "hidden")
INDENT = " " * 4
NARROWEST = 10
"""Columns that a listing takes at least."""


class AnswerPrinter:
    """Prints the events of one answer after the other.

    Args:
        analysis: how thoughts are printed, one of `ANALYSIS`.
        console: standard output, unless a test has its own.
        count: the number of tokens of a text.
        pictures: the folder for pictures that tools give; by default in the platform's place for data.
    """

    def __init__(
        self,
        analysis: str,
        console: Console | None = None,
        count: Callable[[str], int] = len,
        pictures: Path | None = None,
    ) -> None:
        self.analysis = analysis
        self.console = console or terminal_console()
        self.count = count
        self.is_json = False
        """Whether answers are JSON and no Markdown."""
        self.remarks = self.console if self.console.is_terminal else terminal_console(stderr=True)
        self._pictures = pictures or data_folder() / "pictures"
        self._moves = self.console.is_terminal and self.console.color_system is not None
        self._kind: str | None = None
        self._block: Block | None = None

    def print(self, event: Event) -> None:
        """Print one event."""
        match event:
            case TextDelta("analysis") if self.analysis == "hidden":
                self.wait("thinking")
            case TextDelta("analysis", text):
                self._push("analysis", text, self._thoughts)
            case TextDelta(channel, text):
                self._push(channel, text, self._answer)
            case CallStarted(index, _, _, name):
                self._push(f"call {index}", "", lambda: self._call(name))
            case CallDelta(index, _, _, text) if self._block is not None:
                self._block.push(text)
            case CallCompleted(_, call):
                self.wait(f"running {call.name}")
            case ToolOutput(_, result):
                self.close()
                self._result(result)
                self.wait("reading")
            case _:
                pass

    def wait(self, what: str) -> None:
        """Show what the answer waits for until something comes of it; nothing where the cursor stays."""
        if self._kind != what:
            self.close()
            self._kind, self._block = what, Waiting(self.remarks, self._moves, what)

    def close(self) -> None:
        """End the answer: what is still shown provisionally becomes final, and the cursor stands on a new line."""
        block, self._block = self._block, None
        if block is not None:
            block.close()
        self._kind = None

    def note(self, text: str) -> None:
        """Print a remark about the session itself: to standard error where the answer goes into a pipe or file."""
        self.close()
        remark(text, self.remarks)

    def _push(self, kind: str, text: str, begin: Callable[[], Block]) -> None:
        if kind != self._kind:
            after_thoughts = self._kind == "analysis" and self.analysis == "shown"
            self.close()
            if after_thoughts:
                self.console.print()
            self._kind, self._block = kind, begin()
        if text and self._block is not None:
            self._block.push(text)

    def _thoughts(self) -> Block:
        if self.analysis == "collapsed":
            return CollapsedThoughts(self.remarks, self._moves, self.count)
        return PlainText(self.console, dim=True)

    def _answer(self) -> Block:
        if self.is_json or not self.console.is_terminal:
            return PlainText(self.console)
        return MarkdownText(self.console, self._moves)

    def _call(self, name: str) -> Block:
        if self.console.is_terminal:
            return CallPanel(self.console, self._moves, name)
        return CallLine(self.remarks, name)

    def _result(self, result: ToolResult) -> None:
        if self.console.is_terminal:
            self.console.print(result_panel(result))
        else:
            self.note(f"<- {result.text.rstrip()}")
        for image in result.images:
            path = self._pictures / f"{new_name()}.png"
            try:
                write_file(path, image)
            except RequestError as error:  # the answer goes on
                self.note(f"Error: {error}")
            else:  # not broken between words: it is to be copied
                self.remarks.print(f"picture: {path}", markup=False, soft_wrap=True)


def listing(rows: Mapping[str, str], console: Console) -> None:
    """Print what there is and what it is for, side by side; below each other where a terminal has no room for that."""
    first = max(map(len, rows)) + 2
    for name, about in rows.items():
        shown = f"{name:{first}}{about}"
        if console.is_terminal and len(shown) >= console.width:
            room = max(NARROWEST, console.width - 1)
            shown = f"{name}\n{textwrap.fill(about, room, initial_indent=INDENT, subsequent_indent=INDENT)}"
        remark(shown, console)


def remark(text: str, console: Console) -> None:
    """Print a remark, broken between words on a terminal."""
    shown = visible(text) if console.is_terminal else text
    console.print(shown, style="dim", markup=False, soft_wrap=not console.is_terminal)


def terminal_console(*, stderr: bool = False) -> Console:
    """Standard output or standard error. With NO_COLOR set it has no styles either, as colours are not all of them."""
    plain = bool(os.environ.get("NO_COLOR"))
    return _Console(stderr=stderr, highlight=False, color_system=None if plain else "auto")


class _Console(Console):
    """A console that leaves it to the command what happens when nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Pass it on; rich would exit."""
        raise BrokenPipeError
