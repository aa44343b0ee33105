"""A chat session: questions, confirmations and commands in, answers and remarks out; kept on disk as it goes."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from gptoss_mlx.errors import GptOssError, RequestError
from gptoss_mlx.events import Done, Reply, ToolCall
from gptoss_mlx.harmony import Conversation, render
from gptoss_mlx.session import ChatSession
from gptoss_mlx.toolbox import Toolbox

from .commands import is_command, run_command
from .models import Models
from .printer import AnswerPrinter
from .sessions import SavedSession, SessionStore, read_session, version, write_session
from .status import Stopwatch, Totals, status_line
from .toolset import cited_sources


class Person(Protocol):
    """Who sits at the terminal."""

    def choose(self, question: str) -> str:
        """Ask for one of y, n and a (yes, no, always)."""

    def edit(self, text: str) -> str | None:
        """Let a text be changed; None where that was given up."""


class Session:
    """A conversation at a terminal or in a pipe.

    Args:
        chat: the conversation.
        printer: where answers go.
        models: where another model comes from.
        person: None in a pipe.
        store: where sessions are kept.
        file: where this one is written after each answer; None: nowhere.
    """

    def __init__(
        self,
        chat: ChatSession,
        printer: AnswerPrinter,
        models: Models,
        *,
        person: Person | None = None,
        store: SessionStore | None = None,
        file: Path | None = None,
    ) -> None:
        self.chat = chat
        self.printer = printer
        self.models = models
        self.person = person
        self.store: SessionStore = store or SessionStore()
        self.file = file
        self.response_format: Mapping[str, Any] | None = None
        """What answers must be."""
        self.always: set[str] = set()
        """Tools that may be called without asking."""
        self.unanswered: str | None = None
        """A question whose answer was stopped, or failed."""
        self.totals = Totals()
        self.ended = self.failed = False
        self._seen = version(file)
        self._is_kept = True
        printer.count = self.count

    # Questions

    def answer(self, question: str) -> None:
        """Answer a question, remember and keep both; an interrupt or error leaves the history as it was."""
        watch, before, reply = Stopwatch(), self.chat.messages, None
        self.printer.is_json = self.response_format is not None
        try:
            self.printer.wait("reading")
            with closing(watch.watch(self.chat.stream(question, response_format=self.response_format))) as events:
                for event in events:
                    self.printer.print(event)
                    reply = event.reply if isinstance(event, Done) else None
        except (KeyboardInterrupt, GptOssError):
            self.chat.messages, self.unanswered = before, question
            raise
        finally:
            self.printer.close()
        if reply is not None:
            self._conclude(reply, watch.first_token)

    def ask_again(self, question: str) -> None:
        """Answer `question` in place of the last one; if that fails, everything stays as it was."""
        before, unanswered = list(self.chat.messages), self.unanswered
        if unanswered is None:
            self.chat.undo()
        try:
            self.answer(question)
        except BaseException:
            self.chat.messages, self.unanswered = before, unanswered
            raise

    def last_question(self) -> str:
        """The question that was asked last; RequestError if there is none."""
        if self.unanswered is not None:
            return self.unanswered
        before = list(self.chat.messages)
        question = self.chat.undo()
        self.chat.messages = before
        if question is None:
            raise RequestError("a question to ask again expected, none has been asked")
        return question

    def allows(self, call: ToolCall) -> bool:
        """Whether a call may run: asked of the person unless they said always."""
        if call.name in self.always:
            return True
        if self.person is None:
            return False
        self.printer.close()
        choice = self.person.choose(f"run {call.name}?")
        if choice == "a":
            self.always.add(call.name)
        self.printer.wait(f"running {call.name}")
        return choice in ("y", "a")

    # Lines

    def say(self, line: str) -> bool:
        """Take one line of input: a command or a question. Returns whether the session goes on."""
        line = line.strip()
        if not line:
            return True
        try:
            if is_command(line):
                run_command(self, line)
            else:
                self.answer(line)
        except GptOssError as error:
            self.failed = True
            self.printer.note(f"Error: {error}")
        except KeyboardInterrupt:
            self.printer.note("(stopped; an unfinished answer is forgotten, /retry asks again)")
        return not self.ended

    def run_lines(self, lines: Iterable[str]) -> bool:
        """Take every line of an input that is no terminal. Returns whether all went well."""
        for line in lines:
            if not self.say(line):
                break
        return not self.failed

    # What commands do

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.chat.model.tokenizer.encode(text))

    def context(self, conversation: Conversation | None = None) -> int:
        """Tokens of the conversation as the model reads it."""
        return len(render(conversation or self.chat.conversation, self.chat.model.tokenizer))

    @property
    def room(self) -> int:
        """Tokens that the model can hold."""
        return self.chat.model.config.max_position_embeddings

    def reset(self) -> None:
        """Forget the conversation, and keep what comes under a new name."""
        self.chat.messages, self.chat.declared = [], ()
        self.unanswered = None
        if self.file is not None:
            self._keep_in(self.store.new())

    def switch(self, name: str) -> None:
        """Answer with another model.

        The one before goes first, as both may not fit in memory; it comes back where the other cannot be loaded.
        """
        folder, before = self.models.find(name), self.chat.model
        if folder == before.folder:
            return
        before.engine.save()
        old, called = before.folder, before.name
        del before, self.chat.model
        failure = self._load_model(folder)
        if failure is not None:
            fatal = self._load_model(old)
            if fatal is not None:
                self.ended = True
                raise fatal
            self.printer.note(f"(going on with {called})")
            raise failure

    def save(self, file: Path) -> None:
        """Write the conversation. Tools are not declared in it: which there are is said when it is loaded."""
        chat = self.chat
        plain = Toolbox().conversation(
            chat.messages, effort=chat.effort, instructions=chat.instructions, date=chat.date
        )
        write_session(file, SavedSession(plain.to_dict(), str(chat.model.folder), self.response_format))

    def load(self, file: Path) -> SavedSession:
        """Go on with a conversation that was saved, with its instructions, effort and response format."""
        saved = read_session(file)
        self.chat.restore(saved.conversation)
        self.chat.declared = ()  # nobody here would answer their calls
        self.response_format = saved.response_format
        self.unanswered = None
        if self.file is not None:
            self._keep_in(file if file.parent == self.store.folder else self.store.new())
        return saved

    def _load_model(self, folder: Path) -> BaseException | None:
        """Load a model where there is none; returns what went wrong, which holds nothing of what was loaded."""
        gc.collect()
        mx.clear_cache()
        try:
            self.chat.model = self.models.load(folder)
        except BaseException as error:  # noqa: BLE001 - the caller raises it, an interrupt too
            error.__traceback__ = error.__context__ = None
            return error
        return None

    def _conclude(self, reply: Reply, first_token: float | None) -> None:
        """After the last event of an answer."""
        self.unanswered = None
        self.totals.add(reply.usage)
        if reply.finish_reason == "length":
            self.printer.note(f"(stopped after {self.chat.max_tokens} tokens; --max-tokens allows more)")
        for call in reply.calls:
            self.printer.note(f"(nothing here answers the call of {call.name})")
        for source in cited_sources(self.chat.tools, reply.final):
            self.printer.note(source)
        if self.printer.console.is_terminal:
            self.printer.note(status_line(reply.usage, self.context(), self.room, first_token))
        if self.file is not None:
            self._keep(self.file)

    def _keep_in(self, file: Path) -> None:
        self.file, self._seen = file, version(file)

    def _keep(self, file: Path) -> None:
        """Write the session, but over nobody else's; where that fails, the answer is there all the same."""
        if version(file) != self._seen:
            file = self.store.new()
            self.printer.note(f"(another program has changed {self.file}; this session goes on as {file.stem})")
        try:
            self.save(file)
            self._is_kept = True
        except RequestError as error:
            if self._is_kept:  # else it was said already
                self.printer.note(f"Error: {error}; the session is not kept")
            self._is_kept = False
        self._keep_in(file)
