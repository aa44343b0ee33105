"""`gptoss-mlx pull`: download a model and convert it."""

from __future__ import annotations

import click

from .app import OneLineErrors
from .progress import byte_bar


@click.command(cls=OneLineErrors)
@click.argument("model")
@click.option("--dense", type=click.Choice(["bf16", "q8", "q6", "q4", "mxfp8"]), default="q8", show_default=True)
@click.option("--experts", type=click.Choice(["mxfp4", "q4", "q8"]), default="mxfp4", show_default=True)
def pull(model: str, dense: str, experts: str) -> None:
    """Download MODEL (20b, 120b or a hub id) and convert it for this runtime; run again to go on after a stop."""
    from gptoss_mlx.hub import pull as pull_model

    with byte_bar("converting") as progress:
        pulled = pull_model(model, dense=dense, experts=experts, progress=progress)
    click.echo(f"{model} is ready in {pulled.folder}\nchat with it: gptoss-mlx chat --model {model}")
    click.echo(f"the download is no longer needed; it lies in {pulled.source}")
