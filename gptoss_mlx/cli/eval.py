"""`gptoss-mlx eval`: how good a model is, in itself, against another one, and on tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .app import OneLineErrors
from .bench import stages

if TYPE_CHECKING:
    from rich.table import Table

    from gptoss_mlx.evaluation.divergence import Stage
    from gptoss_mlx.runtime import GptOss

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)

exact_option = click.option(
    "--exact", is_flag=True, default=None, help="On a CPU: float32 throughout, as load(..., exact=True)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
plot_option = click.option("--plot", type=_FILE, metavar="FILE.png", help="Also draw a plot.")
MATERIAL = (
    click.argument("text", required=False, type=_FILE),
    click.option("--tokens", type=click.IntRange(1), help="So many random tokens instead of TEXT, for random models."),
    click.option("--limit", type=click.IntRange(1), help="Only so many tokens, or conversations, of TEXT."),
    click.option("--context", type=click.IntRange(1), default=2048, show_default=True, help="Tokens run together."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random tokens."),
)


def material_options(command: F) -> F:
    """Add what models are compared on; the command receives it as `Material(**options)` wants it."""
    for option in reversed(MATERIAL):
        command = option(command)
    return command


@click.group(name="eval")
def eval() -> None:
    """Measure how good a model is (MODEL: path, alias, hub id)."""


@eval.command(cls=OneLineErrors)
@click.argument("model")
@click.argument("text", type=_FILE)
@click.option("--context", type=int, help="Tokens per window.  [default: 2048]")
@click.option("--stride", type=int, help="Tokens by which windows advance.  [default: half the context]")
@click.option("--limit", type=click.IntRange(2), help="Only the first so many tokens.")
@exact_option
@json_option
@plot_option
def perplexity(
    model: str,
    text: Path,
    context: int | None,
    stride: int | None,
    limit: int | None,
    exact: bool | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Perplexity of the file TEXT: how surprised MODEL is by each of its tokens."""
    from gptoss_mlx.evaluation.perplexity import perplexity as measure
    from gptoss_mlx.evaluation.report import perplexity_table, plot_perplexity
    from gptoss_mlx.evaluation.texts import read_text

    content = read_text(text)
    draw = drawer(plot)
    with stages() as report:
        runtime = loaded(model, report, exact)
        tokens = runtime.tokenizer.encode(content)[:limit]
        found = measure(runtime, tokens, context=context, stride=stride, progress=partial(report, "scoring"))
        draw(plot_perplexity, found, f"{runtime.name}\n{text.name}")
    show({"model": runtime.name, "text": str(text)}, found.to_dict(), perplexity_table(found), as_json)


@eval.command(cls=OneLineErrors)
@click.argument("model_a")
@click.argument("model_b")
@material_options
@click.option("--two-pass", is_flag=True, help="Never both models in memory: MODEL_A's logits go through a file.")
@exact_option
@json_option
@plot_option
def kl(
    model_a: str, model_b: str, two_pass: bool, exact: bool | None, as_json: bool, plot: Path | None, **material: Any
) -> None:
    """How far MODEL_B's predictions are from MODEL_A's, on the file TEXT.

    TEXT is plain text, or conversations (FILE.jsonl), in which only what the assistant writes counts; answers that
    are missing are MODEL_A's own.
    """
    from gptoss_mlx.evaluation.divergence import compare_folders
    from gptoss_mlx.evaluation.report import divergence_table, plot_divergence
    from gptoss_mlx.evaluation.texts import Material
    from gptoss_mlx.hub import display_name, find

    folders = find(model_a), find(model_b)
    compared_on = Material(**material)
    names = [display_name(folder) for folder in folders]
    draw = drawer(plot)
    with stages() as report:
        passages = partial(compared_on.passages, progress=partial(report, "answering"))
        found = compare_folders(*folders, passages, two_pass=two_pass, exact=exact, progress=report)
        draw(plot_divergence, found, f"{names[1]}\nagainst {names[0]}")
    show({"reference": names[0], "candidate": names[1]}, found.to_dict(), divergence_table(found), as_json)


