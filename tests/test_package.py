"""The package as a whole: versions agree, the README tells the truth about files and commands, rooms keep apart."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gptoss_mlx
from gptoss_mlx.cli.app import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

FORBIDDEN = {
    "convert": ("click", "rich", "gptoss_mlx.cli", "gptoss_mlx.conversation", "gptoss_mlx.runtime", "torch"),
    "gptoss_mlx/engine": ("click", "rich", "gptoss_mlx.cli", "gptoss_mlx.conversation", "gptoss_mlx.harmony"),
    "gptoss_mlx/harmony": ("click", "rich", "mlx", "gptoss_mlx.model", "gptoss_mlx.engine", "gptoss_mlx.cli"),
    "gptoss_mlx/kernels": ("click", "rich", "gptoss_mlx.model", "gptoss_mlx.engine", "gptoss_mlx.cli"),
}


def test_versions_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"', project, re.MULTILINE)[1] == gptoss_mlx.__version__  # type: ignore[index]
    assert f"## [{gptoss_mlx.__version__}]" in changelog


def test_the_readme_lists_every_command() -> None:
    assert set(re.findall(r"^\| `gptoss-mlx (\w+)", README, re.MULTILINE)) == set(COMMANDS)


def test_the_readme_s_tree_exists_and_is_whole() -> None:
    tree = README.split("## Where things are")[1]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    for folder in ("convert", "gptoss_mlx"):
        modules = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
        assert modules <= named
    existing = {
        path.name for folder in ("convert", "gptoss_mlx", "tests", "examples") for path in (ROOT / folder).rglob("*.py")
    }
    assert named <= existing


def test_the_readme_s_commands_are_ci_s() -> None:
    install, tests = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install.startswith("pip install . && python -m gptoss_mlx.chat")
    assert tests.endswith("&& pytest")
    assert re.search(r"^pytest$", script, re.MULTILINE)


def test_the_readme_s_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: 1)  # the seed that the example does not give
    example = README.split("```python\n")[1].split("```")[0]
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("17 + 25 = 42.\n")
    assert out.splitlines()[-1].startswith("Done(reply=<Reply '42 + 3 = 45.': stop")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_downwards_only(room: str) -> None:
    for path in (ROOT / room).glob("*.py"):
        for name in imported(path):
            assert not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN[room]), f"{path.name}: {name}"


def test_only_the_command_line_knows_click() -> None:
    for path in (ROOT / "gptoss_mlx").rglob("*.py"):
        if path.parent.name != "cli":
            assert "click" not in imported(path), path


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    parents = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *((node.module,) if node.module else ())))
            names |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return names
