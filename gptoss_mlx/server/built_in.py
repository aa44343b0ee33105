"""The tools that run on the server, as far as its owner has turned them on. Clients choose among these alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from gptoss_mlx.harmony.message import FUNCTIONS
from gptoss_mlx.tools import RunnableTool, ToolResult
from gptoss_mlx.tools.browser import BrowserTool


@dataclass(frozen=True)
class BuiltIns:
    """What may be asked for."""

    browser: Callable[[], BrowserTool] | None = None
    """Makes a browser for one reply."""
    python: Callable[[], RunnableTool] | None = None
    """Makes a notebook for one reply."""
    mcp: Mapping[str, RunnableTool] = field(default_factory=dict)
    """The tools of each MCP server, by its label; every reply uses the same connections."""


class Selection(RunnableTool):
    """Some of another tool's functions; closing it leaves the other one open.

    Args:
        tool: the other one.
        names: of its functions.
    """

    def __init__(self, tool: RunnableTool, names: Collection[str]) -> None:
        self._tool = tool
        self.functions = tuple(function for function in tool.functions if function.name in names)
        self.instructions = tool.instructions

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Run one call; see `RunnableTool.run`."""
        if recipient.removeprefix(f"{FUNCTIONS}.") not in {function.name for function in self.functions}:
            return ToolResult(f"{recipient}: no such function", failed=True)
        return await self._tool.run(recipient, arguments)
