"""What the model may call: the one shape of functions, built-in tools and MCP servers.

A tool either declares functions, which the developer message lists in the namespace `functions`, or it is one of
the built-in tools that the model was trained on, which the system message lists in a namespace of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ..harmony.message import FUNCTIONS, Tool, ToolNamespace
from .citation import Citation


@dataclass(frozen=True)
class ToolResult:
    """What a call gave: the text that the model reads, and pictures for the person."""

    text: str
    failed: bool = False
    """Whether the text tells of an error; the model reads it all the same, and may try again."""
    images: tuple[bytes, ...] = ()
    """PNG files."""


class RunnableTool(ABC):
    """Something the model may call, and that runs here."""

    functions: tuple[Tool, ...] = ()
    """What the developer message declares in the namespace `functions`."""
    namespace: ToolNamespace | None = None
    """What the system message declares for a built-in tool."""
    instructions: str | None = None
    """What the developer message should add for the model to use this well."""

    def handles(self, recipient: str) -> bool:
        """Whether a call to `recipient` (`functions.tide_at`, `python`, `browser.search`) is for this tool."""
        if self.namespace is not None and recipient.partition(".")[0] == self.namespace.name:
            return True
        return any(recipient == f"{FUNCTIONS}.{function.name}" for function in self.functions)

    @abstractmethod
    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Run one call. Whatever goes wrong becomes a failed result, never an exception.

        Args:
            recipient: whom the model called.
            arguments: what it wrote: JSON text for functions, code for `python`.
        """

    def citations(self, text: str) -> Sequence[Citation]:
        """What an answer cites of what this tool has shown, in the order of the answer."""
        return ()

    async def close(self) -> None:
        """End what the tool started: processes, connections. It must not be used afterwards."""
        return
