"""The tools that run on the server, as far as its owner has turned them on. Clients choose among these alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

from gptoss_mlx.harmony.message import FUNCTIONS
from gptoss_mlx.tools import RunnableTool, ToolResult
from gptoss_mlx.tools.browser import Backend, BrowserTool
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
        """Connect the MCP servers, in the event loop that will call them, and see that a notebook can be started.

        Raises:
            RequestError: the file tells of no server, or one does not start.
            ToolError: no notebook can be started here.
        """
        if self._config is not None and self.mcp is None:
            self.mcp = await McpTools.connect(self._config)
        if self.python is not None:
            await (await asyncio.to_thread(self.python)).close()

    async def close(self) -> None:
        """End the connections."""
        if self.mcp is not None:
            await self.mcp.close()


class _ReplysBrowser(BrowserTool):
    """A browser over a back end that other replies use too."""

    async def close(self) -> None:
        """Leave the back end open."""


def browsers(backend: Backend) -> Callable[[], BrowserTool]:
    """Makes browsers over one back end, for each reply one with cursors of its own."""
    return lambda: _ReplysBrowser(backend)


def notebooks() -> RunnableTool:
    """Makes a notebook for one reply.

    Raises:
        ToolError: it cannot be started here.
    """
    from gptoss_mlx.tools.python import PythonTool

    return PythonTool()


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
