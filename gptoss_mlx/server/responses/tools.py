"""A request's `tools` and `tool_choice` -> what the model is offered, and how its calls are shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tools import RunnableTool
from gptoss_mlx.tools.browser import BrowserTool
from gptoss_mlx.tools.mcp import McpTools

from ..built_in import BuiltIns, Selection
from ..errors import brief
from .items import name_of
from .output import BROWSER, PYTHON, Shown

T = TypeVar("T")
WEB_SEARCH = ("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11")
NAME = r"[a-zA-Z0-9_.-]{1,128}"
TEXT_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The arguments of the function that stands for a tool of plain text."""


@dataclass
class Offer:
    """What the model may call."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    """The client's, in the form of Chat Completions."""
    custom: set[str] = field(default_factory=set)
    """The names of those that stand for tools of plain text."""
    namespaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    """How the model calls one that is in a namespace -> the namespace, and the name in it."""
    mcp: dict[str, tuple[str, str]] = field(default_factory=dict)
    """How the model calls an MCP server's tool -> the server's label, and its name there."""
    shared: list[RunnableTool] = field(default_factory=list)
    """What runs here for all replies."""
    makers: dict[str, Callable[[], RunnableTool]] = field(default_factory=dict)
    """What makes those that run here for this reply, by their namespaces."""
    choice: str = "auto"
    own: dict[str, RunnableTool] = field(default_factory=dict)
    """Those that were made."""

    async def make(self) -> None:
        """Make what this reply has for itself.

        Raises:
            GptOssError: something cannot be started. `close` ends the rest.
        """
        for name, maker in self.makers.items():
            self.own[name] = await asyncio.to_thread(maker)

    @property
    def built_in(self) -> list[RunnableTool]:
        """Everything that runs here."""
        return [*self.shared, *self.own.values()]

    def shown(self, shown: Shown) -> Shown:
        """What a response shows of calls, in addition to `shown`."""
        names = frozenset(function["function"]["name"] for function in self.functions)
        browser = self.own.get(BROWSER)
        return replace(
            shown,
            functions=names - self.custom,
            custom=frozenset(self.custom),
            namespaced=self.namespaced,
            mcp=self.mcp,
            browser=browser if isinstance(browser, BrowserTool) else None,
            python=PYTHON in self.own,
        )

    async def close(self) -> None:
        """End what was made for this reply."""
        for tool in self.own.values():
            await tool.close()


def offer(tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any], built_ins: BuiltIns) -> Offer:
    """Read what a client offers and chooses.

    Raises:
        RequestError: a tool that is not known or not turned on here, or an option of it that cannot be followed.
    """
    mode, tools = _allowed(tools, choice)
    offered = Offer()
    for position, tool in enumerate(tools):
        _add(offered, tool, f"tools[{position}]", built_ins)
    offered.choice = _choice(mode, offered)
    return offered


def _add(offered: Offer, tool: Mapping[str, Any], where: str, built_ins: BuiltIns) -> None:
    match kind := tool.get("type"):
        case "function":
            offered.functions.append(_function(tool, where))
        case "custom":
            offered.functions.append(_custom(tool, where))
            offered.custom.add(tool["name"])
        case "namespace":
            _add_namespace(offered, tool, where, built_ins)
        case "mcp":
            _add_mcp(offered, tool, where, built_ins.mcp)
        case "code_interpreter":
            _check_notebook(tool, where)
            offered.makers[PYTHON] = _turned_on(built_ins.python, where, kind, "--python")
        case str() if kind in WEB_SEARCH:
            _check_search(tool, where)
            offered.makers[BROWSER] = _turned_on(built_ins.browser, where, kind, "--browse, --web or --search")
        case _:
            known = "function, custom, namespace, mcp, web_search or code_interpreter"
            raise RequestError(f"{where}.type: {known} expected, {brief(kind)} found")


