"""Options that give tools: what they make, that it is closed, and refusals in one line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gptoss_mlx.cli.chat import chat
from gptoss_mlx.cli.toolset import ToolOptions, named_function, open_tools
from gptoss_mlx.errors import GptOssError, ToolError
from gptoss_mlx.tools.apply_patch import ApplyPatchTool
from gptoss_mlx.tools.browser import BrowserTool
from gptoss_mlx.tools.mcp import McpTools
from gptoss_mlx.tools.python import PythonTool

MODULE = """
def double(number: int) -> int:
    "Doubles."
    return 2 * number

number = 4
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working directory."""
    (tmp_path / "some_tools.py").write_text(MODULE)
    (tmp_path / "broken_tools.py").write_text("raise LookupError('no luck')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield "some_tools"
    sys.modules.pop("some_tools", None)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(chat, ["--model", "demo", "--temp", "0", *arguments])


def test_a_named_function(module: str) -> None:
    assert named_function("some_tools:double")(4) == 8
    assert named_function("json:JSONDecoder.decode") is json.JSONDecoder.decode


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("double", "MODULE:FUNCTION expected, 'double' found"),
        (":double", "MODULE:FUNCTION expected"),
        ("nowhere_at_all:f", "cannot be imported (ModuleNotFoundError"),
        ("broken_tools:f", "cannot be imported (LookupError: no luck)"),
        ("some_tools:triple", "has no triple"),
        ("some_tools:number", "a callable expected, int found"),
    ],
)
def test_names_that_lead_to_nothing(name: str, says: str, module: str) -> None:
    with pytest.raises(ToolError) as caught:
        named_function(name)
    assert says in str(caught.value)


def test_tools_of_every_kind(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(config: Path) -> McpTools:
        assert config == tmp_path / "mcp.json"
        return McpTools([])

    monkeypatch.setattr(McpTools, "connect", connect)
    config = tmp_path / "mcp.json"
    wanted = ToolOptions(
        (f"{module}:double",),
        unsafe_python=True,
        browse=str(tmp_path),
        apply_patch=str(tmp_path),
        mcp=str(config),
    )
    assert wanted
    with open_tools(wanted) as tools:
        function, python, browser, patch, mcp = tools
        assert callable(function)
        assert isinstance(python, PythonTool)
        assert isinstance(browser, BrowserTool)
        assert isinstance(patch, ApplyPatchTool)
        assert isinstance(mcp, McpTools)
    assert asyncio.run(python.run("python", "1")).text == "[the notebook is closed]"
    with open_tools(ToolOptions(web=True)) as tools:
        assert isinstance(tools[0], BrowserTool)


def test_what_is_open_is_closed_when_another_tool_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[Any] = []

    async def close(self: BrowserTool) -> None:
        closed.append(self)

    monkeypatch.setattr(BrowserTool, "close", close)
    wanted = ToolOptions(web=True, apply_patch=str(tmp_path / "nowhere"))
    with pytest.raises(GptOssError, match="nowhere"), open_tools(wanted):
        pass
    assert len(closed) == 1


def test_contradictions() -> None:
    assert not ToolOptions()
    with pytest.raises(click.UsageError, match="one browser expected, two found"):
        ToolOptions(browse=".", web=True)
    refused = ask("--yes", "--python", "What is 2 + 2?")
    assert refused.exit_code == 2
    assert "a QUESTION stands before --python" in refused.output.replace("\n", " ")


def test_calls_without_anybody_to_ask_need_yes(module: str) -> None:
    refused = ask("--tool", "some_tools:double", "What is the capital of France?")
    assert refused.exit_code == 2
    assert "add --yes" in refused.output.replace("\n", " ")


def test_a_tool_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weather_tools.py").write_text(
        'def get_weather(city: str) -> str:\n    "Get the weather in a city."\n    return "7 C, snow"\n'
    )
    monkeypatch.chdir(tmp_path)
    result = ask("What is the weather in Oslo?", "--tool", "weather_tools:get_weather", "--yes")
    assert result.exit_code == 0, result.output
    assert '-> get_weather {"city"' in result.stderr
    assert "<- 7 C, snow" in result.stderr
    assert "->" not in result.stdout
    assert "7 C" in result.stdout
