"""A chat session: questions, and the commands that begin with a slash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from gptoss_mlx.errors import GptOssError, HarmonyError, RequestError
from gptoss_mlx.events import Done
from gptoss_mlx.harmony import ReasoningEffort
from gptoss_mlx.session import ChatSession

from .printer import AnswerPrinter

COMMANDS = {
    "/help": "show this list",
    "/effort": "low, medium or high: how long the model thinks",
    "/system": "TEXT: instructions that the model should keep to; without a text: none",
    "/reset": "forget the conversation",
    "/save": "FILE: write the conversation as openai-harmony's JSON",
    "/load": "FILE: go on with a saved conversation",
    "/quit": "leave (so does Ctrl-D); Ctrl-C stops an answer",
}


class Session:
    """A conversation at a terminal or in a pipe: lines in, answers and remarks out."""

    def __init__(self, chat: ChatSession, printer: AnswerPrinter) -> None:
        self.chat = chat
        self.printer = printer

    def answer(self, question: str) -> None:
        """Answer a question and remember both; an interrupt leaves the history as it was and is passed on."""
        try:
            for event in self.chat.stream(question):
                self.printer.print(event)
                if isinstance(event, Done) and event.reply.finish_reason == "length":
                    self.printer.note(f"(stopped after {self.chat.max_tokens} tokens; --max-tokens allows more)")
        finally:
            self.printer.close()

    def say(self, line: str) -> bool:
        """Take one line of input: a command or a question. Returns whether the session goes on."""
        line = line.strip()
        if not line:
            return True
        try:
            if line.startswith("/"):
                return self._command(line)
            self.answer(line)
        except GptOssError as error:
            self.printer.note(f"Error: {error}")
        except KeyboardInterrupt:
            self.printer.note("(stopped; the question and what was answered are forgotten)")
        return True

    def run_lines(self, lines: Iterable[str]) -> None:
        """Take every line of an input that is no terminal."""
        for line in lines:
            if not self.say(line):
                return

    def _command(self, line: str) -> bool:
        name, _, argument = line.partition(" ")
        if name == "/quit":
            return False
        commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/effort": self._effort,
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
        }
        if name not in commands:
            raise RequestError(f"{name}: no such command; /help lists them")
        commands[name](argument.strip())
        return True

    def _help(self, _: str) -> None:
        for name, text in COMMANDS.items():
            self.printer.note(f"{name:8} {text}")

    def _effort(self, argument: str) -> None:
        if argument:
            self.chat.effort = ReasoningEffort.of(argument).value
        self.printer.note(f"effort: {self.chat.effort or 'as loaded'}")

    def _system(self, argument: str) -> None:
        self.chat.instructions = argument or None
        self.printer.note(f"system: {argument}" if argument else "system: none")

    def _reset(self, _: str) -> None:
        self.chat.clear()
        self.printer.note("the conversation is forgotten")

    def _save(self, argument: str) -> None:
        path = _file(argument, "/save")
        try:
            path.write_text(json.dumps(self.chat.to_dict(), ensure_ascii=False, indent=2), encoding="utf-8")
        except OSError as error:
            raise RequestError(f"{path}: cannot be written ({error.strerror})") from None
        self.printer.note(f"saved {len(self.chat.messages)} messages to {path}")

    def _load(self, argument: str) -> None:
        path = _file(argument, "/load")
        try:
            self.chat.restore(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise HarmonyError(f"{path}: no saved conversation ({reason})") from None
        self.printer.note(f"loaded {len(self.chat.messages)} messages from {path}")


def _file(argument: str, command: str) -> Path:
    if not argument:
        raise RequestError(f"{command}: the name of a file expected, none found")
    return Path(argument).expanduser()
