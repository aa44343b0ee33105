"""`gptoss-mlx generate`: raw text continues raw text, without any conversation around it."""

from __future__ import annotations

import sys
from typing import Any

import click

from .app import OneLineErrors
from .options import Loading, load_runtime, loading_options, sampling_options, sampling_params


@click.command(cls=OneLineErrors)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@loading_options
@sampling_options
def generate(model: str, prompt: str | None, max_tokens: int, **options: Any) -> None:
    """Continue PROMPT (or standard input) with MODEL, as plain text."""
    text = sys.stdin.read() if prompt is None else prompt
    from gptoss_mlx.hub import find

    runtime = load_runtime(find(model), Loading.taken(options))
    for token in runtime.generate(runtime.tokenizer.encode(text), sampling_params(options), max_tokens):
        click.echo(token.text, nl=False)
        sys.stdout.flush()
    click.echo()
