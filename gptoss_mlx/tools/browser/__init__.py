"""The browser that gpt-oss was trained on, over a local folder, the plain web, or a search service."""

from ..citation import Citation, with_footnotes
from .backend import Backend, BrowserError, Document, SearchResult
from .citations import find_citations
from .local import Indexed, LocalFolder
from .page import Page
from .services import Brave, Exa, SearchService, Tavily
from .tool import BrowserTool
from .web import Web

__all__ = [
    "Backend",
    "Brave",
    "BrowserError",
    "BrowserTool",
    "Citation",
    "Document",
    "Exa",
    "Indexed",
    "LocalFolder",
    "Page",
    "SearchResult",
    "SearchService",
    "Tavily",
    "Web",
    "find_citations",
    "with_footnotes",
]
