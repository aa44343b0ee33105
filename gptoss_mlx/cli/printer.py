"""How an answer looks while it arrives: thoughts dimmed, the answer as Markdown, calls on a line of their own.

Where standard output is no terminal, plain text: the answer as the model wrote it, nothing else unless asked for.
"""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

from gptoss_mlx.events import CallDelta, CallStarted, Event, TextDelta

FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)


class AnswerPrinter:
    """Prints the events of one answer after the other.

    Args:
        show_analysis: whether thoughts are printed.
        console: standard output, unless a test has its own.
    """

    def __init__(self, show_analysis: bool, console: Console | None = None) -> None:
        self.show_analysis = show_analysis
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.remarks = (
            self.console if self.console.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True)
        )
        self._kind: str | None = None
        self._wrap = WordWrap(self.console.width if self.console.is_terminal else None)
        self._markdown: MarkdownStream | None = None

    def print(self, event: Event) -> None:
        """Print one event."""
        if isinstance(event, TextDelta):
            if event.channel == "analysis":
                if self.show_analysis:
                    self._switch("analysis")
                    self._raw(event.text, dim=True)
            else:
                self._switch(event.channel)
                self._answer(event.text)
        elif isinstance(event, CallStarted):
            self._switch(f"call {event.index}")
            self._raw(f"-> {event.recipient} ", dim=True)
        elif isinstance(event, CallDelta):
            self._raw(event.text, dim=True)

    def close(self) -> None:
        """End the answer: what is still shown provisionally becomes final, and the cursor stands on a new line."""
        self._switch(None)

    def note(self, text: str) -> None:
        """Print a remark about the session itself: to standard error where the answer goes into a pipe or file."""
        self.close()
        self.remarks.print(text, style="dim", markup=False)

    def _switch(self, kind: str | None) -> bool:
        if kind == self._kind:
            return False
        if self._markdown is not None:
            self._markdown.close()
            self._markdown = None
        elif self._kind is not None:
            self.console.print(self._wrap.flush(), style="dim", markup=False)
        if self._kind == "analysis" and kind is not None:
            self.console.print()
        self._kind = kind
        return True

    def _raw(self, text: str, *, dim: bool = False) -> None:
        self.console.print(self._wrap.push(text), style="dim" if dim else None, end="", markup=False)
        self.console.file.flush()

    def _answer(self, text: str) -> None:
        if not self.console.is_terminal:
            self._raw(text)
            return
        if self._markdown is None:
            self._markdown = MarkdownStream(self.console)
        self._markdown.push(text)


class WordWrap:
    """Breaks streamed text between words; the word that is being written waits until it is whole.

    Args:
        width: columns of the terminal; None passes everything on as it comes.
    """

    def __init__(self, width: int | None) -> None:
        self._width = width
        self._column = 0
        self._word = ""

    def push(self, text: str) -> str:
        """Take a piece; return what can be printed."""
        if self._width is None:
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
        breaks = self._width is not None and self._column > 0 and self._column + length >= self._width
        self._column = 0 if word.endswith("\n") else (0 if breaks else self._column) + cell_len(word)
        return "\n" + word if breaks else word


class MarkdownStream:
    """Markdown that is printed block by block: finished blocks stay, only the last one is redrawn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        self._live = Live(console=console, refresh_per_second=12, transient=True)
        self._live.start()

    def push(self, text: str) -> None:
        """Take a piece of the text."""
        self._text += text
        finished, self._text = split_blocks(self._text)
        if finished:
            self._console.print(Markdown(finished))
            self._console.print()
        self._live.update(Markdown(self._text))

    def close(self) -> None:
        """Print the last block for good."""
        self._live.update("")
        self._live.stop()
        if self._text.strip():
            self._console.print(Markdown(self._text))


def split_blocks(text: str) -> tuple[str, str]:
    """Cut after the last blank line outside of a code fence: (finished blocks, the block that is being written)."""
    for cut in [match.end() for match in re.finditer(r"\n[ \t]*\n", text)][::-1]:
        if len(FENCE.findall(text[:cut])) % 2 == 0:
            return text[:cut].rstrip("\n"), text[cut:]
    return "", text
