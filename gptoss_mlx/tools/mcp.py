"""Tools of MCP servers (Model Context Protocol) as functions that the model may call.

Each server has a task that owns its connection from beginning to end, as the protocol package wants its contexts
left in the task that entered them. Calls come from any task of the same event loop; a program that has none keeps one
with `BackgroundLoop` (module `loop`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import RequestError
from ..harmony.message import FUNCTIONS, Tool
from .mcp_config import CommandServer, Server, UrlServer, read_config
from .schema import simplify
from .tool import RunnableTool, ToolResult

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client

logging.getLogger("mcp").addHandler(logging.NullHandler())  # else it prints tracebacks where nobody set up logging

START_TIMEOUT = 60.0
"""Seconds for a server to start and list its tools; many are downloaded when they are first started."""
CALL_TIMEOUT = 60.0
CLOSE_TIMEOUT = 10.0
MAX_PAGES = 100
MAX_NAME = 64
PNG = b"\x89PNG\r\n\x1a\n"


class McpTools(RunnableTool):
    """The tools of several MCP servers; `connect` makes it, `close` or `async with` ends it."""

    def __init__(self, connections: Iterable[_Connection]) -> None:
        self._connections = list(connections)
        self._tools: dict[str, tuple[_Connection, str]] = {}
        declared = []
        for connection in self._connections:
            for tool in connection.tools:
                name = function_name(connection.name, tool.name, self._tools)
                self._tools[name] = connection, tool.name
                declared.append(Tool(name, tool.description or tool.title or "", simplify(tool.input_schema)))
        self.functions = tuple(declared)

    @classmethod
    async def connect(
        cls,
        config: Mapping[str, Any] | str | Path,
        *,
        timeout: float = CALL_TIMEOUT,
        start_timeout: float = START_TIMEOUT,
    ) -> McpTools:
        """Start or reach the servers of a configuration and list their tools.

        Args:
            config: the JSON that other clients use (module `mcp_config`), or the path of a file with it.
            timeout: seconds for one call.
            start_timeout: seconds for a server to start and list its tools.

        Raises:
            RequestError: the configuration is none, a server does not start (the message has its last word), or the
                package mcp is not installed.
        """
        _need_mcp()
        connections = [_Connection(server, timeout) for server in read_config(config)]
        try:
            await asyncio.gather(*(connection.start(start_timeout) for connection in connections))
        except BaseException:  # a cancellation as well: no server may be left behind
            await asyncio.gather(*(connection.close() for connection in connections))
            raise
        return cls(connections)

    @property
    def origins(self) -> dict[str, tuple[str, str]]:
        """Where functions come from: name -> the server's name, and the tool's name there."""
        return {name: (connection.name, tool) for name, (connection, tool) in self._tools.items()}

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Call a server's tool; no arguments at all are an empty object."""
        from pydantic_core import from_json

        try:
            given = from_json(arguments) if arguments.strip() else {}
        except ValueError as error:
            return ToolResult(f"arguments: a JSON object expected ({error})", failed=True)
        if not isinstance(given, dict):
            return ToolResult(f"arguments: a JSON object expected, found {json.dumps(given)[:80]}", failed=True)
        name = recipient.removeprefix(f"{FUNCTIONS}.")
        if name not in self._tools:
            return ToolResult(f"{recipient}: no such function", failed=True)
        connection, tool = self._tools[name]
        return await connection.call(tool, given)

    async def close(self) -> None:
        """End all connections, and the servers that were started."""
        await asyncio.gather(*(connection.close() for connection in self._connections))

    async def __aenter__(self) -> McpTools:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def function_name(server: str, tool: str, taken: Iterable[str]) -> str:
    """`server_tool` in letters, digits, _ and -, of at most 64 characters, with a number where it is taken."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}_{tool}")
    name = name if name[0].isalpha() or name[0] == "_" else f"_{name}"
    names, number, free = set(taken), 1, name[:MAX_NAME]
    while free in names:
        number += 1
        free = f"{name[: MAX_NAME - len(str(number)) - 1]}_{number}"
    return free


class _Connection:
    """One server: the task that holds the connection, and what it says of itself."""

    def __init__(self, server: Server, timeout: float) -> None:
        import anyio

        self.name = server.name
        self.tools: list[mcp_types.Tool] = []
        self._server = server
        self._timeout = timeout
        self._client: Client | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._scope = anyio.CancelScope()
        self._ready, self._closing = asyncio.Event(), asyncio.Event()
        self._last_words: _LastWords | None = None

    async def start(self, timeout: float) -> None:
        """Open the connection and list the tools; RequestError if that fails."""
        task = self._task = asyncio.create_task(self._hold(), name=f"MCP server {self.name}")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({task, ready}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._ready.is_set():
            return
        reason: BaseException | str | None = f"no answer in {timeout:g} s"
        if task.done():
            reason = "it was ended" if task.cancelled() else task.exception()
        await self.close()
        raise RequestError(f"MCP server {self.name!r} did not start: {self._told(reason)}")

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool; whatever happens is told in the result."""
        import anyio

        if asyncio.get_running_loop() is not self._loop:
            return await self._failure("it lives in another event loop; use BackgroundLoop to keep one")
        if self._client is None:
            return await self._failure("the connection is closed")
        try:
            with anyio.fail_after(self._timeout):
                return read_result(await self._client.call_tool(tool, arguments))
        except TimeoutError:
            return await self._failure(f"no answer in {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001 - what a broken server makes of the protocol package is without end
            return await self._failure(error)

    async def close(self) -> None:
        """End the connection, politely if that does not take long."""
        if self._task is None:
            return
        if asyncio.get_running_loop() is not self._loop:
            raise RequestError(f"MCP server {self.name!r}: close it in the event loop that connected it")
        self._closing.set()
        if not self._ready.is_set():
            self._scope.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT)
        self._scope.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # taken note of: a server that ends badly has ended as well

    async def _hold(self) -> None:
        """What the task does: open the connection, keep it until it is to be closed."""
        try:
            with self._scope:
                async with self._connected() as client:
                    self.tools = await _list_tools(client)
                    self._client = client
                    self._ready.set()
                    await self._closing.wait()
        finally:
            self._client = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        from mcp import Client, StdioServerParameters, stdio_client
        from mcp.client.sse import sse_client
        from mcp.client.streamable_http import streamable_http_client

        async with AsyncExitStack() as stack:
            match self._server:
                case CommandServer(_, command, args, env, cwd):
                    parameters = StdioServerParameters(command=command, args=list(args), env=dict(env), cwd=cwd)
                    self._last_words = stack.enter_context(closing(_LastWords()))
                    transport = stdio_client(parameters, errlog=self._last_words.file)
                case UrlServer(_, url, headers, True):
                    transport = sse_client(url, headers=dict(headers))
                case UrlServer(_, url, headers, False):
                    http = await stack.enter_async_context(_http_client(headers))
                    transport = streamable_http_client(url, http_client=http)
            yield await stack.enter_async_context(Client(transport, cache=None))

    async def _failure(self, reason: BaseException | str) -> ToolResult:
        if self._last_words is not None:
            await self._last_words.heard()
        return ToolResult(f"MCP server {self.name!r}: {self._told(reason)}", failed=True)

    def _told(self, reason: BaseException | str | None) -> str:
        """The reason on one line, and what the server said last on its standard error."""
        while isinstance(nested := getattr(reason, "exceptions", None), tuple) and nested:
            reason = nested[0]  # task groups wrap the one error that matters
        text = " ".join(str(reason).split()) or type(reason).__name__
        line = self._last_words.line if self._last_words is not None else ""
        return f"{text}; its last words: {line}" if line else text


