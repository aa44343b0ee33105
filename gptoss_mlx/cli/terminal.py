"""The interactive session's input: history, completion of commands, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from .session import COMMANDS, Session


def run(session: Session) -> None:
    """Ask for lines and answer them until /quit or Ctrl-D."""
    prompt: PromptSession[str] = PromptSession(
        history=input_history(), completer=WordCompleter(list(COMMANDS), sentence=True), complete_while_typing=True
    )
    session.printer.note("Ask anything; /help lists the commands, Ctrl-D leaves.")
    while True:
        try:
            line = prompt.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not session.say(line):
            return


def input_history() -> History:
    """The lines typed in earlier sessions; only this session's where no such file can be kept."""
    state = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state"))
    path = state / "gptoss_mlx" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
