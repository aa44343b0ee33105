"""How a reply looks in a notebook: thoughts and results folded, calls as code, the answer as Markdown, its citations
as links.

What the model and its tools wrote is shown and never obeyed: thoughts, calls and results are escaped, and the page
holds no raw HTML of an answer and loads no picture that it names.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .events import CallDelta, CallStarted, Event, TextDelta, ToolCall, ToolOutput
from .tools import with_links

if TYPE_CHECKING:
    from .events import Reply

REASONS = {"length": "cut off: the limit of tokens, turns or the context was reached", "cancelled": "cancelled"}


@dataclass
class Shown:
    """What there is to see of a reply, finished or not."""

    analysis: str = ""
    commentary: str = ""
    """Remarks to the user between calls."""
    outputs: list[ToolOutput] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    """Those that have no result, the last of them perhaps still being written."""
    final: str = ""
    remark: str = ""
    """Why there is no more, where the model has not ended by itself."""
    _channel: str | None = None

    @classmethod
    def of(cls, reply: Reply) -> Shown:
        """A finished reply."""
        said = [m.text for m in reply.messages if m.channel == "commentary" and m.recipient is None and m.text]
        return cls(
            reply.analysis,
            "\n\n".join(said),
            list(reply.outputs),
            list(reply.calls),
            with_links(reply.final, reply.citations),
            REASONS.get(reply.finish_reason, ""),
        )

    def add(self, event: Event) -> None:
        """Take what happens next; `Done` brings nothing that was not there."""
        match event:
            case TextDelta("analysis" | "commentary" | "final" as channel, text):
                before = getattr(self, channel)
                gap = "\n\n" if before and channel != self._channel else ""
                setattr(self, channel, before + gap + text)
                self._channel = channel
            case CallStarted():
                self.calls.append(ToolCall(event.name, "", event.id, event.recipient))
                self._channel = None
            case CallDelta():
                self.calls[-1] = replace(self.calls[-1], arguments=self.calls[-1].arguments + event.text)
            case ToolOutput():
                self.calls = [call for call in self.calls if call.id != event.call.id]
                self.outputs.append(event)


def markdown(reply: Reply) -> str:
    """The reply as Markdown."""
    shown = Shown.of(reply)
    parts = [_folded("analysis", shown.analysis)] if shown.analysis else []
    parts += [shown.commentary] if shown.commentary else []
    for output in shown.outputs:
        parts += [_fenced(_spelled(output.call)), _result(output)]
        parts += [f"![]({source})" for source in _sources(output)]
    parts += [_fenced(_spelled(call)) for call in shown.calls]
    parts += [shown.final] if shown.final else []
    return "\n\n".join([*parts, f"*{shown.remark}*"] if shown.remark else parts)


def page(reply: Reply) -> str:
    """The reply as HTML."""
    return shown_page(Shown.of(reply))


def shown_page(shown: Shown, *, thinking: bool = False) -> str:
    """HTML; while the model is `thinking`, its thoughts are unfolded."""
    return "\n".join(_page(shown, thinking))


def _page(shown: Shown, thinking: bool) -> Iterator[str]:
    if shown.analysis:
        yield _folded("analysis", shown.analysis, unfolded=thinking)
    if shown.commentary:
        yield _rendered(shown.commentary)
    for output in shown.outputs:
        yield _code(output.call)
        yield _result(output)
        for source in _sources(output):
            yield f'<img src="{source}">'
    for call in shown.calls:
        yield _code(call)
    if shown.final:
        yield _rendered(shown.final)
    if shown.remark:
        yield f"<p><em>{html.escape(shown.remark)}</em></p>"


def _rendered(text: str) -> str:
    """Markdown as HTML, with raw HTML escaped and pictures left as text."""
    from markdown_it import MarkdownIt  # here: only notebooks need it

    return str(MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text))


def _folded(title: str, text: str, *, unfolded: bool = False) -> str:
    tag = "<details open>" if unfolded else "<details>"
    return f"{tag}<summary>{title}</summary>\n\n<pre>{html.escape(text)}</pre>\n\n</details>"


def _result(output: ToolOutput) -> str:
    return _folded("error" if output.result.failed else "result", output.result.text)


def _code(call: ToolCall) -> str:
    return f"<pre><code>{html.escape(_spelled(call))}</code></pre>"


def _sources(output: ToolOutput) -> Iterator[str]:
    """The pictures of a result as addresses that hold them."""
    for image in output.result.images:
        yield f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _spelled(call: ToolCall) -> str:
    return f"{call.name}({call.arguments})"


def _fenced(text: str) -> str:
    """A block of code, whatever backticks it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
