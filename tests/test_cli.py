"""The command line on a random model: what is printed where, and failures in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gptoss_mlx import __version__
from gptoss_mlx.cli import main
from gptoss_mlx.cli.chat import chat
from toy import write_toy

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("toy")))


def run(*arguments: str, stdin: str | None = None, command: Any = main) -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


def test_help_and_version() -> None:
    assert run("--version").output.strip() == f"gptoss-mlx, version {__version__}"
    listing = run("--help").output
    for name in ("chat", "convert", "generate", "info", "pull", "synth", "verify"):
        assert re.search(rf"^  {name} +\S", listing, re.MULTILINE)
        assert run(name, "--help").exit_code == 0


def test_prompts_are_kept_and_drafts_change_nothing(tmp_path: Path) -> None:
    question = ("--model", "demo", "--temp", "0", "What is the capital of France?")
    plain = run("chat", *question)
    assert "Paris" in plain.stdout
    for more in (("--prompt-cache", str(tmp_path / "kept")), ("--draft", "demo")):
        for _ in range(2):
            assert run("chat", *more, *question).stdout == plain.stdout
    assert len(list((tmp_path / "kept").glob("prompt-*.safetensors"))) == 1
    failed = run("generate", "demo", "x", "--draft", str(tmp_path))
    assert failed.exit_code == 1
    assert len(failed.stderr.strip().splitlines()[-1:]) == 1


def test_info(toy: str) -> None:
    table = run("info", toy).output
    assert "Hugging Face release" in table
    assert "mxfp4" in table
    assert "kernels" in table
    found = json.loads(run("info", toy, "--json").output)
    assert found["bytes"] == sum(part["bytes"] for part in found["parts"])
    assert {part["name"]: part["storage"] for part in found["parts"]}["experts"] == "mxfp4"
    assert found["contexts"][-1]["tokens"] == 131072
    assert found["native_kernels"] in (True, False)


def test_generate(toy: str) -> None:
    first = run("generate", toy, "the json", "--max-tokens", "12", "--seed", "3")
    assert first.exit_code == 0
    assert first.output.endswith("\n")
    assert run("generate", toy, "--max-tokens", "12", "--seed", "3", stdin="the json").output == first.output


def test_a_question_is_answered_without_escape_codes(toy: str) -> None:
    result = run("hello", "--model", toy, "--max-tokens", "20", "--seed", "1", command=chat)
    assert result.exit_code == 0
    assert result.stdout.strip()
    assert ESCAPE not in result.output
    again = run("chat", "hello", "--model", toy, "--max-tokens", "20", "--seed", "1")
    assert again.stdout == result.stdout


def test_piped_lines_are_turns_and_commands(toy: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = ["/effort high", "/system Be short.", "hello", "", f"/save {saved}", "/reset", f"/load {saved}", "/help"]
    lines += ["/what", "/effort none", "/load nowhere.json", "/save", "and?", f"/save {saved}", "/quit", "never read"]
    result = run("--model", toy, "--max-tokens", "8", "--seed", "2", stdin="\n".join(lines), command=chat)
    assert result.exit_code == 1  # as some lines are refused
    remarks = result.stderr
    for expected in (
        "effort: high", "system: Be short.", "is forgotten", "/what: no such command", "reasoning effort: expected",
        "nowhere.json: no saved conversation", "/save: the name of a file expected", "/quit",
    ):  # fmt: skip
        assert expected in remarks
    assert "saved" not in result.stdout
    conversation = json.loads(saved.read_text())
    roles = [message["role"] for message in conversation["messages"]]
    assert roles[:3] == ["system", "developer", "user"]
    assert roles.count("user") == 2
    assert ESCAPE not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "nowhere/"], "no such folder"),
        (["info", "20b-or-so"], "no such folder"),
        (["chat", "q", "--model", "other/model"], "gptoss-mlx pull other/model"),
        (["generate", "TOY", ""], "at least one"),
        (["chat", "q", "--model", "TOY", "--temp", "-1"], "temperature"),
        (["pull", "what"], "an alias"),
    ],
)
def test_failures_are_one_line(
    arguments: list[str], says: str, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_MLX_HOME", str(tmp_path))
    result = run(*[toy if argument == "TOY" else argument for argument in arguments])
    assert result.exit_code == 1
    lines = result.output.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert says in lines[0]


def test_wrong_options_are_refused() -> None:
    assert run("chat", "--effort", "extreme").exit_code == 2
    assert run("chat", " ").exit_code == 2
    assert run("nonsense").exit_code == 2
