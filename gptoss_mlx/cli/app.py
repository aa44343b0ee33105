"""The command group: finds commands by name when they are asked for, and turns errors into one line."""

from __future__ import annotations

import errno
import importlib
import io
import os
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
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""How the system refuses what a stream is to hold, on a full disk or where the terminal is gone."""


class OneLineErrors(click.Command):
    """A command whose expected failures are one line on standard error, exit status 1; an interrupt is 130."""

    def invoke(self, ctx: click.Context) -> Any:
        make_streams_total()
        try:
            return super().invoke(ctx)
        except GptOssError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:
            abandon_output()
            sys.exit(141)
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            abandon_output()
            raise click.ClickException(f"standard output: it cannot be written to ({error.strerror})") from None


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


def make_streams_total() -> None:
    """Let every text be read and written: a question mark stands for what an encoding lacks, nothing for no stream."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the program
            os.open(os.devnull, os.O_RDWR)  # in its place: MLX reads no file that is number 0
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def abandon_output() -> None:
    """Let what is still to be written to standard output go nowhere, so that the interpreter's end does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
