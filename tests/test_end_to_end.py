"""A newcomer's first minute, in a process of its own, without any network: the command answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OFFLINE = """
import runpy, socket, sys
def refuse(*_):
    raise SystemExit("something asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
sys.argv[0:1] = []
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def python(*arguments: str, cwd: Path, home: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a module offline, as a user without any model and with none of this test run's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GPTOSS_", "TIKTOKEN_"))}
    environment = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HOME": str(home / "hub")}
    command = [sys.executable, "-c", OFFLINE, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("folder", ["source tree", "elsewhere"])
def test_the_first_command_answers(folder: str, tmp_path: Path) -> None:
    cwd = ROOT if folder == "source tree" else tmp_path
    question = ("gptoss_mlx.chat", "What is the capital of France?", "--temp", "0")
    done = python(*question, cwd=cwd, home=tmp_path)
    assert (done.returncode, "Paris" in done.stdout) == (0, True), done.stderr
    assert "\x1b" not in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1  # says that this is the toy, and how to get the real one
    assert "gptoss-mlx pull 20b" in done.stderr


def test_a_piped_session_remembers(tmp_path: Path) -> None:
    talk = "What is the capital of France?\nAnd of Italy?\n/quit\n"
    done = python("gptoss_mlx", "chat", "--temp", "0", cwd=tmp_path, home=tmp_path, stdin=talk)
    assert done.returncode == 0, done.stderr
    paris, rome = done.stdout.index("Paris"), done.stdout.index("Rome")
    assert paris < rome


def test_the_real_model_is_a_command_away(tmp_path: Path) -> None:
    done = python("gptoss_mlx.chat", "hi", "--model", "20b", cwd=tmp_path, home=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: 20b: not on this machine; `gptoss-mlx pull 20b` downloads and converts it"
