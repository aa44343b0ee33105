"""Configurations of MCP servers, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tools.mcp_config import CommandServer, UrlServer, read_config

GOOD = {
    "mcpServers": {
        "a": {"command": "run", "args": ["-x"], "env": {"K": "v"}, "cwd": "/"},
        "b": {"command": "run", "type": "stdio"},
        "c": {"url": "https://x/mcp", "headers": {"A": "b"}},
        "d": {"url": "http://x/sse", "type": "sse"},
        "e": {"url": "http://x", "type": "streamable-http"},
    },
    "theme": "of another program",
}


def test_servers_of_every_kind(tmp_path: Path) -> None:
    expected = [
        CommandServer("a", "run", ("-x",), {"K": "v"}, "/"),
        CommandServer("b", "run"),
        UrlServer("c", "https://x/mcp", {"A": "b"}),
        UrlServer("d", "http://x/sse", sse=True),
        UrlServer("e", "http://x"),
    ]
    assert read_config(GOOD) == expected
    (tmp_path / "mcp.json").write_text(json.dumps(GOOD))
    assert read_config(tmp_path / "mcp.json") == expected
    assert read_config(str(tmp_path / "mcp.json")) == expected


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({}, "either command or url expected, found neither"),
        ({"command": "x", "url": "http://x"}, "either command or url expected, found both"),
        ("x", '{"command": ...} or {"url": ...} expected, found "x"'),
        ({"command": "x", "arg": []}, "unknown key 'arg'; known beside command are command, args, env, cwd, type"),
        ({"url": "http://x", "args": []}, "unknown key 'args'; known beside url are url, headers, type"),
        ({"command": 1}, "command: a program expected, found 1"),
        ({"command": "x", "args": "y"}, 'args: a list of texts expected, found "y"'),
        ({"command": "x", "env": {"A": 1}}, 'env: an object of texts expected, found {"A": 1}'),
        ({"command": "x", "type": "sse"}, "type: 'stdio' expected, found \"sse\""),
        ({"url": "x"}, 'url: an address that begins with http:// or https:// expected, found "x"'),
        ({"url": "http://x", "type": "stdio"}, "type: 'http' or 'sse' expected, found \"stdio\""),
        ({"url": "http://x", "type": []}, "type: 'http' or 'sse' expected, found []"),
    ],
)
def test_a_bad_entry_is_named(entry: Any, told: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_config({"mcpServers": {"a": entry}})
    assert str(refused.value) == f"MCP server 'a': {told}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "a readable file expected (No such file or directory)"),
        ("{", "JSON expected ("),
        ("[" * 100_000, "JSON expected ("),
        ("\udcff", "JSON expected ("),
        ("[]", '{"mcpServers": {...}} expected, found []'),
        ('{"servers": {}}', "{\"mcpServers\": {...}} expected, found the keys 'servers'"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "mcp.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RequestError) as refused:
        read_config(path)
    assert str(refused.value).startswith(f"{path}: {told}")


values = st.recursive(st.none() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
keys = st.sampled_from(["command", "url", "args", "env", "cwd", "type", "headers", "x"])


@given(st.dictionaries(st.text(), st.dictionaries(keys, values | st.just("http://x")) | values) | values)
def test_any_configuration_is_read_or_refused_in_one_line(servers: Any) -> None:
    try:
        read_config({"mcpServers": servers})
    except RequestError as error:
        assert "\n" not in str(error)  # noqa: PT017
