"""The tools that run on the server, as far as its owner has turned them on. Clients choose among these alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from gptoss_mlx.harmony.message import FUNCTIONS
from gptoss_mlx.tools import RunnableTool, ToolResult
from gptoss_mlx.tools.browser import BrowserTool
from gptoss_mlx.tools.mcp import McpTools


class BuiltIns:
    """What may be asked for.

    Args:
        browser: makes a browser for one reply; None: there is none.
        python: makes a notebook for one reply.
        mcp: the tools of MCP servers, or the file that tells of them. Every reply uses the same connections.
    """

    def __init__(
        self,
        browser: Callable[[], BrowserTool] | None = None,
        python: Callable[[], RunnableTool] | None = None,
        mcp: McpTools | Path | None = None,
    ) -> None:
        self.browser = browser
        self.python = python
        self.mcp = mcp if isinstance(mcp, McpTools) else None
        """What the servers offer, once `open` has connected them."""
        self._config = mcp if isinstance(mcp, Path) else None

    async def open(self) -> None:
        """Connect the MCP servers, in the event loop that will call them.

        Raises:
            RequestError: the file tells of none, or a server does not start.
        """
        if self._config is not None:
            self.mcp = await McpTools.connect(self._config)

    async def close(self) -> None:
        """End the connections."""
        if self.mcp is not None:
            await self.mcp.close()


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
