"""Sessions for tests: the embedded model saying what a test wrote down, and a person who answers from a list."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from gptoss_mlx import GptOss
from gptoss_mlx.cli.models import LocalModels, Models
from gptoss_mlx.cli.options import Loading
from gptoss_mlx.cli.printer import AnswerPrinter
from gptoss_mlx.cli.session import Session
from gptoss_mlx.cli.sessions import SessionStore
from gptoss_mlx.memory import CONTEXT
from scripted import Script

ESCAPE = "\x1b"
LOADING = Loading(context=CONTEXT, force=False, prompt_cache=None, draft=None)


class Puppet:
    """A person who chooses and edits as a test says."""

    def __init__(self, *choices: str, edited: str | None = None) -> None:
        self._choices = iter(choices)
        self._edited = edited
        self.asked: list[str] = []

    def choose(self, question: str) -> str:
        """The next choice."""
        self.asked.append(question)
        return next(self._choices)

    def edit(self, text: str) -> str | None:
        """Whatever the text was."""
        self.asked.append(text)
        return self._edited


class Talk:
    """A session at a terminal of 80 columns, and what it has printed."""

    def __init__(
        self,
        model: GptOss,
        folder: Path,
        *,
        terminal: bool = True,
        person: Puppet | None = None,
        models: Models | None = None,
        **settings: Any,
    ) -> None:
        self._out = io.StringIO()
        console = Console(file=self._out, force_terminal=terminal, width=80, color_system=None, highlight=False)
        self.printer = AnswerPrinter("shown", console, pictures=folder / "pictures")
        self.printer.remarks = console
        self.store = SessionStore(folder / "sessions")
        chat = model.session(**{"date": "2026-01-31"} | settings)
        self.session = Session(
            chat,
            self.printer,
            models or LocalModels(LOADING),
            person=person,
            store=self.store,
            file=self.store.folder / "talk.json",
        )
        chat.confirm = self.session.allows if person is not None else None

    def __call__(self, *lines: str) -> str:
        """Say lines; what was printed since the last call."""
        for line in lines:
            self.session.say(line)
        printed = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return printed


def interrupted(script: Script) -> Callable[[Any], Iterator[Any]]:
    """A model that is stopped by Ctrl-C after its first token."""

    def generate(request: Any) -> Iterator[Any]:
        yield next(script(request))
        raise KeyboardInterrupt

    return generate