async def _list_tools(client: Client) -> list[mcp_types.Tool]:
    if client.server_capabilities.tools is None:
        return []
    tools: list[mcp_types.Tool] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise RequestError(f"its list of tools has more than {MAX_PAGES} pages")


def read_result(result: mcp_types.CallToolResult) -> ToolResult:
    """A result of the protocol: texts joined, PNG pictures, and in brackets what is neither."""
    texts, images = [], []
    for block in result.content:
        match block.type:
            case "text":
                texts.append(block.text)
            case "image":
                data = _decoded(block.data)
                texts.append(f"[image: {block.mime_type}, {len(data)} bytes]")
                images += [data] if data.startswith(PNG) else []
            case "audio":
                texts.append(f"[audio: {block.mime_type}, {len(_decoded(block.data))} bytes]")
            case "resource_link":
                texts.append(f"[link: {block.name}, {block.uri}]")
            case "resource":
                text = getattr(block.resource, "text", None)
                texts.append(f"[resource: {block.resource.uri}]" if text is None else text)
    if not texts and result.structured_content is not None:
        texts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return ToolResult("\n".join(texts), result.is_error, tuple(images))


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""


class _LastWords:
    """The last line that a server writes to its standard error."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.line = ""
        self.file: TextIO = os.fdopen(writing, "w")
        self._thread = threading.Thread(target=self._listen, args=(reading,), name="MCP server stderr", daemon=True)
        self._thread.start()

    async def heard(self) -> None:
        """Give the thread a moment to read what a server that has just died left behind, if it has read nothing yet."""
        for _ in range(10):
            if self.line or not self._thread.is_alive():
                return
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Let go of the pipe; the thread ends when the server has."""
        self.file.close()
        self._thread.join(0.5)

    def _listen(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(4096):
                self.line = line.strip() or self.line


def _http_client(headers: Mapping[str, str]) -> Any:
    import httpx2

    return httpx2.AsyncClient(headers=dict(headers), timeout=httpx2.Timeout(30.0, read=300.0))


def _need_mcp() -> None:
    try:
        from mcp import Client  # noqa: F401 - version 1 has none
    except ImportError:
        raise RequestError("MCP servers need the package mcp 2; run pip install 'gptoss-mlx[tools]'") from None
