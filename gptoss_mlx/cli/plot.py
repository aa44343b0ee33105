"""The curve of a benchmark as a PNG; matplotlib is an optional extra, asked for before anything is measured."""

from __future__ import annotations

import io
import os
from importlib.util import find_spec
from pathlib import Path

from gptoss_mlx.bench import BenchReport
from gptoss_mlx.convert.write import write_durably
from gptoss_mlx.errors import RequestError


def check_plot(path: Path) -> None:
    """See to it that a plot can be written, before minutes are spent on measuring.

    Raises:
        RequestError: it cannot.
    """
    if find_spec("matplotlib") is None:
        raise RequestError("plot: matplotlib is not installed; pip install 'gptoss-mlx[plot]'")
    if path.suffix.lower() != ".png":
        raise RequestError(f"plot: a file name that ends in .png expected, {path} found")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise RequestError(f"plot: {path} cannot be written; name a file in a folder that can")


def write_plot(path: Path, found: BenchReport) -> None:
    """Draw the curve as a PNG; the file appears at once or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    contexts = [point.context for point in found.curve]
    speeds = [point.speed for point in found.curve]
    spread = ([s.median - s.low for s in speeds], [s.high - s.median for s in speeds])
    axes.errorbar(contexts, [s.median for s in speeds], yerr=spread, marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts])
    axes.minorticks_off()
    axes.set_ylim(0, 1.1 * max(s.high for s in speeds))
    axes.set_xlabel("context (tokens)")
    together = f", {found.settings.batch} sequences together" if found.settings.batch > 1 else ""
    axes.set_ylabel(f"decode (tokens/s{together})")
    axes.set_title(f"{found.model}\non {found.machine}; medians of {found.settings.repeat}, with their spread")
    axes.grid(alpha=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    write_durably(path, drawn.getvalue())
