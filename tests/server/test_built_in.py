"""The tools that run on the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gptoss_mlx.errors import ToolError
from gptoss_mlx.harmony import Tool
from gptoss_mlx.server.built_in import BuiltIns, Selection, browsers
from gptoss_mlx.tools import RunnableTool, ToolResult
from gptoss_mlx.tools.browser import LocalFolder


class Tides(RunnableTool):
    """Two functions that tell what they were called with."""

    functions = (Tool("tides"), Tool("waves"))
    closed = False

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        return ToolResult(f"{recipient} {arguments}")

    async def close(self) -> None:
        self.closed = True


def test_a_selection_is_a_part_of_a_tool() -> None:
    async def act() -> None:
        whole = Tides()
        part = Selection(whole, ["tides"])
        assert part.functions == (Tool("tides"),)
        assert (await part.run("functions.tides", "{}")).text == "functions.tides {}"
        assert (await part.run("functions.waves", "{}")).failed
        assert not part.handles("functions.waves")
        await part.close()
        assert not whole.closed

    asyncio.run(act())


def test_browsers_share_a_folder_but_no_cursors(tmp_path: Path) -> None:
    (tmp_path / "tides.md").write_text("# Tides\n\nHigh at noon.\n")

    async def act() -> None:
        make = browsers(LocalFolder(tmp_path))
        first, second = make(), make()
        for browser in (first, second):
            assert (await browser.run("browser.search", '{"query":"tides"}')).text.startswith("[0]")
            await browser.close()

    asyncio.run(act())


def test_a_notebook_is_tried_at_the_start() -> None:
    tried: list[Tides] = []

    def make() -> RunnableTool:
        tried.append(Tides())
        return tried[-1]

    def fail() -> RunnableTool:
        raise ToolError("python: no sandbox works here")

    asyncio.run(BuiltIns(python=make).open())
    assert [each.closed for each in tried] == [True]
    with pytest.raises(ToolError, match="no sandbox"):
        asyncio.run(BuiltIns(python=fail).open())
