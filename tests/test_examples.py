"""The example scripts run with the embedded model and do what they say."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptoss_mlx
from gptoss_mlx import GptOss
from gptoss_mlx.events import ToolCall
from scripted import ANSWER, Script, call

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = (
    "batch_csv", "chat", "convert_model", "custom_sampling", "logprobs", "patch_agent", "policy_classifier",
    "rag_folder", "server_client", "stream", "structured_output", "tools",
)  # fmt: skip
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."


def module(name: str) -> Any:
    """An example, under a name that takes nobody else's."""
    if f"example_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[f"example_{name}"] = made
        spec.loader.exec_module(made)
    return sys.modules[f"example_{name}"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example; returns what it printed."""
    monkeypatch.setattr("secrets.randbits", lambda bits: 1)  # the seed where an example gives none

    def run(name: str, *arguments: str | Path) -> str:
        module(name).main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_says_how_to_run_it(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text("utf-8")
    told = ast.get_docstring(ast.parse(source)) or ""
    assert re.search(rf"^ *python examples/{name}\.py", told, re.MULTILINE)
    assert 20 <= len(source.splitlines()) <= 80
    assert name not in sys.stdlib_module_names


def test_chat(run: Any) -> None:
    out = run("chat")
    assert PARIS in out
    assert "The capital of Spain is Madrid." in out


def test_stream(run: Any) -> None:
    out = run("stream", "What is 17 + 25?")
    assert out.index("[analysis] ") < out.index("[final] 17 + 25 = 42.") < out.index(" a second")


def test_tools(run: Any) -> None:
    out = run("tools")
    assert out.startswith('get_temperature({"city":"Oslo"}) -> 3 C\n')
    assert out.endswith("The tool says:\n3 C\n")
    with pytest.raises(ValueError, match="no station in Rome; there are Oslo, Paris, Cairo"):
        module("tools").get_temperature("Rome")


def test_structured_output(run: Any) -> None:
    assert run("structured_output") == '{"city":"Paris"}\ncity: Paris\n'


def test_batch_csv(run: Any, tmp_path: Path) -> None:
    questions, answers = tmp_path / "questions.csv", tmp_path / "answers.csv"
    asked = [f"What is {a} + {a}?" for a in range(10, 16)]
    questions.write_text("id,question\n" + "".join(f"{i},{q}\n" for i, q in enumerate(asked)), "utf-8")
    assert run("batch_csv", questions, answers) == f"6 answers in {answers}\n"
    with answers.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["question"]) for row in rows] == [(str(i), q) for i, q in enumerate(asked)]
    assert [row["answer"] for row in rows] == [f"{a} + {a} = {2 * a}." for a in range(10, 16)]


def test_batch_csv_without_questions(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.csv").write_text("id,text\n1,x\n", "utf-8")
    with pytest.raises(SystemExit):
        run("batch_csv", tmp_path / "empty.csv", tmp_path / "out.csv")
    assert "a column named question" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_rag_folder(run: Any, tmp_path: Path) -> None:
    (tmp_path / "name.md").write_text("# The name\n\nWe chose the name Harbor in May.", "utf-8")
    (tmp_path / "else.md").write_text("# Bread\n\nFlour and water.", "utf-8")
    out = run("rag_folder", tmp_path, "When did we choose the name?")
    assert out.startswith("2 documents\nfound: The name (local:///name.md)\n")
    assert "the embedded one cannot" in out


def test_policy_classifier(run: Any) -> None:
    contents = ["Buy cheap watches now!!!", FRANCE]
    verdicts = run("policy_classifier", *contents).splitlines()
    for verdict, content in zip(verdicts, contents, strict=True):
        violation, rule, confidence, rest = verdict.split(maxsplit=3)
        assert violation in "01"
        assert rule in ("S0", "S1", "S2")
        assert confidence in ("low", "medium", "high")
        assert rest == content


def test_logprobs(run: Any) -> None:
    lines = run("logprobs", FRANCE, "--top", "2").splitlines()
    assert "".join(ast.literal_eval(line.split("%", 1)[1].split(" of '")[0].strip()) for line in lines) == PARIS
    assert all(line.count("%") == 3 for line in lines)


def test_custom_sampling(run: Any) -> None:
    lines = run("custom_sampling", FRANCE).splitlines()
    assert lines[0] == f"the likeliest tokens: {PARIS}"
    assert len(lines) == len(module("custom_sampling").SETTINGS) + 1
    assert lines[-1].endswith(f"<|channel|>final<|message|>{PARIS}")


def test_convert_model(run: Any, tmp_path: Path) -> None:
    out = run("convert_model", tmp_path / "converted").splitlines()
    assert out[1].endswith("tensors compared, all as they should be")
    assert out[2] == PARIS


def test_patch_agent(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert run("patch_agent").endswith("changed: nothing\n")
    (tmp_path / "a.py").write_text("x = 1\n", "utf-8")
    assert run("patch_agent", "--folder", tmp_path, "Make x 2.").endswith("changed: nothing\n")
    assert (tmp_path / "a.py").read_text("utf-8") == "x = 1\n"


PATCH = """\
*** Begin Patch
*** Update File: shapes.py
@@
 def area(width, height):
-    return width + height
+    return width * height
*** End Patch"""


def says(monkeypatch: pytest.MonkeyPatch, *turns: str) -> None:
    """Let the model say this, as a larger one would."""
    monkeypatch.setattr(GptOss, "_generate", Script(*turns, tokenizer=gptoss_mlx.load("demo").tokenizer))


def test_patch_agent_with_a_model_that_can(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, call("functions.apply_patch", PATCH), ANSWER)
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert run("patch_agent").endswith("It is so.\nchanged: shapes.py\n")
    says(monkeypatch, call("functions.apply_patch", PATCH), ANSWER)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert run("patch_agent") == "The user did not allow this call.\nIt is so.\nchanged: nothing\n"


def test_rag_folder_with_a_model_that_can(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "name.md").write_text("# The name\n\nWe chose the name Harbor in May.", "utf-8")
    answer = "<|channel|>final<|message|>In May 【1†L1-L3】.<|return|>"
    opened = call("browser.open", '{"id": 0}', channel="analysis")
    says(monkeypatch, call("browser.search", '{"query": "name"}', channel="analysis"), opened, answer)
    out = run("rag_folder", tmp_path, "When did we choose the name?")
    assert 'browser.search({"query": "name"})\nbrowser.open({"id": 0})\nIn May [^1].' in out
    assert "[^1]: " in out
    assert "has not searched" not in out


@pytest.mark.parametrize(("typed", "allowed"), [("y", True), (" Y ", True), ("", False), ("n", False)])
def test_patch_agent_asks(typed: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return typed

    monkeypatch.setattr("builtins.input", answer)
    assert module("patch_agent").confirm(ToolCall.to("functions.apply_patch", "*** Begin Patch")) is allowed
    assert asked == ["*** Begin Patch\nApply this? [y/N] "]


@pytest.fixture
def server() -> Iterator[str]:
    """The address of `gptoss-mlx serve demo`."""
    command = [sys.executable, "-m", "gptoss_mlx", "serve", "demo", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if '"listening"' in line:
                yield json.loads(line)["url"]
                break
        else:
            pytest.fail("".join(log))
        process.terminate()
        process.communicate()


def test_server_client(run: Any, server: str) -> None:
    assert run("server_client", "--url", server, FRANCE) == f"{PARIS}\n"


def test_server_client_without_a_server(run: Any) -> None:
    with pytest.raises(SystemExit, match="start one with `gptoss-mlx serve demo`"):
        run("server_client", "--url", "http://127.0.0.1:9/v1")
