"""The items of a response's output, and the events that tell of each from its beginning to its end.

An item is opened, gets pieces, and is closed; each step gives the events that a client reads, without their sequence
numbers. `body` is the item as it is at the moment.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.browser import BrowserTool, Citation

from ..sealing import seal

Json = dict[str, Any]


def new_id(prefix: str) -> str:
    """An id that nothing else has: `msg_`, `rs_`, `resp_` and the like, then 48 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def name_of(namespace: str, name: str) -> str:
    """How the model calls a tool of a client's namespace."""
    return f"{namespace}__{name}"


class Item:
    """One item of the output; a kind of item says what it begins as and which events its pieces make."""

    prefix: str
    """What ids of this kind begin with."""

    def __init__(self, index: int, **fields: Any) -> None:
        self.index = index
        self.body: Json = {"id": new_id(self.prefix), **fields}

    def open(self) -> Iterator[Json]:
        """The events with which it begins."""
        yield {"type": "response.output_item.added", "output_index": self.index, "item": dict(self.body)}

    def close(self, status: str) -> Iterator[Json]:
        """The events with which it ends; no others follow."""
        self.body["status"] = status
        yield {"type": "response.output_item.done", "output_index": self.index, "item": dict(self.body)}

    def event(self, kind: str, **fields: Any) -> Json:
        """An event about this item."""
        return {"type": f"response.{kind}", "item_id": self.body["id"], "output_index": self.index, **fields}


