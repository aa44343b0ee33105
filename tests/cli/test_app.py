"""What every command does with its streams and failures, as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import os, sys
import click
from gptoss_mlx.cli.app import OneLineErrors

@click.command(cls=OneLineErrors)
@click.argument("code")
def command(code):
    exec(code, globals())

command()
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its shell is another one")


def shell(line: str, code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `$PYTHON -c "$PROGRAM" "$CODE"` in a line of the shell."""
    variables = {**os.environ, "PYTHON": sys.executable, "PROGRAM": PROGRAM, "CODE": code, "PYTHONPATH": str(ROOT)}
    line = line.replace("RUN", '"$PYTHON" -W error -c "$PROGRAM" "$CODE"')
    return subprocess.run(["sh", "-c", line], env={**variables, **environment}, capture_output=True, timeout=60)


def test_bytes_that_are_no_text_are_read() -> None:
    said = shell(r"printf 'a\377b' | RUN", "print(len(sys.stdin.read()))", PYTHONIOENCODING="utf-8:strict")
    assert (said.stdout, said.stderr) == (b"3\n", b"")


def test_what_an_encoding_lacks_is_written_as_a_question_mark() -> None:
    said = shell("RUN", "print('a·b'); print('c·d', file=sys.stderr)", PYTHONIOENCODING="ascii:strict")
    assert (said.stdout, said.stderr) == (b"a?b\n", b"c?d\n")


def test_closed_streams_hold_nothing() -> None:
    code = "print(repr(sys.stdin.read())); os.write(2, str(os.open('/dev/null', os.O_RDONLY) > 2).encode())"
    assert shell("RUN <&-", code).stdout == b"''\n"
    assert shell("RUN >&-", code).returncode == 0
    assert shell("RUN <&- >&-", code).stderr == b"True"


def test_a_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    failed = shell("RUN > /dev/full", "print('x', flush=True)")
    assert failed.returncode == 1
    assert failed.stderr == b"Error: standard output: it cannot be written to (No space left on device)\n"
    assert b"FileNotFoundError" in shell("RUN", "open('nowhere')").stderr


def test_nobody_has_to_read_to_the_end() -> None:
    code = "from gptoss_mlx.cli.printer import terminal_console as t; [t().print('x' * 1000) for _ in range(1000)]"
    for writing in (code, "for _ in range(1000): print('x' * 1000)"):
        ended = shell("(RUN; echo $? >&2) | head -c 1", writing)
        assert (ended.stdout, ended.stderr) == (b"x", b"141\n")
