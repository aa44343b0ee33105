"""Tools that run on this machine when the model calls them."""

from .tool import RunnableTool, ToolResult

__all__ = ["RunnableTool", "ToolResult"]