class TextItem(Item):
    """What people read: the answer, or a preamble before a call."""

    prefix = "msg"

    def __init__(self, index: int, phase: str) -> None:
        super().__init__(index, type="message", role="assistant", status="in_progress", phase=phase, content=[])
        self._texts: list[str] = []
        self._logprobs: list[Json] = []

    def open(self) -> Iterator[Json]:
        """The item and its one part."""
        yield from super().open()
        yield self.event("content_part.added", content_index=0, part=_text_part("", (), ()))

    def add(self, text: str, logprobs: Sequence[Json]) -> Json:
        """A piece of the text."""
        self._texts.append(text)
        self._logprobs += logprobs
        return self.event("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))

    @property
    def text(self) -> str:
        """What it says so far."""
        return "".join(self._texts)

    def finish(self, status: str, citations: Sequence[Citation] = ()) -> Iterator[Json]:
        """Its end, with the pages that the text cites."""
        annotations = [_annotation(citation) for citation in citations]
        for number, annotation in enumerate(annotations):
            told = {"content_index": 0, "annotation_index": number, "annotation": annotation}
            yield self.event("output_text.annotation.added", **told)
        part = _text_part(self.text, annotations, self._logprobs)
        self.body["content"] = [part]
        yield self.event("output_text.done", content_index=0, text=self.text, logprobs=self._logprobs)
        yield self.event("content_part.done", content_index=0, part=part)
        yield from self.close(status)


class ReasoningItem(Item):
    """Thoughts. Where a summary is asked for it is the thoughts themselves, as nothing here could shorten them.

    Args:
        summarized: whether to give them as a summary too, for clients that show nothing else.
        sealed: whether to give them as `encrypted_content` too, for clients that send nothing else back.
    """

    prefix = "rs"

    def __init__(self, index: int, summarized: bool, sealed: bool) -> None:
        super().__init__(index, type="reasoning", status="in_progress", summary=[], content=[], encrypted_content=None)
        self._summarized = summarized
        self._sealed = sealed
        self._texts: list[str] = []

    def open(self) -> Iterator[Json]:
        """The item and its parts."""
        yield from super().open()
        yield self.event("content_part.added", content_index=0, part=_thought(""))
        if self._summarized:
            yield self.event("reasoning_summary_part.added", summary_index=0, part=_summary(""))

    def add(self, text: str) -> Iterator[Json]:
        """A piece of the thoughts."""
        self._texts.append(text)
        yield self.event("reasoning_text.delta", content_index=0, delta=text)
        if self._summarized:
            yield self.event("reasoning_summary_text.delta", summary_index=0, delta=text)

    def finish(self, status: str) -> Iterator[Json]:
        """Its end."""
        text = "".join(self._texts)
        self.body["content"] = [_thought(text)]
        yield self.event("reasoning_text.done", content_index=0, text=text)
        yield self.event("content_part.done", content_index=0, part=_thought(text))
        if self._summarized:
            self.body["summary"] = [_summary(text)]
            yield self.event("reasoning_summary_text.done", summary_index=0, text=text)
            yield self.event("reasoning_summary_part.done", summary_index=0, part=_summary(text))
        if self._sealed:
            self.body["encrypted_content"] = seal(text)
        yield from self.close(status)


class CallItem(Item):
    """A call, whoever answers it."""

    answered_here = False
    """Whether it stays open until its result is there."""

    def add(self, text: str) -> Iterator[Json]:
        """A piece of the arguments."""
        yield from ()

    def complete(self, arguments: str) -> Iterator[Json]:
        """The arguments are whole."""
        yield from self.close("completed")

    def answer(self, result: ToolResult) -> Iterator[Json]:
        """A call that is answered here has its result."""
        yield from self.close("failed" if result.failed else "completed")


class FunctionItem(CallItem):
    """A call of a function that the client runs; `more` is the namespace that it is in, if it is in one."""

    prefix = "fc"

    def __init__(self, index: int, name: str, call_id: str, **more: str) -> None:
        fields = {"name": name, **more, "call_id": call_id, "arguments": "", "status": "in_progress"}
        super().__init__(index, type="function_call", **fields)

    def add(self, text: str) -> Iterator[Json]:
        """A piece of the arguments."""
        self.body["arguments"] += text
        yield self.event("function_call_arguments.delta", delta=text)

    def complete(self, arguments: str) -> Iterator[Json]:
        """The client may run it."""
        self.body["arguments"] = arguments
        yield self.event("function_call_arguments.done", name=self.body["name"], arguments=arguments)
        yield from self.close("completed")


class CustomItem(CallItem):
    """A call of a client's tool that takes plain text: the model sees a function of one text, `input`."""

    prefix = "ctc"

    def __init__(self, index: int, name: str, call_id: str, **more: str) -> None:
        fields = {"name": name, **more, "call_id": call_id, "input": "", "status": "in_progress"}
        super().__init__(index, type="custom_tool_call", **fields)

    def complete(self, arguments: str) -> Iterator[Json]:
        """The text as one piece: only now is it known to be one."""
        text = _text_argument(arguments)
        self.body["input"] = text
        yield self.event("custom_tool_call_input.delta", delta=text)
        yield self.event("custom_tool_call_input.done", input=text)
        yield from self.close("completed")


class CodeItem(CallItem):
    """A cell that the notebook runs here."""

    prefix = "ci"
    answered_here = True

    def __init__(self, index: int, container: str, with_outputs: bool) -> None:
        fields = {"container_id": container, "code": "", "outputs": None, "status": "in_progress"}
        super().__init__(index, type="code_interpreter_call", **fields)
        self._with_outputs = with_outputs

    def open(self) -> Iterator[Json]:
        """The cell begins to be written."""
        yield from super().open()
        yield self.event("code_interpreter_call.in_progress")

    def add(self, text: str) -> Iterator[Json]:
        """A piece of the code."""
        self.body["code"] += text
        yield self.event("code_interpreter_call_code.delta", delta=text)

    def complete(self, arguments: str) -> Iterator[Json]:
        """The cell runs."""
        self.body.update(code=arguments, status="interpreting")
        yield self.event("code_interpreter_call_code.done", code=arguments)
        yield self.event("code_interpreter_call.interpreting")

    def answer(self, result: ToolResult) -> Iterator[Json]:
        """What the cell printed and drew; an exception in it is part of that."""
        if self._with_outputs:
            logs: list[Json] = [{"type": "logs", "logs": result.text}]
            self.body["outputs"] = logs + [{"type": "image", "url": _data_url(image)} for image in result.images]
        yield self.event("code_interpreter_call.completed")
        yield from self.close("completed")


class SearchItem(CallItem):
    """A look into the browser; opened when its arguments are whole, as they say what it is."""

    prefix = "ws"
    answered_here = True

    def __init__(self, index: int, function: str, arguments: str, browser: BrowserTool | None) -> None:
        action = _action(function, arguments, browser)
        super().__init__(index, type="web_search_call", status="in_progress", action=action)

    def complete(self, arguments: str) -> Iterator[Json]:
        """The browser works."""
        self.body["status"] = "searching"
        yield self.event("web_search_call.in_progress")
        yield self.event("web_search_call.searching")

    def answer(self, result: ToolResult) -> Iterator[Json]:
        """There is something to read."""
        yield self.event("web_search_call.completed")
        yield from super().answer(result)


class McpItem(CallItem):
    """A call of an MCP server's tool."""

    prefix = "mcp"
    answered_here = True

    def __init__(self, index: int, label: str, name: str) -> None:
        fields = {"arguments": "", "output": None, "error": None, "status": "in_progress"}
        super().__init__(index, type="mcp_call", server_label=label, name=name, approval_request_id=None, **fields)

    def open(self) -> Iterator[Json]:
        """The call begins to be written."""
        yield from super().open()
        yield self.event("mcp_call.in_progress")

    def add(self, text: str) -> Iterator[Json]:
        """A piece of the arguments."""
        self.body["arguments"] += text
        yield self.event("mcp_call_arguments.delta", delta=text)

    def complete(self, arguments: str) -> Iterator[Json]:
        """The server works."""
        self.body.update(arguments=arguments, status="calling")
        yield self.event("mcp_call_arguments.done", arguments=arguments)

    def answer(self, result: ToolResult) -> Iterator[Json]:
        """What the server said."""
        if result.failed:
            content = [{"type": "text", "text": result.text}]
            self.body["error"] = {"type": "mcp_tool_execution_error", "content": content}
        else:
            self.body["output"] = result.text
        yield self.event("mcp_call.failed" if result.failed else "mcp_call.completed")
        yield from super().answer(result)


def _text_part(text: str, annotations: Sequence[Json], logprobs: Sequence[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": list(logprobs)}


def _thought(text: str) -> Json:
    return {"type": "reasoning_text", "text": text}


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}


def _annotation(citation: Citation) -> Json:
    place = {"start_index": citation.start, "end_index": citation.end}
    return {"type": "url_citation", "url": citation.url, "title": citation.title, **place}


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _read_object(arguments: str) -> Json:
    """Arguments that a model wrote, empty where they are no object."""
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _text_argument(arguments: str) -> str:
    text = _read_object(arguments).get("input")
    return text if isinstance(text, str) else arguments


def _action(function: str, arguments: str, browser: BrowserTool | None) -> Json:
    """What a call of the browser does, with the addresses that cursors and links stand for."""
    given = _read_object(arguments)
    if function == "search":
        query = str(given.get("query", ""))
        return {"type": "search", "query": query, "queries": [query]}
    cursor, link = given.get("cursor"), given.get("id")
    page = browser.page(cursor) if browser is not None and isinstance(cursor, int) else None
    url = page.url if page is not None else ""
    if function == "find":
        return {"type": "find_in_page", "pattern": str(given.get("pattern", "")), "url": url}
    if page is not None and isinstance(link, int) and 0 <= link < len(page.links):
        url = page.links[link].url
    return {"type": "open_page", "url": (link if isinstance(link, str) else url) or None}
