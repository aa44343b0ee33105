"""`gptoss-mlx eval` from end to end: what is printed where, files that it writes, and failures in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gptoss_mlx import hub
from gptoss_mlx.cli import main
from gptoss_mlx.convert import convert
from toy import write_toy

HELD_OUT = str(Path(__file__).parent.parent / "data" / "demo_heldout.jsonl")
PNG = b"\x89PNG"


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("The capital of France is Paris. " * 30)
    return str(path)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "tasks.jsonl"
    rows = [
        {"id": 1, "question": "What is 17 + 25?", "answer": 42, "group": "sums"},
        {"id": 2, "question": "What is the capital of Peru?", "answer": "Oslo", "match": "contains", "group": "cities"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model with its dense parts in four bits."""
    folder = tmp_path_factory.mktemp("rough") / "demo-q4"
    convert(hub.find("demo"), folder, dense="q4")
    return str(folder)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["eval", *arguments])


def figures(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_perplexity(text: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "perplexity.png"
    options = ("--context", "64", "--stride", "16", "--limit", "150", "--exact", "--plot", str(picture))
    found = figures("perplexity", "demo", text, *options)
    assert picture.read_bytes().startswith(PNG)
    assert (found["tokens"], found["context_tokens"], found["stride_tokens"], found["windows"]) == (150, 64, 16, 7)
    assert found["perplexity"] > 1
    assert found["perplexity_standard_error"] > 0
    table = run("perplexity", "demo", text)
    assert table.stderr == ""
    for expected in ("model: the embedded demonstration model", "perplexity", "bits per byte", "one window"):
        assert expected in table.stdout


def test_kl(rough: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "kl.png"
    found = figures("kl", "demo", rough, HELD_OUT, "--limit", "6", "--exact", "--plot", str(picture))
    assert 0 < found["kl_median_nats"] < found["kl_mean_nats"] < found["kl_p99_nats"] <= found["kl_max_nats"] < 10
    assert 0.9 < found["top1_agreement"] <= 1
    assert 0.7 < found["top5_overlap"] < 1
    assert picture.read_bytes().startswith(PNG)
    again = figures("kl", "demo", rough, HELD_OUT, "--limit", "6", "--exact", "--two-pass")
    assert again == found


def test_kl_of_random_tokens(rough: str) -> None:
    table = run("kl", "demo", rough, "--tokens", "40", "--context", "16").stdout
    for expected in ("reference: the embedded", "candidate: demo-q4", "99th percentile", "same likeliest token", "40"):
        assert expected in table
    assert figures("kl", "demo", "demo", "--tokens", "40")["kl_max_nats"] == 0


def test_kl_of_plain_text(text: str) -> None:
    assert figures("kl", "demo", "demo", text, "--limit", "50")["positions"] == 50


def test_presets(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "presets.png"
    options = ("--limit", "3", "--dense", "bf16", "--dense", "q4", "--experts", "mxfp4", "--exact")
    found = figures("presets", "demo", HELD_OUT, *options, "--plot", str(picture))
    assert [(p["dense"], p["experts"]) for p in found["presets"]] == [("bf16", "mxfp4"), ("q4", "mxfp4")]
    assert found["presets"][0]["kl_max_nats"] == 0 < found["presets"][1]["kl_mean_nats"]
    assert picture.read_bytes().startswith(PNG)
    table = run("presets", "demo", HELD_OUT, *options).stdout
    assert "│ q4    │ mxfp4   │" in table
    assert "100.00 %" in table


def test_tasks(questions: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture, out = tmp_path / "tasks.png", tmp_path / "out.jsonl"
    options = ("--effort", "low", "--temperature", "0", "--out", str(out))
    found = figures("tasks", "demo", questions, *options, "--plot", str(picture))
    assert [(g["group"], g["tasks"], g["correct"]) for g in found["groups"]] == [("sums", 1, 1), ("cities", 1, 0)]
    assert found["total"]["accuracy"] == 0.5
    assert (found["total"]["accuracy_low"], found["total"]["accuracy_high"]) == pytest.approx(
        (0.0945, 0.9055), abs=1e-4
    )
    assert picture.read_bytes().startswith(PNG)
    kept = out.read_bytes()
    table = run("tasks", "demo", questions, *options).stdout
    assert out.read_bytes() == kept
    for expected in ("group", "sums", "cities", "50.0 %", "9.5 to 90.5", "mean tokens"):
        assert expected in table
    refused = run("tasks", "demo", questions, "--effort", "high", "--out", str(out))
    assert (refused.exit_code, len(refused.output.splitlines())) == (1, 1)
    assert run("tasks", "demo", questions, "--effort", "high", "--out", str(out), "--overwrite").exit_code == 0
    assert out.read_bytes() != kept


def test_tasks_by_likelihood(tmp_path: Path) -> None:
    row = {"id": "x", "question": "What is the capital of Italy?", "answer": 0}
    row["choices"] = [f"The capital of Italy is {city}." for city in ("Rome", "Oslo", "Lima")]
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(row))
    assert figures("tasks", "demo", str(path), "--score", "likelihood")["total"]["correct"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["perplexity", "demo", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["perplexity", "demo", "EMPTY"], "a text expected, nothing found"),
        (["perplexity", "demo", "TEXT", "--context", "200000"], "context: 1 to 131072"),
        (["perplexity", "demo", "TEXT", "--context", "4", "--stride", "5"], "stride: 1 to 4"),
        (["perplexity", "nowhere/", "TEXT"], "no such folder"),
        (["kl", "demo", "demo"], "one of the two"),
        (["kl", "demo", "demo", "TEXT", "--tokens", "4"], "one of the two"),
        (["kl", "demo", "TOY", "TEXT"], "vocabularies: equally many logits expected, 1824 and 400 found"),
        (["kl", "demo", "demo", "TASKS"], "tasks.jsonl:1: unknown field 'answer'"),
        (["kl", "demo", "demo", "--tokens", "140000", "--context", "140000"], "at most 131072 tokens fit"),
        (["kl", "demo", "demo", "TEXT", "--plot", "x.pdf"], "ends in .png"),
        (["presets", "demo", "TEXT", "--dense", "q5"], "dense must be one of"),
        (["presets", "demo"], "one of the two"),
        (["tasks", "demo", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["tasks", "demo", "TEXT"], "text.txt:1: one JSON object per line expected"),
        (["tasks", "demo", "TASKS", "--temperature", "-1"], "temperature: 0 to 100"),
        (["tasks", "demo", "TASKS", "--score", "likelihood"], "task '1': choices are needed"),
        (["tasks", "demo", "TASKS", "--out", "TEXT"], "text.txt: results of an evaluation expected"),
        (["tasks", "demo", "TASKS", "--plot", "nowhere/x.png"], "cannot be written"),
    ],
)
def test_failures_are_one_line(arguments: list[str], says: str, text: str, questions: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    names = {"TEXT": text, "TASKS": questions, "EMPTY": str(tmp_path / "empty")}
    if "TOY" in arguments:
        (tmp_path / "toy").mkdir()
        names["TOY"] = str(write_toy(tmp_path / "toy"))
    result = run(*[names.get(argument, argument) for argument in arguments])
    assert (result.exit_code, len(result.output.strip().splitlines())) == (1, 1), result.output
    assert result.output.startswith("Error: ")
    assert says in result.output


def test_help_lists_the_commands() -> None:
    listing = run("--help").output
    for name in ("perplexity", "kl", "presets", "tasks"):
        assert f"  {name} " in listing
        assert run(name, "--help").exit_code == 0
    assert run("tasks", "demo", "x", "--effort", "none").exit_code == 2
