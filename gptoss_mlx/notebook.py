"""How a Reply looks in a notebook: thoughts and results folded, calls as code, the answer as Markdown.

What the model and its tools wrote is shown and never obeyed: thoughts, calls and results are escaped, and the page
holds no raw HTML of an answer and loads no picture that it names.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import Reply, ToolCall, ToolOutput


def markdown(reply: Reply) -> str:
    """The reply as Markdown."""
    parts = [_folded("analysis", reply.analysis)] if reply.analysis else []
    for output in reply.outputs:
        parts += [_fenced(_spelled(output.call)), _folded("result", output.result.text)]
    parts += [_fenced(_spelled(call)) for call in reply.calls]
    return "\n\n".join([*parts, reply.final] if reply.final else parts)


def page(reply: Reply) -> str:
    """The reply as HTML."""
    return "\n".join(_page(reply))


def _page(reply: Reply) -> Iterator[str]:
    if reply.analysis:
        yield _folded("analysis", reply.analysis)
    for output in reply.outputs:
        yield _code(output.call)
        yield _folded("result", output.result.text)
        yield from _pictures(output)
    for call in reply.calls:
        yield _code(call)
    if reply.final:
        yield _rendered(reply.final)


def _rendered(text: str) -> str:
    """Markdown as HTML, with raw HTML escaped and pictures left as text."""
    from markdown_it import MarkdownIt  # here: only notebooks need it

    return str(MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text))


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n<pre>{html.escape(text)}</pre>\n\n</details>"


def _code(call: ToolCall) -> str:
    return f"<pre><code>{html.escape(_spelled(call))}</code></pre>"


def _pictures(output: ToolOutput) -> Iterator[str]:
    for image in output.result.images:
        yield f'<img src="data:image/png;base64,{base64.b64encode(image).decode()}">'


def _spelled(call: ToolCall) -> str:
    return f"{call.name}({call.arguments})"


def _fenced(text: str) -> str:
    """A block of code, whatever backticks it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
