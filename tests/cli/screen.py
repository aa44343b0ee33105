"""The real program in a pseudo-terminal of 80 columns, and the screen that a person would see."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

ROOT = Path(__file__).parent.parent.parent
COLUMNS, LINES = 80, 40
PATIENCE = 30.0
"""Seconds until something must have happened; a busy machine takes its time."""


class _Drawn(pyte.Screen):
    """A screen that answers the program's questions, such as where the cursor is."""

    answer: Callable[[str], object] = staticmethod(lambda _: None)

    def write_process_input(self, data: str) -> None:
        """Send an answer."""
        self.answer(data)


class Screen:
    """A terminal in which `python -m gptoss_mlx.chat` runs."""

    def __init__(self, home: Path, *arguments: str, columns: int = COLUMNS, **environment: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
        places = {"HOME": str(home), "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path[1:]))}
        variables = {**kept, **places, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment}
        command = ["-W", "error", "-m", "gptoss_mlx.chat", "--model", "demo", "--temp", "0", *arguments]
        self._screen = _Drawn(columns, LINES)
        self._stream = pyte.Stream(self._screen)
        self.raw = ""
        """Everything that was written."""
        self.program = pexpect.spawn(
            sys.executable, command, cwd=home, env=variables, dimensions=(LINES, columns), encoding="utf-8"
        )
        self._screen.answer = self.program.send

    @property
    def text(self) -> str:
        """What is to be seen."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def until(self, seen: Callable[[str], bool] | str) -> str:
        """Wait until the screen shows a text, or something holds of it."""
        holds = (lambda text: seen in text) if isinstance(seen, str) else seen
        end = time.monotonic() + PATIENCE
        while not holds(self.text):
            assert time.monotonic() < end, f"{seen!r} does not come:\n{self.text}"
            self._read()
        return self.text

    def type(self, text: str, seen: Callable[[str], bool] | str) -> str:
        """Type a text, and wait; see `until`."""
        self.program.send(text)
        return self.until(seen)

    def end(self) -> int:
        """Wait for the program to end; its exit status."""
        while self._read():
            pass
        self.program.wait()
        return int(self.program.exitstatus if self.program.exitstatus is not None else -1)

    def _read(self) -> bool:
        try:
            piece = self.program.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True
