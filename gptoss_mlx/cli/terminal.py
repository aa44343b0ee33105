"""The interactive session's input: lines and texts of several lines, history, completion, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from .commands import COMMANDS
from .session import Session

if sys.platform != "win32":
    import termios

LOCAL_MODES = 3
"""Where `termios.tcgetattr` has what a terminal does with keys."""
QUOTES = '"""'


class Terminal:
    """The person at the terminal; see `session.Person`."""

    def __init__(self) -> None:
        self._depth = ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None
        self._lines: PromptSession[str] = PromptSession(
            history=input_history(),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="  ",
            complete_while_typing=True,
            color_depth=self._depth,
        )
        self._choice: PromptSession[str] = PromptSession(color_depth=self._depth)

    def run(self, session: Session) -> None:
        """Ask for lines and answer them until /quit or Ctrl-D."""
        session.printer.note("Ask anything; /help lists the commands, Alt-Enter begins a line, Ctrl-D leaves.")
        self._lines.completer = CommandCompleter(session)
        with interrupted(lambda: None):  # by a Ctrl-C that comes too late for an answer
            while not session.ended:
                try:
                    line = self._lines.prompt("> ")
                except EOFError:
                    return
                except KeyboardInterrupt:
                    continue
                with suppress(KeyboardInterrupt), interrupted(_stop), quiet_keys():
                    session.say(unquoted(line))

    def choose(self, question: str) -> str:
        """Ask for y, n or a until one of them is given; Ctrl-D means no."""
        while True:
            try:
                choice = self._choice.prompt(f"{question} [y]es, [n]o, [a]lways: ").strip().lower()
            except EOFError:
                return "n"
            if choice in ("y", "yes", "n", "no", "a", "always"):
                return choice[0]

    def edit(self, text: str) -> str | None:
        """Let a text be changed; Ctrl-C and Ctrl-D give up."""
        try:
            return unquoted(self._lines.prompt("> ", default=text))
        except (KeyboardInterrupt, EOFError):
            return None


class CommandCompleter(Completer):
    """Completes the names of commands, and their arguments."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """What may stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text.partition(" ")
        if not space:
            for known, command in COMMANDS.items():
                if known.startswith(name):
                    yield Completion(known, -len(name), display_meta=command.help)
        elif name in COMMANDS:
            argument = argument.lstrip()
            for choice in COMMANDS[name].choices(self._session):
                if choice.startswith(argument):
                    yield Completion(choice, -len(argument))
            if COMMANDS[name].takes_file:
                yield from self._paths.get_completions(Document(argument), complete_event)


def is_unfinished(text: str) -> bool:
    """Whether Enter begins a new line: after a backslash, and inside of triple quotes."""
    quoted = text.lstrip().startswith(QUOTES) and text.count(QUOTES) == 1
    return quoted or text.endswith("\\")


def unquoted(text: str) -> str:
    """A text without the marks that made it one of several lines."""
    bare = text.strip()
    if bare.startswith(QUOTES) and bare.endswith(QUOTES) and len(bare) >= 2 * len(QUOTES):
        return bare[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text.replace("\\\n", "\n")


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer: Buffer = event.current_buffer
        if is_unfinished(buffer.document.text_before_cursor) and not buffer.document.text_after_cursor.strip():
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


@contextmanager
def interrupted(act: Callable[[], None]) -> Iterator[None]:
    """Let a Ctrl-C do something else meanwhile than it did before."""
    before = signal.signal(signal.SIGINT, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop() -> None:
    """Stop what is done, once: a second Ctrl-C must not stop what clears up after it."""
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


@contextmanager
def quiet_keys() -> Iterator[None]:
    """Keep what is typed meanwhile out of what is printed, for the next prompt to read; Ctrl-C stays what it is."""
    if sys.platform == "win32":  # its console echoes nothing that nobody reads
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    quiet = [*before]
    quiet[LOCAL_MODES] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(keyboard, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


class LastingHistory(FileHistory):
    """Lines in a file; one that the file does not take, on a full disk for instance, is kept in this session alone."""

    def load_history_strings(self) -> Iterable[str]:
        """Read the lines; none where the file cannot be read."""
        with suppress(OSError):
            return list(super().load_history_strings())
        return []

    def store_string(self, string: str) -> None:
        """Write a line."""
        with suppress(OSError):
            super().store_string(string)


def input_history() -> History:
    """The lines typed in earlier sessions; only this session's where no such file can be kept."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "gptoss_mlx" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return LastingHistory(path)
