"""The options that give the model tools, and the tools that they make."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gptoss_mlx.errors import ToolError

if TYPE_CHECKING:
    from gptoss_mlx.toolbox import ToolLike
    from gptoss_mlx.tools import RunnableTool

F = TypeVar("F", bound=Callable[..., Any])

TEMPORARY = ""
"""`--python` without a folder."""
FOLDER = click.Path(exists=True, file_okay=False)

OPTIONS = (
    click.option(
        "--tool", "functions", multiple=True, metavar="MODULE:FUNCTION", help="A Python callable; may be repeated."
    ),
    click.option(
        "--python",
        is_flag=False,
        flag_value=TEMPORARY,
        metavar="[FOLDER]",
        help="A notebook in a sandbox that may write to FOLDER, or to a temporary one.",
    ),
    click.option("--unsafe-python", is_flag=True, help="A notebook without a sandbox: it may do whatever you may."),
    click.option("--browse", type=FOLDER, metavar="FOLDER", help="A browser over the documents in FOLDER."),
    click.option("--web", is_flag=True, help="A browser that opens addresses of the web."),
    click.option("--apply-patch", type=FOLDER, metavar="FOLDER", help="Lets the model change files in FOLDER."),
    click.option(
        "--mcp", type=click.Path(exists=True, dir_okay=False), metavar="CONFIG.json", help="Tools of MCP servers."
    ),
)


@dataclass(frozen=True)
class ToolOptions:
    """Which tools were asked for."""

    functions: tuple[str, ...] = ()
    python: str | None = None
    unsafe_python: bool = False
    browse: str | None = None
    web: bool = False
    apply_patch: str | None = None
    mcp: str | None = None

    def __post_init__(self) -> None:
        if self.browse is not None and self.web:
            raise click.UsageError("--browse and --web: one browser expected, two found; choose one")
        if self.python not in (None, TEMPORARY) and not Path(str(self.python)).is_dir():
            raise click.UsageError(
                f"--python: an existing folder expected, {self.python!r} found; a QUESTION stands before --python"
            )

    @classmethod
    def taken(cls, options: dict[str, Any]) -> ToolOptions:
        """Take the options out of a command's keyword arguments."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self != ToolOptions()


def tool_options(command: F) -> F:
    """Add the options to a command; it receives them as `ToolOptions.taken` wants them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@contextmanager
def open_tools(wanted: ToolOptions) -> Iterator[list[ToolLike]]:
    """Make the tools; they are closed at the end.

    Raises:
        ToolError, RequestError: one of them cannot be had here.
    """
    with ExitStack() as opened:
        tools: list[ToolLike] = [named_function(name) for name in wanted.functions]
        for make in _makers(wanted):
            tool = make()
            opened.callback(_close, tool)
            tools.append(tool)
        yield tools


def _makers(wanted: ToolOptions) -> Iterator[Callable[[], RunnableTool]]:
    """What makes each tool; imported here, as not everybody has what they need."""
    if wanted.python is not None or wanted.unsafe_python:
        from gptoss_mlx.tools.python import PythonTool

        folder = Path(wanted.python) if wanted.python else None
        yield lambda: PythonTool(folder, unsafe=wanted.unsafe_python)
    if wanted.browse is not None:
        from gptoss_mlx.tools.browser import BrowserTool, LocalFolder

        documents = wanted.browse
        yield lambda: BrowserTool(LocalFolder(documents))
    if wanted.web:
        from gptoss_mlx.tools.browser import BrowserTool, Web

        yield lambda: BrowserTool(Web())
    if wanted.apply_patch is not None:
        from gptoss_mlx.tools.apply_patch import ApplyPatchTool

        files = wanted.apply_patch
        yield lambda: ApplyPatchTool(files)
    if wanted.mcp is not None:
        from gptoss_mlx.conversation import tool_loop
        from gptoss_mlx.tools.mcp import McpTools

        config = Path(wanted.mcp)
        yield lambda: tool_loop().run(McpTools.connect(config))


def cited_sources(tools: Iterable[ToolLike], answer: str) -> list[str]:
    """The pages that an answer cites (【3†L5-L9】) of those that a browser has shown, in words."""
    if "【" not in answer:
        return []
    from gptoss_mlx.tools.browser import BrowserTool

    found: dict[str, None] = {}
    for tool in tools:
        if isinstance(tool, BrowserTool):
            for cited in tool.citations(answer):
                found[f"【{cited.cursor}】 {cited.title} {cited.url}"] = None
    return list(found)


def _close(tool: RunnableTool) -> None:
    from gptoss_mlx.conversation import tool_loop

    tool_loop().run(tool.close())


def named_function(name: str) -> Callable[..., Any]:
    """The callable that `module:function` names; the working directory is searched first.

    Raises:
        ToolError: there is no such module or callable, or the module fails when it is imported.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ToolError(f"--tool: MODULE:FUNCTION expected, {name!r} found")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - it is anybody's code
        raise ToolError(f"--tool {name}: {module} cannot be imported ({type(error).__name__}: {error})") from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise ToolError(f"--tool {name}: {module} has no {path}")
        found = getattr(found, part)
    if not callable(found) and not hasattr(found, "run"):
        raise ToolError(f"--tool {name}: a callable expected, {type(found).__name__} found")
    return found  # type: ignore[no-any-return]
