"""The JSON in which clients of the Model Context Protocol list their servers.

    {"mcpServers": {
        "files": {"command": "uvx", "args": ["mcp-files", "."], "env": {"KEY": "value"}, "cwd": "/home/me"},
        "wiki": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ..."}, "type": "sse"}}}

A `command` is started and spoken to over its standard input and output, a `url` over streamable HTTP, or over
server-sent events where `type` says `sse`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RequestError

TYPES = {"stdio": "stdio", "http": "http", "streamable-http": "http", "streamableHttp": "http", "sse": "sse"}


@dataclass(frozen=True)
class CommandServer:
    """A server that is started here."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Beside the few variables that every program needs (PATH, HOME); others are not passed on."""
    cwd: str | None = None


@dataclass(frozen=True)
class UrlServer:
    """A server that runs somewhere else."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    sse: bool = False
    """Whether it speaks the older transport, by server-sent events."""


Server = CommandServer | UrlServer


def read_config(config: Mapping[str, Any] | str | Path) -> list[Server]:
    """The servers of a configuration, or of the file that holds it.

    What stands beside `mcpServers` is for the program whose file it is, and not read.

    Raises:
        RequestError: the file cannot be read, or an entry has an unknown key, a value of another type, or neither
            command nor url.
    """
    value, where = (config, "MCP config") if isinstance(config, Mapping) else (_load(Path(config)), str(config))
    servers = value.get("mcpServers") if isinstance(value, Mapping) else None
    if not isinstance(servers, Mapping):
        found = f"the keys {', '.join(map(repr, value)) or 'none'}" if isinstance(value, Mapping) else _shown(value)
        raise RequestError(f'{where}: {{"mcpServers": {{...}}}} expected, found {found}')
    return [_server(name, entry) for name, entry in servers.items()]


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: a readable file expected ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: JSON expected ({error})") from None


def _server(name: str, entry: Any) -> Server:
    where = f"MCP server {name!r}"
    if not isinstance(entry, Mapping):
        raise RequestError(f'{where}: {{"command": ...}} or {{"url": ...}} expected, found {_shown(entry)}')
    if ("command" in entry) == ("url" in entry):
        raise RequestError(f"{where}: either command or url expected, found {'both' if 'url' in entry else 'neither'}")
    known = _COMMAND if "command" in entry else _URL
    for key, value in entry.items():
        if key not in known:
            raise RequestError(f"{where}: unknown key {key!r}; known beside {next(iter(known))} are {', '.join(known)}")
        expected, fits = known[key]
        if not fits(value):
            raise RequestError(f"{where}: {key}: {expected} expected, found {_shown(value)}")
    kind = TYPES[entry.get("type", "stdio" if "command" in entry else "http")]
    if "command" in entry:
        args, env = tuple(entry.get("args", ())), dict(entry.get("env", {}))
        return CommandServer(name, entry["command"], args, env, entry.get("cwd"))
    return UrlServer(name, entry["url"], dict(entry.get("headers", {})), kind == "sse")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values())


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://"))


_Key = tuple[str, Callable[[Any], bool]]
_COMMAND: dict[str, _Key] = {
    "command": ("a program", _is_text),
    "args": ("a list of texts", _is_texts),
    "env": ("an object of texts", _is_map),
    "cwd": ("a folder", _is_text),
    "type": ("'stdio'", lambda value: value == "stdio"),
}
_URL: dict[str, _Key] = {
    "url": ("an address that begins with http:// or https://", _is_url),
    "headers": ("an object of texts", _is_map),
    "type": ("'http' or 'sse'", lambda value: isinstance(value, str) and TYPES.get(value) in ("http", "sse")),
}


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."
