"""`gptoss-mlx bench`: how fast a model runs here, against how fast this machine reads memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .app import OneLineErrors

if TYPE_CHECKING:
    from rich.table import Table

    from gptoss_mlx.bench import BenchReport, Report, Spread


@click.command(cls=OneLineErrors)
@click.argument("model")
@click.option("--prompt", type=int, default=256, show_default=True, help="Tokens to prefill.")
@click.option("--generate", type=int, default=32, show_default=True, help="Tokens to decode.")
@click.option("--context", type=int, help="Decode from this context on; it is filled, unmeasured.  [default: --prompt]")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences that run together.")
@click.option("--repeat", type=int, default=3, show_default=True, help="Repetitions, each with an empty cache.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random token ids.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Also draw decode speed against context, doubling from 256 up to --context (or 4096).",
)
def bench(
    model: str,
    prompt: int,
    generate: int,
    context: int | None,
    batch: int,
    repeat: int,
    seed: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure MODEL's prefill and decode speed, and decode's share of this machine's reading speed.

    Every repetition prefills random tokens into an empty cache and decodes from there. Speeds are medians and count
    the tokens of all sequences.
    """
    from gptoss_mlx.bench import Settings
    from gptoss_mlx.bench import bench as measure
    from gptoss_mlx.hub import find

    settings = Settings(prompt, generate, context, batch, repeat, seed)
    if plot is not None:
        from .plot import check_plot

        check_plot(plot)
    with stages() as report:
        found = measure(find(model), settings, curve=plot is not None, report=report)
    if plot is not None:
        from .plot import write_plot

        write_plot(plot, found)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_report(found)


@contextmanager
def stages() -> Iterator[Report]:
    """A bar on standard error that is drawn only when it is told something: a drawing thread would be measured too."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=False) as bar:
        task = bar.add_task("", total=None)

        def report(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total, refresh=True)

        yield report


def print_report(found: BenchReport) -> None:
    """Print what `gptoss-mlx bench` found."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(f"[bold]{found.model}[/bold]  {found.folder}", soft_wrap=True)
    console.print(f"{found.machine}\nkernels: {found.kernels}", soft_wrap=True)
    console.print(_table(found))
    if found.curve:
        console.print(_curve(found))


def _table(found: BenchReport) -> Table:
    from rich.table import Table

    from .tables import size

    s, step = found.settings, found.step
    each = f"{s.batch} × " if s.batch > 1 else ""
    table = Table()
    table.add_column("measured")
    table.add_column("median", justify="right")
    table.add_column(f"spread of {s.repeat}", justify="right")
    table.add_row("load", f"{found.load_s:.2f} s", "")
    table.add_row(f"prefill of {each}{s.prompt:,} tokens", *_cells(found.prefill, "tokens/s"))
    table.add_row(f"decode of {each}{s.generate:,} tokens at {s.start:,}", *_cells(found.decode, "tokens/s"))
    table.add_section()
    table.add_row("read per decoded token", size(step.total / s.batch), "")
    table.add_row("  dense weights", size(step.dense / s.batch), "")
    about = "about " if s.batch > 1 else ""
    table.add_row(f"  {about}{step.experts_per_layer:.3g} experts a layer", size(step.experts / s.batch), "")
    table.add_row("  keys and values", size(step.kv / s.batch), "")
    table.add_row("decode reads", *_cells(found.achieved, "GB/s"))
    table.add_row("this machine reads", *_cells(found.reading, "GB/s"))
    table.add_row("share", *_cells(found.share, "%"))
    table.add_section()
    table.add_row("peak memory, mapped files included", size(found.peak_memory), "")
    table.add_row("peak of MLX's own arrays", size(found.mlx_peak_memory), "")
    return table


def _curve(found: BenchReport) -> Table:
    from rich.table import Table

    table = Table()
    for heading in ("context", "decode", f"spread of {found.settings.repeat}"):
        table.add_column(heading, justify="right")
    for point in found.curve:
        table.add_row(f"{point.context:,}", *_cells(point.speed, "tokens/s"))
    return table


def _cells(spread: Spread, unit: str) -> tuple[str, str]:
    return f"{spread.median:,.1f} {unit}", f"{spread.low:,.1f} to {spread.high:,.1f}"
