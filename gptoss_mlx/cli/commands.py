"""What begins with a slash: each command is a function of the session and of the text behind its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_mlx.answer_format import AnswerFormat
from gptoss_mlx.errors import HarmonyError, RequestError
from gptoss_mlx.events import is_call
from gptoss_mlx.harmony import Conversation, ReasoningEffort, Role
from gptoss_mlx.hub import ALIASES, DEMO
from gptoss_mlx.toolbox import declarations

from .clipboard import copy
from .export import export
from .printer import ANALYSIS, listing
from .sessions import read_session

if TYPE_CHECKING:
    from .session import Session

SLASH = re.compile(r"/\w*(?=\s|$)")
"""A command's name; `/usr/bin` begins a question."""
LISTED = 20
"""Saved sessions that `/load` lists."""
TITLE = 50
"""Characters of the first question that it shows: a line of it fits 80 columns."""
EFFORTS = tuple(effort.value for effort in ReasoningEffort)


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        run: what it does.
        help: in a few words.
        takes: its argument, in front of a person.
        choices: arguments to complete.
        takes_file: whether names of files are to be completed.
    """

    run: Callable[[Session, str], None]
    help: str
    takes: str = ""
    choices: Callable[[Session], Iterable[str]] = lambda _: ()
    takes_file: bool = False


def is_command(line: str) -> bool:
    """Whether a line is a command and no question."""
    return SLASH.match(line) is not None


def run_command(session: Session, line: str) -> None:
    """Run the command of a line; RequestError if there is no such command."""
    name, *rest = line.split(maxsplit=1)
    if name not in COMMANDS:
        raise RequestError(f"{name}: no such command; /help lists them")
    argument, command = rest[0].strip() if rest else "", COMMANDS[name]
    if argument and not command.takes:
        raise RequestError(f"{name}: nothing behind it expected, {argument!r} found")
    command.run(session, argument)


def _help(session: Session, _: str) -> None:
    listing({f"{name} {command.takes}": command.help for name, command in COMMANDS.items()}, session.printer.remarks)


def _tools(session: Session, _: str) -> None:
    offered = declarations(session.chat.conversation)
    for recipient, tool in offered.items():
        name = recipient.removeprefix("functions.")
        about = (tool.description if tool is not None else "").partition("\n")[0]
        asks = " (always allowed)" if name in session.always or session.chat.confirm is None else ""
        session.printer.note(f"{name}{asks}: {about}" if about else f"{name}{asks}")
    if not offered:
        session.printer.note("no tools; --tool, --python, --browse, --web, --apply-patch and --mcp offer some")


def _model(session: Session, argument: str) -> None:
    if argument:
        session.switch(argument)
    model = session.chat.model
    session.printer.note(f"model: {model.name} ({model.folder})")


def _effort(session: Session, argument: str) -> None:
    if argument:
        session.chat.effort = ReasoningEffort.of(argument).value
    session.printer.note(f"effort: {session.chat.effort or 'as loaded'}")


def _analysis(session: Session, argument: str) -> None:
    if argument and argument not in ANALYSIS:
        raise RequestError(f"/analysis: {', '.join(ANALYSIS)} expected, {argument!r} found")
    session.printer.analysis = argument or session.printer.analysis
    session.printer.note(f"analysis: {session.printer.analysis}")


def _thoughts(session: Session, _: str) -> None:
    said = session.chat.messages
    last = max((i for i, message in enumerate(said) if message.role is Role.USER), default=0)
    thoughts = [m.text for m in said[last:] if m.channel == "analysis" and not is_call(m)]
    if not thoughts:
        raise RequestError("/thoughts: an answer with thoughts expected, there is none yet")
    session.printer.note("\n\n".join(thoughts))


def _system(session: Session, argument: str) -> None:
    if argument:
        session.chat.instructions = None if argument == "off" else argument
    session.printer.note(f"system: {session.chat.instructions or 'none'}")


def _schema(session: Session, argument: str) -> None:
    if argument == "off":
        session.response_format = None
    elif argument:
        session.response_format = read_schema(argument)
    form = session.response_format
    session.printer.note("schema: none" if form is None else f"schema: {json.dumps(form, ensure_ascii=False)}")


def read_schema(argument: str) -> dict[str, object] | None:
    """A JSON Schema that is written out, or in a file; RequestError if it is none that answers can be held to."""
    try:
        text = argument if argument.startswith("{") else Path(argument).expanduser().read_text(encoding="utf-8")
        schema = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"schema: a JSON Schema or a file with one expected, {argument!r} found ({reason})"
        ) from None
    if not isinstance(schema, dict):
        raise RequestError(f"schema: a JSON object expected, {argument!r} found")
    return schema if AnswerFormat.of(schema) is not None else None


def _retry(session: Session, _: str) -> None:
    session.ask_again(session.last_question())


def _edit(session: Session, argument: str) -> None:
    question: str | None = argument
    if not argument:
        last = session.last_question()
        if session.person is None:
            raise RequestError("/edit: the new question expected behind it, where no terminal is")
        question = session.person.edit(last)
    if question is not None and question.strip():
        session.ask_again(question.strip())


def _tokens(session: Session, argument: str) -> None:
    if argument:
        session.printer.note(f"{session.count(argument):,} tokens")
        return
    conversation = session.chat.conversation
    every = session.context(conversation)
    opening = Conversation(tuple(m for m in conversation if m.role in (Role.SYSTEM, Role.DEVELOPER)))
    before = session.context(opening)
    share = 100 * every / session.room
    session.printer.note(f"instructions and tools {before:,} · conversation {every - before:,}")
    session.printer.note(f"context {every:,} of {session.room:,} ({share:.1f} %)")


def _stats(session: Session, _: str) -> None:
    session.printer.note(f"model           {session.chat.model.name}")
    for line in session.totals.lines():
        session.printer.note(line)


def _copy(session: Session, _: str) -> None:
    answers = [m.text for m in session.chat.messages if m.role is Role.ASSISTANT and m.channel == "final"]
    if not answers:
        raise RequestError("/copy: an answer expected, there is none yet")
    if copy(answers[-1], session.printer.console):
        session.printer.note("the answer is in the clipboard, if this terminal allows that")


def _export(session: Session, argument: str) -> None:
    path = _file(argument, "/export")
    export(session.chat.conversation, path)
    session.printer.note(f"exported {len(session.chat.messages)} messages to {path}")


def _reset(session: Session, _: str) -> None:
    session.reset()
    session.printer.note("the conversation is forgotten")


def _save(session: Session, argument: str) -> None:
    path = _file(argument, "/save")
    session.save(path)
    session.printer.note(f"saved {len(session.chat.messages)} messages to {path}")


def _load(session: Session, argument: str) -> None:
    if not argument:
        _list_sessions(session)
        return
    path = session.store.find(argument)
    saved = session.load(path)
    session.printer.note(f"loaded {len(session.chat.messages)} messages from {path}")
    if saved.model is not None and saved.model != str(session.chat.model.folder):
        session.printer.note(f"(it was held with {saved.model}; /model switches)")


def _list_sessions(session: Session) -> None:
    names = session.store.names()[:LISTED]
    for name in names:
        try:
            title = read_session(session.store.find(name)).title()
        except HarmonyError:
            title = "(no conversation)"
        session.printer.note(f"{name}  {title[:TITLE]}")
    if not names:
        session.printer.note("no saved sessions")


def _quit(session: Session, _: str) -> None:
    session.ended = True


def _file(argument: str, command: str) -> Path:
    if not argument:
        raise RequestError(f"{command}: the name of a file expected, none found")
    return Path(argument).expanduser()


COMMANDS = {
    "/help": Command(_help, "show this list"),
    "/tools": Command(_tools, "what the model may call"),
    "/model": Command(_model, "which model answers, or another one", "[NAME]", lambda _: (DEMO, *ALIASES), True),
    "/effort": Command(_effort, "how long the model thinks", "[low|medium|high]", lambda _: EFFORTS),
    "/analysis": Command(_analysis, "how thoughts are printed", "[shown|collapsed|hidden]", lambda _: ANALYSIS),
    "/system": Command(_system, "what the model should keep to", "[TEXT|off]", lambda _: ("off",)),
    "/thoughts": Command(_thoughts, "print the thoughts behind the last answer"),
    "/schema": Command(_schema, "what JSON answers must be", "[FILE|JSON|off]", lambda _: ("off",), True),
    "/retry": Command(_retry, "answer the last question again"),
    "/edit": Command(_edit, "change the last question and ask it", "[TEXT]"),
    "/tokens": Command(_tokens, "how full the context is, or count a text", "[TEXT]"),
    "/stats": Command(_stats, "what this session has used"),
    "/copy": Command(_copy, "put the last answer into the clipboard"),
    "/export": Command(_export, "write a document", "FILE.md|.json|.html", takes_file=True),
    "/reset": Command(_reset, "forget the conversation"),
    "/save": Command(_save, "write the conversation as harmony JSON", "FILE", takes_file=True),
    "/load": Command(
        _load, "list saved sessions, or go on with one", "[NAME|FILE]", lambda session: session.store.names(), True
    ),
    "/quit": Command(_quit, "leave, like Ctrl-D (Ctrl-C stops an answer)"),
}
