"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from gptoss_mlx.hub import display_name
from gptoss_mlx.info import ModelInfo


def size(count: float) -> str:
    """Bytes in words, in powers of a thousand as the sellers of disks and Macs count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def print_info(info: ModelInfo, console: Console | None = None) -> None:
    """Print what `gptoss-mlx info` shows."""
    console = console or Console(highlight=False, soft_wrap=True)
    c = info.config
    console.print(f"[bold]{display_name(info.folder)}[/bold]  ({info.layout})  {info.folder}", soft_wrap=True)
    console.print(
        f"{c.num_hidden_layers} layers, hidden {c.hidden_size}, {c.num_attention_heads} heads "
        f"({c.num_key_value_heads} key/value) of {c.head_dim}, window {c.sliding_window}, "
        f"{c.num_local_experts} experts ({c.num_experts_per_tok} per token), vocabulary {c.vocab_size}, "
        f"context {c.max_position_embeddings}"
    )
    console.print(f"{info.parameters:,} parameters, {info.active_parameters:,} active per token")
    parts = Table("part", "stored as", title="weights", title_justify="left")
    parts.add_column("size", justify="right")
    for part in info.parts:
        parts.add_row(part.name, part.storage, size(part.bytes))
    parts.add_section()
    parts.add_row("all", "", size(info.bytes))
    console.print(parts)
    kinds = info.contexts[0].kv_bytes
    contexts = Table(title="context: keys and values by what GPTOSS_CACHE keeps", title_justify="left")
    for name in ("tokens", *kinds, f"all, {next(iter(kinds))}"):
        contexts.add_column(name, justify="right")
    contexts.add_column("fits")
    for context in info.contexts:
        fits = "slowly" if context.slow else "yes" if context.fits else "no"
        contexts.add_row(f"{context.tokens:,}", *map(size, context.kv_bytes.values()), size(context.bytes), fits)
    console.print(contexts)
    console.print(f"device: {info.device}, {size(info.memory)} for models\nkernels: {info.kernels}")
    if info.advice:
        console.print(info.advice, markup=False)
