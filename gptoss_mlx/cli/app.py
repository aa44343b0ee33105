"""The command group: finds commands by name when they are asked for, and turns errors into one line."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from gptoss_mlx import __version__
from gptoss_mlx.errors import GptOssError

COMMANDS = {
    "bench": "bench",
    "chat": "chat",
    "convert": "convert",
    "eval": "eval",
    "generate": "generate",
    "info": "info",
    "pull": "pull",
    "serve": "serve",
    "synth": "convert",
    "verify": "convert",
}
"""Command -> module of this package; importing them all would cost a second at every start."""


class OneLineErrors(click.Command):
    """A command whose expected failures are one line on standard error, exit status 1; an interrupt is 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GptOssError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(141)


class Commands(OneLineErrors, click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gptoss_mlx.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gptoss-mlx")
def main() -> None:
    """Run OpenAI's open-weight gpt-oss models on this machine."""
