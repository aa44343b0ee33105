"""What evaluations look like: tables for a terminal, plots as PNG.

The figures themselves come from the reports' own `to_dict`. matplotlib is an optional extra, imported where
something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from gptoss_mlx.convert.write import write_durably

from .divergence import Divergence, PresetResult
from .perplexity import Perplexity
from .runs import GroupScore, TaskReport

FLOOR = 1e-8
"""Divergences below it are drawn at it: a logarithmic axis has no zero."""


def perplexity_table(found: Perplexity) -> Table:
    """Perplexity and what it was measured on."""
    table = Table("measured")
    table.add_column("value", justify="right")
    table.add_column("standard error", justify="right")
    table.add_row("perplexity", f"{found.perplexity:,.4f}", _error(found.perplexity_error))
    table.add_row("nats per token", f"{found.nats:.5f}", _error(found.standard_error))
    table.add_row("bits per byte", f"{found.bits_per_byte:.5f}", "")
    table.add_section()
    table.add_row("tokens scored", f"{found.scored:,}", "")
    table.add_row(f"windows of {found.context:,} tokens, {found.stride:,} apart", f"{found.windows:,}", "")
    return table


def _error(value: float | None) -> str:
    return "one window" if value is None else f"{value:.2g}"


def divergence_table(found: Divergence) -> Table:
    """Divergence and agreement."""
    table = Table("measured")
    table.add_column("value", justify="right")
    names = ("mean", "median", "99th percentile", "largest")
    for name, nats in zip(names, _nats(found), strict=True):
        table.add_row(f"KL divergence, {name}", f"{nats} nats")
    table.add_section()
    table.add_row("same likeliest token", f"{100 * found.top1:.2f} %")
    table.add_row("shared among the five likeliest", f"{100 * found.top5:.2f} %")
    table.add_section()
    table.add_row("positions", f"{len(found.nats):,}")
    return table


def presets_table(results: Sequence[PresetResult]) -> Table:
    """One row per preset."""
    table = Table("dense", "experts")
    headings = ("size", "KL mean (nats)", "median", "99th percentile", "largest", "same top token", "of top 5 shared")
    for heading in headings:
        table.add_column(heading, justify="right")
    for result in results:
        found = result.divergence
        shares = (f"{100 * share:.2f} %" for share in (found.top1, found.top5))
        table.add_row(
            result.preset.dense, result.preset.experts, f"{result.size / 1e6:,.2f} MB", *_nats(found), *shares
        )
    return table


def _nats(found: Divergence) -> tuple[str, ...]:
    figures = (found.mean, found.quantile(0.5), found.quantile(0.99), found.quantile(1.0))
    return tuple("0" if nats == 0 else f"{nats:.2e}" for nats in figures)


def tasks_table(found: TaskReport) -> Table:
    """One row per group, and one for all."""
    table = Table("group")
    for heading in ("tasks", "right", "accuracy", "95 % interval", "no answer", "cut off", "mean tokens"):
        table.add_column(heading, justify="right")
    for group in found.groups:
        table.add_row(group.group, *_scored(group))
    if len(found.groups) > 1:
        table.add_section()
        table.add_row("all", *_scored(found.total))
    return table


def _scored(group: GroupScore) -> tuple[str, ...]:
    low, high = group.interval
    return (
        f"{group.tasks:,}",
        f"{group.correct:,}",
        f"{100 * group.accuracy:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f}",
        str(group.unanswered),
        str(group.cut_off),
        f"{group.mean_tokens:,.1f}",
    )


def plot_perplexity(path: Path, found: Perplexity, title: str) -> None:
    """Draw along the text how surprised the model is, window by window."""
    with _axes(path, title) as axes:
        axes.stairs(found.nats_by_window, [0, *found.ends], baseline=None, label="each window's own tokens")
        mean = f"mean {found.nats:.4f}, perplexity {found.perplexity:,.4f}"
        axes.axhline(found.nats, linestyle=":", color="gray", label=mean)
        axes.legend()
        axes.set_xlabel("tokens of the text")
        axes.set_ylabel("nats per token")


def plot_divergence(path: Path, found: Divergence, title: str) -> None:
    """Draw the share of positions that diverge by more than so many nats."""
    with _axes(path, title) as axes:
        nats = np.sort(np.maximum(found.nats, FLOOR))
        axes.step(nats, 100 * (1 - np.arange(len(nats)) / len(nats)), where="post")
        for name, value in (("mean", found.mean), ("99th percentile", found.quantile(0.99))):
            axes.axvline(max(value, FLOOR), linestyle=":", color="gray")
            axes.annotate(f" {name} {value:.1e}", (max(value, FLOOR), 100), rotation=90, va="top")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("KL divergence (nats)")
        axes.set_ylabel("positions beyond it (%)")


def plot_presets(path: Path, results: Sequence[PresetResult], title: str) -> None:
    """Draw mean divergence against size."""
    with _axes(path, title) as axes:
        for experts in dict.fromkeys(result.preset.experts for result in results):
            mine = [result for result in results if result.preset.experts == experts]
            sizes = [result.size / 1e6 for result in mine]
            means = [max(result.divergence.mean, FLOOR) for result in mine]
            axes.plot(sizes, means, "o", label=f"experts {experts}")
            for result, *place in zip(mine, sizes, means, strict=True):
                axes.annotate(f" {result.preset.dense}", tuple(place))
        axes.set_yscale("log")
        axes.set_xlabel("weights (MB)")
        axes.set_ylabel("mean KL divergence from the source (nats)")
        axes.legend()


def plot_tasks(path: Path, found: TaskReport, title: str) -> None:
    """Draw each group's accuracy with its interval."""
    groups = [*found.groups, found.total] if len(found.groups) > 1 else [*found.groups]
    with _axes(path, title) as axes:
        heights = [100 * group.accuracy for group in groups]
        ends = [[100 * end for end in group.interval] for group in groups]
        below = [max(0.0, height - low) for height, (low, _) in zip(heights, ends, strict=True)]
        above = [max(0.0, high - height) for height, (_, high) in zip(heights, ends, strict=True)]
        places = range(len(groups))
        axes.bar(places, heights, yerr=(below, above), capsize=4)
        axes.set_xticks(places, [group.group for group in groups], rotation=30, ha="right")
        axes.set_ylim(0, 100)
        axes.set_ylabel("right answers (%), 95 % interval")


@contextmanager
def _axes(path: Path, title: str) -> Iterator[Any]:
    """Axes to draw on; afterwards the PNG appears at once, or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    yield axes
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    write_durably(path, drawn.getvalue())
