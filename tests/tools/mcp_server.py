"""A small MCP server for the tests: `python mcp_server.py`, over standard input and output."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from typing import Any

import anyio
import mcp_types as types
from mcp.server import Server
from mcp.server.stdio import stdio_server

PNG = b"\x89PNG\r\n\x1a\nrest"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Text", "description": "What."}},
    "required": ["text"],
}
PAGES = {
    None: ["echo", "say.it", "say:it"],
    "2": ["pictures", "fail", "sleep"],
    "3": ["die", "environment", "process", "data"],
}


async def list_tools(_context: object, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    cursor = params.cursor if params else None
    names = PAGES[cursor]
    following = {None: "2", "2": "3"}.get(cursor)
    tools = [types.Tool(name=name, description=f"Does {name}.", input_schema=SCHEMA) for name in names]
    return types.ListToolsResult(tools=tools, next_cursor=following)


async def call_tool(_context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
    arguments = params.arguments or {}
    if params.name == "die":
        print("dying as asked", file=sys.stderr, flush=True)
        os._exit(3)
    if params.name == "sleep":
        await anyio.sleep(60)
    if params.name == "process":
        return types.CallToolResult(content=[types.TextContent(text=str(os.getpid()))])
    if params.name == "data":
        return types.CallToolResult(content=[], structured_content={"é": [1, None]})
    text = dict(os.environ).get("KEY", "none") if params.name == "environment" else f"{params.name} {arguments}"
    content: list[types.ContentBlock] = [types.TextContent(text=text)]
    if params.name == "pictures":
        content += [
            types.ImageContent(data=base64.b64encode(PNG).decode(), mime_type="image/png"),
            types.ImageContent(data="!", mime_type="image/jpeg"),
            types.AudioContent(data=base64.b64encode(b"abc").decode(), mime_type="audio/wav"),
            types.ResourceLink(name="notes", uri="file:///notes"),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///a", text="inside")),
            types.EmbeddedResource(resource=types.BlobResourceContents(uri="file:///b", blob="")),
        ]
    return types.CallToolResult(content=content, is_error=params.name == "fail")


def make_server() -> Server[Any]:
    return Server("test", on_list_tools=list_tools, on_call_tool=call_tool)


async def serve() -> None:
    server = make_server()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(serve())
