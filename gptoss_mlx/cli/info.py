"""`gptoss-mlx info`: what a model is, what it needs, what fits."""

from __future__ import annotations

import json

import click

from .app import OneLineErrors


@click.command(cls=OneLineErrors)
@click.argument("model", default="demo")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(model: str, as_json: bool) -> None:
    """Show MODEL's architecture, storage and memory needs, and this machine (MODEL: path, alias, hub id)."""
    from gptoss_mlx.hub import find
    from gptoss_mlx.info import model_info

    found = model_info(find(model))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2, default=list))
    else:
        from .tables import print_info

        print_info(found)