@eval.command(cls=OneLineErrors)
@click.argument("source")
@material_options
@click.option("--dense", multiple=True, help="Only this preset of --dense; may be given several times.")
@click.option("--experts", multiple=True, help="Only this preset of --experts; may be given several times.")
@exact_option
@json_option
@plot_option
def presets(
    source: str,
    dense: tuple[str, ...],
    experts: tuple[str, ...],
    exact: bool | None,
    as_json: bool,
    plot: Path | None,
    **material: Any,
) -> None:
    """What each preset of `convert` costs: SOURCE is converted with it, and compared with itself on the file TEXT.

    TEXT is as for `eval kl`. One converted folder is on the disk at a time (TMPDIR says where).
    """
    from gptoss_mlx.convert.presets import DENSE, EXPERTS, Preset
    from gptoss_mlx.evaluation.divergence import compare_presets
    from gptoss_mlx.evaluation.report import plot_presets, presets_table
    from gptoss_mlx.evaluation.texts import Material
    from gptoss_mlx.hub import display_name, find

    folder = find(source)
    chosen = [Preset(d, e) for e in experts or EXPERTS for d in dense or DENSE]
    compared_on = Material(**material)
    draw = drawer(plot)
    with stages() as report:
        passages = partial(compared_on.passages, progress=partial(report, "answering"))
        found = compare_presets(folder, passages, chosen, exact=exact, progress=report)
        draw(plot_presets, found, f"presets of {display_name(folder)}")
    figures = {"presets": [result.to_dict() for result in found]}
    about = {"source": display_name(folder), "positions": len(found[0].divergence.nats)}
    show(about, figures, presets_table(found), as_json)


@eval.command(cls=OneLineErrors)
@click.argument("model")
@click.argument("tasks_file", metavar="TASKS.jsonl", type=_FILE)
@click.option("--score", type=click.Choice(["generate", "likelihood"]), default="generate", show_default=True)
@click.option("--effort", type=click.Choice(["low", "medium", "high"]), default="medium", show_default=True)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=16384, show_default=True, help="Thoughts included.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many tasks.")
@click.option("--out", type=_FILE, metavar="FILE.jsonl", help="Write every outcome as soon as it is there.")
@click.option("--resume/--overwrite", default=True, help="Go on with FILE.jsonl, or start over.  [default: resume]")
@json_option
@plot_option
def tasks(
    model: str,
    tasks_file: Path,
    limit: int | None,
    out: Path | None,
    resume: bool,
    as_json: bool,
    plot: Path | None,
    **settings: Any,
) -> None:
    """Put the questions of a file to MODEL and count right answers.

    One JSON object per line: id, question, answer; optionally choices (a list), match (choice, number, exact,
    contains or regex), system, group. With choices, answer is the index, letter or text of the right one.
    """
    from gptoss_mlx.evaluation.outcomes import run_kept
    from gptoss_mlx.evaluation.report import plot_tasks, tasks_table
    from gptoss_mlx.evaluation.runs import Settings
    from gptoss_mlx.evaluation.tasks import read_tasks

    asked = Settings(**settings)
    rows = read_tasks(tasks_file)[:limit]
    draw = drawer(plot)
    with stages() as report:
        runtime = loaded(model, report)
        told = partial(report, "asking")
        found = run_kept(runtime, rows, asked, tasks_file, out, overwrite=not resume, progress=told)
        draw(plot_tasks, found, f"{runtime.name}\non {tasks_file.name}")
    show({"model": runtime.name, "tasks_file": str(tasks_file)}, found.to_dict(), tasks_table(found), as_json)


def loaded(name: str, report: Stage, exact: bool | None = None) -> GptOss:
    """Load a model behind the bar."""
    from gptoss_mlx import load

    return load(name, exact=exact, progress=partial(report, "loading"))


def drawer(path: Path | None) -> Callable[..., None]:
    """What draws a plot if one was asked for; that it can be written is seen to before anything is measured."""
    if path is not None:
        from .plot import check_plot

        check_plot(path)

    def draw(plot: Callable[..., None], *arguments: Any) -> None:
        if path is not None:
            plot(path, *arguments)

    return draw


def show(about: dict[str, Any], figures: dict[str, Any], table: Table, as_json: bool) -> None:
    """Print what was found: as JSON, or as a table under what it is about."""
    from rich.console import Console

    if as_json:
        click.echo(json.dumps({**about, **figures}, indent=2))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in about.items()), markup=False)
    console.print(table)
