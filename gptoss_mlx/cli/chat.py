"""`gptoss-mlx chat` and `python -m gptoss_mlx.chat`: one answer, or a session."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .app import OneLineErrors
from .options import Loading, loading_options, sampling_options, sampling_params
from .toolset import ToolOptions, open_tools, tool_options

if TYPE_CHECKING:
    from gptoss_mlx.toolbox import ToolLike

    from .session import Session


@click.command(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("question", required=False)
@click.option("--model", help="Path, alias (20b, 120b, demo) or hub id; else the newest model here, else demo.")
@click.option("--effort", type=click.Choice(["low", "medium", "high"]), default="medium", show_default=True)
@click.option("--show-analysis", "analysis", flag_value="shown", help="Print the model's thoughts (at a terminal).")
@click.option("--collapse-analysis", "analysis", flag_value="collapsed", help="Print how long the model thought.")
@click.option("--hide-analysis", "analysis", flag_value="hidden", help="Print nothing of them (in a pipe).")
@click.option("--max-tokens", type=click.IntRange(1), default=16384, show_default=True, help="Thoughts included.")
@click.option("--reasoning-budget", type=click.IntRange(0), metavar="N", help="Tokens of thoughts at most.")
@click.option("--system", metavar="TEXT", help="Instructions that the model should keep to.")
@click.option("--continue", "resume", is_flag=True, help="Go on with the newest session that was held at a terminal.")
@click.option("--yes", is_flag=True, help="Run the model's calls without asking.")
@tool_options
@loading_options
@sampling_options
@click.pass_context
def chat(command: click.Context, /, question: str | None, yes: bool, **options: Any) -> None:
    """Chat with gpt-oss. With a QUESTION: answer it and exit; without: a session (piped lines are questions)."""
    if question is not None and not question.strip():
        raise click.UsageError("QUESTION is empty")
    wanted = ToolOptions.taken(options)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if wanted and not (yes or at_terminal):
        raise click.UsageError("calls of tools must be allowed, and there is no terminal to ask at; add --yes")
    given = {name for name in options if command.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    with open_tools(wanted) as tools:
        session = _session(tools, options, given, kept=at_terminal and question is None)
        if tools and not yes:
            session.chat.confirm = session.allows
        _hold(session, question, at_terminal)


def _session(tools: list[ToolLike], options: dict[str, Any], given: set[str], *, kept: bool) -> Session:
    """The session that the options ask for: a new one, or the newest with what was given now.

    Args:
        tools: what the model may call.
        options: of the command.
        given: those that are on the command line, and no defaults.
        kept: whether a new session is saved.
    """
    from .models import LocalModels
    from .printer import AnswerPrinter
    from .session import Session
    from .sessions import SessionStore, read_session

    store = SessionStore()
    file = store.newest() if options["resume"] else store.new() if kept else None
    saved = read_session(file) if options["resume"] and file is not None else None
    sampling, models = sampling_params(options), LocalModels(Loading.taken(options))
    model = options["model"] or (None if saved is None else saved.model)
    talk = models.load(models.find(model)).session(
        effort=options["effort"],
        instructions=options["system"],
        tools=tools,
        sampling=sampling,
        max_tokens=options["max_tokens"],
        reasoning_budget=options["reasoning_budget"],
    )
    printer = AnswerPrinter(options["analysis"] or ("shown" if sys.stdout.isatty() else "hidden"))
    session = Session(talk, printer, models, store=store, file=file)
    if saved is not None and file is not None:
        session.load(file)
        talk.effort = options["effort"] if "effort" in given else talk.effort
        talk.instructions = options["system"] if "system" in given else talk.instructions
        printer.note(f"going on with {file.stem} ({len(talk.messages)} messages)")
    return session


def _hold(session: Session, question: str | None, at_terminal: bool) -> None:
    """Answer the question, or hold the session."""
    if at_terminal and (question is None or session.chat.tools):
        from .terminal import Terminal

        session.person = terminal = Terminal()
    if question is not None:
        session.answer(question)
    elif at_terminal:
        terminal.run(session)
    elif not session.run_lines(sys.stdin):
        sys.exit(1)
