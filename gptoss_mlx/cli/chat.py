"""`gptoss-mlx chat` and `python -m gptoss_mlx.chat`: one answer, or a session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .app import OneLineErrors
from .options import load_runtime, memory_options, sampling_options, sampling_params


@click.command(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("question", required=False)
@click.option("--model", help="Path, alias (20b, 120b, demo) or hub id; else the newest model here, else demo.")
@click.option("--effort", type=click.Choice(["low", "medium", "high"]), default="medium", show_default=True)
@click.option("--show-analysis/--hide-analysis", default=None, help="Whether to print the model's thoughts.")
@click.option("--max-tokens", type=click.IntRange(1), default=16384, show_default=True, help="Thoughts included.")
@click.option("--system", metavar="TEXT", help="Instructions that the model should keep to.")
@memory_options
@sampling_options
def chat(
    question: str | None,
    model: str | None,
    effort: str,
    show_analysis: bool | None,
    max_tokens: int,
    system: str | None,
    context: int,
    force: bool,
    **options: Any,
) -> None:
    """Chat with gpt-oss. With a QUESTION: answer it and exit; without: a session (piped lines are questions)."""
    from .printer import AnswerPrinter
    from .session import Session

    if question is not None and not question.strip():
        raise click.UsageError("QUESTION is empty")
    sampling = sampling_params(options)
    runtime = load_runtime(_find(model), context, force)
    if show_analysis is None:
        show_analysis = sys.stdout.isatty()
    talk = runtime.session(effort=effort, instructions=system, sampling=sampling, max_tokens=max_tokens)
    session = Session(talk, AnswerPrinter(show_analysis))
    if question is not None:
        session.answer(question)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        from .terminal import run

        run(session)
    else:
        session.run_lines(sys.stdin)


def _find(name: str | None) -> Path:
    from gptoss_mlx import demo, hub

    folder = hub.find(name) if name is not None else hub.newest() or demo.MODEL_FOLDER
    if folder == demo.MODEL_FOLDER:
        click.echo(demo.NOTICE, err=True)
    elif name is None:
        click.echo(f"model: {hub.display_name(folder)} ({folder})", err=True)
    return folder
