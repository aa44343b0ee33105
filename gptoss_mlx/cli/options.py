"""Options that several commands share."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from gptoss_mlx import GptOss, load, memory
from gptoss_mlx.engine import EngineOptions
from gptoss_mlx.sampling import SamplingParams

from .progress import loading

F = TypeVar("F", bound=Callable[..., Any])

SAMPLING = (
    click.option(
        "--temp", "temperature", type=float, default=1.0, show_default=True, help="0 takes the likeliest token."
    ),
    click.option("--top-p", type=float, default=1.0, show_default=True, help="Keep tokens up to this probability."),
    click.option("--top-k", type=int, default=0, help="Keep this many tokens; 0 keeps all."),
    click.option("--min-p", type=float, default=0.0, help="Keep tokens with this share of the likeliest one."),
    click.option("--repetition-penalty", type=float, default=1.0, help="Above 1 makes recent tokens less likely."),
    click.option("--seed", type=int, default=None, help="Makes an answer repeatable."),
    click.option("--stop", multiple=True, help="A text that ends the answer; may be given several times."),
)

MEMORY = (
    click.option(
        "--context",
        type=click.IntRange(1),
        default=memory.CONTEXT,
        show_default=True,
        help="Tokens that must fit in memory.",
    ),
    click.option("--force", is_flag=True, help="Load the model even if it does not fit."),
)

LOADING = (
    *MEMORY,
    click.option(
        "--prompt-cache",
        type=click.Path(file_okay=False, path_type=Path),
        help="Keep what was read in this folder, for the next time.",
    ),
    click.option("--draft", metavar="MODEL", help="A smaller model of the same kind, to guess tokens ahead."),
)


@dataclass(frozen=True)
class Loading:
    """How a command loads its model."""

    context: int
    force: bool
    prompt_cache: Path | None
    draft: str | None

    @classmethod
    def taken(cls, options: dict[str, Any]) -> Loading:
        """Take these options out of a command's keyword arguments."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})


def sampling_options(command: F) -> F:
    """Add the sampling options to a command; it receives them as `sampling_params(**options)` wants them."""
    for option in reversed(SAMPLING):
        command = option(command)
    return command


def sampling_params(options: dict[str, Any]) -> SamplingParams:
    """Take the sampling options out of a command's keyword arguments."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
    return SamplingParams(**{name: options.pop(name) for name in names})


def memory_options(command: F) -> F:
    """Add `--context` and `--force` to a command."""
    for option in reversed(MEMORY):
        command = option(command)
    return command


def loading_options(command: F) -> F:
    """Add the options of `Loading` to a command."""
    for option in reversed(LOADING):
        command = option(command)
    return command


def load_runtime(folder: Path, wanted: Loading) -> GptOss:
    """Load a model behind a progress bar; what is to be said about memory goes to standard error.

    When the command ends, what was read is kept, if that is wanted and nobody has let go of the model before.

    Raises:
        GptOssError: see `gptoss_mlx.load`.
    """
    note = check_memory(folder, wanted)
    if note:
        click.echo(f"warning: {note}", err=True)
    options = EngineOptions(prompt_cache=wanted.prompt_cache)
    with loading() as progress:
        runtime = load(
            folder, context=wanted.context, force=wanted.force, options=options, draft=wanted.draft, progress=progress
        )
    save = weakref.WeakMethod(runtime.engine.save)  # a model that is let go must not be held for its prompts
    click.get_current_context().call_on_close(lambda: (kept := save()) is None or kept())
    return runtime


def check_memory(folder: Path, wanted: Loading) -> str:
    """What is to be said about a model's memory; what this process has loaded counts as free.

    Raises:
        GptOssError: it does not fit, or is no model.
    """
    verdict = memory.check_folder(folder, wanted.context)
    return (verdict if wanted.force else verdict.require()).note
