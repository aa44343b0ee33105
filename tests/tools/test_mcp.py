"""Tools of real MCP servers, over a pipe and over HTTP; servers that die, sleep and do not start."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from mcp_server import PNG, make_server

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony.typescript import function_type
from gptoss_mlx.tools.function import NAME
from gptoss_mlx.tools.loop import BackgroundLoop
from gptoss_mlx.tools.mcp import MAX_NAME, McpTools, function_name, read_result
from gptoss_mlx.tools.tool import ToolResult

SCRIPT = str(Path(__file__).with_name("mcp_server.py"))


def config(**servers: dict[str, Any]) -> dict[str, Any]:
    return {"mcpServers": servers}


def python(*args: str, **rest: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": list(args), **rest}


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundLoop]:
    with BackgroundLoop() as background:
        yield background


@pytest.fixture(scope="module")
def tools(background: BackgroundLoop) -> Iterator[McpTools]:
    """Two servers in one set of tools."""
    servers = config(**{"small server": python(SCRIPT, env={"KEY": "secret"}), "2nd": python(SCRIPT)})
    tools = background.run(McpTools.connect(servers))
    yield tools
    background.run(tools.close())


def call(background: BackgroundLoop, tools: McpTools, name: str, arguments: str = "{}") -> ToolResult:
    return background.run(tools.run(f"functions.{name}", arguments))


def test_all_pages_are_listed_under_safe_names(tools: McpTools) -> None:
    names = ["echo", "say_it", "say_it_2", "pictures", "fail", "sleep", "die", "environment", "process", "data"]
    assert [tool.name for tool in tools.functions] == [f"{s}_{n}" for s in ("small_server", "_2nd") for n in names]
    echo = tools.functions[0]
    assert echo.description == "Does echo."
    assert function_type(echo.name, echo.parameters) == (
        "type small_server_echo = (_: {\n// What.\ntext: string | null,\n}) => any;"
    )
    assert tools.handles("functions._2nd_say_it")


def test_calls_reach_their_server(background: BackgroundLoop, tools: McpTools) -> None:
    assert call(background, tools, "small_server_echo", '{"text": "é"}') == ToolResult("echo {'text': 'é'}")
    assert call(background, tools, "_2nd_say_it_2", "") == ToolResult("say:it {}")
    assert call(background, tools, "small_server_environment").text == "secret"
    assert call(background, tools, "_2nd_environment").text == "none"


def test_what_a_server_sends_back(background: BackgroundLoop, tools: McpTools) -> None:
    assert call(background, tools, "_2nd_fail") == ToolResult("fail {}", failed=True)
    assert call(background, tools, "_2nd_data") == ToolResult('{"é": [1, null]}')
    assert call(background, tools, "_2nd_pictures") == ToolResult(
        "pictures {}\n[image: image/png, 12 bytes]\n[image: image/jpeg, 0 bytes]\n[audio: audio/wav, 3 bytes]\n"
        "[link: notes, file:///notes]\ninside\n[resource: file:///b]",
        images=(PNG,),
    )


@pytest.mark.parametrize("arguments", ["[1]", "{", "1", '{"text": "\\ud800"}', "[" * 10_000])
def test_arguments_that_are_no_object(background: BackgroundLoop, tools: McpTools, arguments: str) -> None:
    result = call(background, tools, "_2nd_echo", arguments)
    assert result.failed
    assert result.text.startswith("arguments: a JSON object expected")
    assert call(background, tools, "_2nd_none").failed
    assert not call(background, tools, "_2nd_echo").failed


def test_a_call_from_another_loop_is_answered(tools: McpTools) -> None:
    result = asyncio.run(tools.run("functions._2nd_echo", "{}"))
    assert result.failed
    assert "lives in another event loop; use BackgroundLoop" in result.text
    with pytest.raises(RequestError, match="close it in the event loop that connected it"):
        asyncio.run(tools.close())


def test_a_slow_or_dead_server_is_told_and_leaves_nothing() -> None:
    async def scenario() -> list[ToolResult]:
        async with await McpTools.connect(config(s=python(SCRIPT)), timeout=0.3) as tools:
            slow = await tools.run("functions.s_sleep", "{}")
            alive = await tools.run("functions.s_echo", "{}")
            dying = await tools.run("functions.s_die", "{}")
            dead = await tools.run("functions.s_echo", "{}")
        closed = await tools.run("functions.s_echo", "{}")
        await tools.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [slow, alive, dying, dead, closed]

    slow, alive, dying, dead, closed = asyncio.run(scenario())
    assert slow == ToolResult("MCP server 's': no answer in 0.3 s", failed=True)
    assert alive == ToolResult("echo {}")
    assert dying.failed
    assert dead.failed
    assert dead.text.startswith("MCP server 's': ")
    assert dead.text.endswith("; its last words: dying as asked")
    assert closed.text.startswith("MCP server 's': the connection is closed")


def test_closing_ends_the_process_and_all_that_listens_to_it() -> None:
    async def scenario() -> int:
        tools = await McpTools.connect(config(s=python(SCRIPT)))
        pid = int((await tools.run("functions.s_process", "{}")).text)
        os.kill(pid, 0)
        await tools.close()
        return pid

    threads = set(threading.enumerate())
    pid = asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"command": "/no/such/program"}, "No such file or directory"),
        (python("-c", "import sys; sys.exit('no key')"), "its last words: no key"),
        (python("-c", "import time; time.sleep(60)"), "no answer in 0.5 s"),
        (python("-c", "print('hello')"), "Connection closed"),
        (python("-c", "", cwd="/no/such/folder"), "No such file or directory"),
        ({"command": "a\0b"}, "null byte"),
        ({"url": "http://127.0.0.1:9/mcp"}, "connect"),
        ({"url": "http://127.0.0.1:9/sse", "type": "sse"}, "connect"),
    ],
)
def test_a_server_that_does_not_start_is_named(server: dict[str, Any], told: str) -> None:
    async def scenario() -> None:
        with pytest.raises(RequestError) as refused:
            await McpTools.connect(config(bad=server), start_timeout=0.5 if "no answer" in told else 5)
        text = str(refused.value)
        assert text.startswith("MCP server 'bad' did not start: ")
        assert told in text
        assert "\n" not in text
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_one_bad_server_ends_the_others() -> None:
    async def scenario() -> None:
        with pytest.raises(RequestError, match="'bad'"):
            await McpTools.connect(config(good=python(SCRIPT), bad={"command": "/no/such/program"}))
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_the_package_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(RequestError, match=r"pip install 'gptoss-mlx\[tools\]'"):
        asyncio.run(McpTools.connect(config()))


def over_sse() -> Any:
    server = MCPServer("old")
    server.add_tool(lambda text: f"echo {{'text': {text!r}}}", name="echo", description="Does echo.")
    return server.sse_app()


@pytest.fixture(scope="module", params=["http", "sse"])
def server(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The entry of a server that runs on the loopback interface."""
    app = over_sse() if request.param == "sse" else make_server().streamable_http_app()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    path = "sse" if request.param == "sse" else "mcp"
    yield {"url": f"http://127.0.0.1:{listening.getsockname()[1]}/{path}", "type": request.param}
    server.should_exit = True
    thread.join()
    listening.close()


def test_a_server_over_the_network(server: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def scenario() -> None:
        async with await McpTools.connect(config(web={**server, "headers": {"X-Key": "1"}})) as tools:
            assert tools.functions[0].description == "Does echo."
            assert await tools.run("functions.web_echo", '{"text": "a"}') == ToolResult("echo {'text': 'a'}")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


@given(st.lists(st.tuples(st.text(), st.text())))
def test_names_are_safe_and_different(pairs: list[tuple[str, str]]) -> None:
    names: list[str] = []
    for server, tool in pairs:
        names.append(function_name(server, tool, names))
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) and len(name) <= MAX_NAME for name in names)


def test_long_names_are_cut() -> None:
    first = function_name("s" * 70, "a", [])
    assert first == "s" * 64
    assert function_name("s" * 70, "b", [first]) == "s" * 62 + "_2"


def test_a_broken_picture_is_described() -> None:
    block = types.ImageContent(data="A", mime_type="image/png")
    assert read_result(types.CallToolResult(content=[block])) == ToolResult("[image: image/png, 0 bytes]")
