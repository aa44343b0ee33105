"""Tools that run on this machine when the model calls them."""

from .citation import Citation, with_footnotes, with_links
from .tool import RunnableTool, ToolResult

__all__ = ["Citation", "RunnableTool", "ToolResult", "with_footnotes", "with_links"]
