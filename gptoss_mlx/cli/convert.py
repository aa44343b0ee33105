"""`gptoss-mlx convert`, `verify` and `synth`: checkpoints in, MLX folders out, and the proof of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .app import OneLineErrors
from .progress import byte_bar

if TYPE_CHECKING:
    from rich.table import Table

    from gptoss_mlx.convert import ConversionReport, TensorCheck, VerifyReport

_FOLDER = click.Path(path_type=Path)


@click.command(cls=OneLineErrors)
@click.argument("source", type=_FOLDER)
@click.argument("destination", type=_FOLDER)
@click.option(
    "--dense",
    type=click.Choice(["bf16", "q8", "q6", "q4", "mxfp8"]),
    default="q8",
    show_default=True,
    help="Embeddings, attention and output.",
)
@click.option(
    "--experts",
    type=click.Choice(["mxfp4", "q4", "q8"]),
    default="mxfp4",
    show_default=True,
    help="mxfp4 keeps the released bits; the others serve runtimes without it.",
)
@click.option("--overwrite", is_flag=True, help="Replace DESTINATION once the new folder is complete.")
@click.option("--resume", is_flag=True, help="Continue an interrupted conversion.")
def convert(source: Path, destination: Path, dense: str, experts: str, overwrite: bool, resume: bool) -> None:
    """Convert the checkpoint in SOURCE into a folder for MLX.

    SOURCE is a released repository, its original/ folder, a BF16 checkpoint or an MLX folder.
    """
    from gptoss_mlx.convert import convert as run

    try:
        with byte_bar("converting") as progress:
            report = run(
                source,
                destination,
                dense=dense,
                experts=experts,
                overwrite=overwrite,
                resume=resume,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("interrupted; the same command with --resume continues", err=True)
        sys.exit(130)
    _print_conversion(report)


def _print_conversion(report: ConversionReport) -> None:
    from .tables import size

    resumed = f", {report.shards_resumed} of them from before" if report.shards_resumed else ""
    click.echo(
        f"{report.destination}: {report.parameters:,} parameters, {report.tensors} tensors, "
        f"{size(report.bytes_written)} in {report.shards} file(s){resumed}, {report.seconds:.0f} s"
    )
    for note in report.notes:
        click.echo(f"note: {note}")


@click.command(cls=OneLineErrors)
@click.argument("source", type=_FOLDER)
@click.argument("destination", type=_FOLDER)
@click.option("--all", "every", is_flag=True, help="One line per tensor instead of one per kind.")
def verify(source: Path, destination: Path, every: bool) -> None:
    """Prove the MLX folder DESTINATION against the checkpoint SOURCE; exit status 1 if it does not hold."""
    from rich.console import Console

    from gptoss_mlx.convert import verify as run

    with byte_bar("verifying") as progress:
        report = run(source, destination, progress)
    width = None if sys.stdout.isatty() else 160
    Console(highlight=False, width=width).print(_verify_table(report, every))
    for line in _failures(report):
        click.echo(line)
    click.echo(f"{destination}: {'holds' if report.ok else 'does NOT hold'}, {report.seconds:.0f} s")
    if not report.ok:
        sys.exit(1)


def _verify_table(report: VerifyReport, every: bool) -> Table:
    from rich.table import Table

    table = Table()
    for heading in ("tensors", "stored as"):
        table.add_column(heading, no_wrap=True)
    for heading in ("count", "weights", "bits that differ", "relative RMS error", "largest error"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    groups: dict[tuple[str, str], list[TensorCheck]] = {}
    for check in report.checks:
        groups.setdefault((check.name if every else check.kind, check.stored), []).append(check)
    for (name, stored), checks in groups.items():
        table.add_row(name, stored, *_figures(checks))
    return table


def _figures(checks: list[TensorCheck]) -> tuple[str, ...]:
    differing = sum(check.differing for check in checks)
    exact = all(check.exact for check in checks) or not (differing or any(check.largest_error for check in checks))
    return (
        str(len(checks)),
        f"{sum(check.weights for check in checks):,}",
        str(differing),
        "0" if exact else f"{max(check.relative_rms for check in checks):.2e}",
        "0" if exact else f"{max(check.largest_error for check in checks):.2e}",
        _verdict(checks, exact),
    )


def _verdict(checks: list[TensorCheck], exact: bool) -> str:
    if not all(check.ok for check in checks):
        return "[bold red]WRONG[/bold red]"
    return "bit for bit" if exact else "quantised"


def _failures(report: VerifyReport) -> Iterable[str]:
    yield from report.problems
    for check in report.checks:
        if not check.ok:
            what = f"{check.differing:,} items differ" if check.exact else f"{check.beyond:,} weights are too far off"
            yield f"{check.name}: {what}"


@click.command(cls=OneLineErrors)
@click.argument("folder", type=_FOLDER)
@click.option("--size", type=click.Choice(["tiny", "20b", "120b"]), default="tiny", show_default=True)
@click.option("--layers", type=click.IntRange(1), help="Another number of layers.")
@click.option("--experts", type=click.IntRange(1), help="Another number of experts per layer.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--layout", type=click.Choice(["hf", "original", "bf16"]), default="hf", show_default=True)
@click.option("--tokenizer", type=_FOLDER, help="A folder whose tokenizer files are copied.")
@click.option("--shard-bytes", type=click.IntRange(1), help="Another limit per file than the release's.")
def synth(
    folder: Path,
    size: str,
    layers: int | None,
    experts: int | None,
    seed: int,
    layout: str,
    tokenizer: Path | None,
    shard_bytes: int | None,
) -> None:
    """Write a random checkpoint in a layout of the release to FOLDER."""
    from gptoss_mlx.convert import synthesize

    with byte_bar("writing") as progress:
        synthesize(
            folder,
            size,
            layers,
            experts,
            seed,
            layout,
            tokenizer=tokenizer,
            shard_bytes=shard_bytes,
            progress=progress,
        )
    click.echo(f"{folder}: a random {size} checkpoint, layout {layout}, seed {seed}")