def _allowed(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any]
) -> tuple[str | Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """The choice and the tools that are left of `allowed_tools`."""
    if isinstance(choice, str) or choice.get("type") != "allowed_tools":
        return choice, tools
    wanted, mode = choice.get("tools"), choice.get("mode")
    if mode not in ("auto", "required") or not isinstance(wanted, list):
        raise RequestError(f"tool_choice: a mode (auto or required) and tools expected, {brief(choice)} found")
    keys = ("type", "name", "server_label")

    def is_wanted(tool: Mapping[str, Any]) -> bool:
        return any(isinstance(w, Mapping) and all(w.get(k) in (None, tool.get(k)) for k in keys) for w in wanted)

    return str(mode), [tool for tool in tools if is_wanted(tool)]


def _choice(choice: str | Mapping[str, Any], offered: Offer) -> str:
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise RequestError(f"tool_choice: auto, none, required or an object expected, {brief(choice)} found")
        return choice
    kind, name = choice.get("type"), choice.get("name")
    if kind in ("function", "custom"):
        known = [function["function"]["name"] for function in offered.functions]
        if name not in known:
            names = ", ".join(known) or "no names, as no tools are offered,"
            raise RequestError(f"tool_choice.name: one of {names} expected, {brief(name)} found")
        return str(name)
    if kind == "mcp":
        server = choice.get("server_label")
        found = [f for f, (label, tool) in offered.mcp.items() if label == server and name in (None, tool)]
        if len(found) != 1:
            raise RequestError(f"tool_choice: the server_label and name of one tool expected, {brief(choice)} found")
        return found[0]
    if kind == "code_interpreter":
        return PYTHON
    if kind in WEB_SEARCH:
        return f"{BROWSER}.search"
    raise RequestError(f"tool_choice.type: the type of an offered tool expected, {brief(kind)} found")


def _function(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    _only(tool, where, "type", "name", "description", "parameters", "strict")
    parameters = tool.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise RequestError(f"{where}.parameters: a JSON Schema expected, {brief(parameters)} found")
    function = {"name": _name(tool, where), "description": _description(tool, where), "parameters": parameters}
    return {"type": "function", "function": {**function, "strict": tool.get("strict") is True}}


def _custom(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    _only(tool, where, "type", "name", "description", "format")
    form = tool.get("format")
    if form is not None and not (isinstance(form, Mapping) and form.get("type") == "text"):
        raise RequestError(f"{where}.format: type text expected, {brief(form)} found; grammars are not supported")
    function = {"name": _name(tool, where), "description": _description(tool, where), "parameters": TEXT_INPUT}
    return {"type": "function", "function": {**function, "strict": True}}


def _add_namespace(offered: Offer, tool: Mapping[str, Any], where: str, built_ins: BuiltIns) -> None:
    """Offer the functions and tools of plain text of a namespace, each with its name and description before its own."""
    _only(tool, where, "type", "name", "description", "tools")
    space, about, tools = _name(tool, where), _description(tool, where), tool.get("tools")
    if not isinstance(tools, list) or not all(isinstance(each, Mapping) for each in tools):
        raise RequestError(f"{where}.tools: a list of tools expected, {brief(tools)} found")
    for position, each in enumerate(tools):
        inner = f"{where}.tools[{position}]"
        if each.get("type") not in ("function", "custom"):
            raise RequestError(f"{inner}.type: function or custom expected, {brief(each.get('type'))} found")
        name = name_of(space, _name(each, inner))
        description = "\n\n".join(filter(None, (about, _description(each, inner))))
        _add(offered, {**each, "name": name, "description": description}, inner, built_ins)
        offered.namespaced[name] = space, each["name"]


def _add_mcp(offered: Offer, tool: Mapping[str, Any], where: str, mcp: McpTools | None) -> None:
    """Offer tools of a server that this one is connected to; a client cannot name another."""
    _only(tool, where, "type", "server_label", "server_description", "allowed_tools", "require_approval")
    label, origins = tool.get("server_label"), mcp.origins if mcp is not None else {}
    found = {function: origin for function, origin in origins.items() if origin[0] == label}
    if mcp is None or not found:
        known = ", ".join(sorted({server for server, _ in origins.values()})) or "none: start this one with --mcp"
        raise RequestError(f"{where}.server_label: a connected server ({known}) expected, {brief(label)} found")
    if tool.get("require_approval") not in (None, "never"):
        raise RequestError(f"{where}.require_approval: never expected: calls run at once; leave the tool out otherwise")
    wanted = tool.get("allowed_tools")
    if isinstance(wanted, Mapping) and set(wanted) == {"tool_names"}:
        wanted = wanted["tool_names"]
    if wanted is not None and not isinstance(wanted, list):
        raise RequestError(f"{where}.allowed_tools: a list of names expected, {brief(wanted)} found")
    chosen = {function: origin for function, origin in found.items() if wanted is None or origin[1] in wanted}
    offered.mcp |= chosen
    offered.shared.append(Selection(mcp, chosen))


def _check_notebook(tool: Mapping[str, Any], where: str) -> None:
    _only(tool, where, "type", "container")
    container = tool.get("container") or {"type": "auto"}
    if not isinstance(container, Mapping) or container.get("type") != "auto" or container.get("file_ids"):
        raise RequestError(
            f"{where}.container: type auto without files expected, {brief(container)} found; "
            "every response has a notebook of its own"
        )


def _check_search(tool: Mapping[str, Any], where: str) -> None:
    """`search_context_size` and `user_location` are hints, which the browser has no use for."""
    _only(tool, where, "type", "search_context_size", "user_location", "external_web_access")
    if tool.get("external_web_access") is False:
        raise RequestError(f"{where}.external_web_access: true expected: the browser reads what is there now")


def _turned_on(maker: Callable[[], T] | None, where: str, kind: str, option: str) -> Callable[[], T]:
    if maker is None:
        raise RequestError(f"{where}: {kind} is not turned on here; start the server with {option}, or leave it out")
    return maker


def _only(tool: Mapping[str, Any], where: str, *known: str) -> None:
    unknown = next((key for key, value in tool.items() if key not in known and value is not None), None)
    if unknown is not None:
        raise RequestError(f"{where}.{unknown}: not supported; known are {', '.join(known)}")


def _name(tool: Mapping[str, Any], where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise RequestError(f"{where}.name: 1 to 128 letters, digits, _, - or . expected, {brief(name)} found")
    return name


def _description(tool: Mapping[str, Any], where: str) -> str:
    description = tool.get("description")
    if not isinstance(description, str | None):
        raise RequestError(f"{where}.description: a text expected, {brief(description)} found")
    return description or ""
