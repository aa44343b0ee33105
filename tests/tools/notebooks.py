"""Notebooks for tests: made where a sandbox works, and run without an event loop of the test's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gptoss_mlx.errors import ToolError
from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.python import PythonTool


@contextmanager
def sandboxed(**options: Any) -> Iterator[PythonTool]:
    """A notebook; skips where its sandbox does not work, unless GPTOSS_MLX_REQUIRE_SANDBOX=1 says that it must.

    Unless the options say otherwise it is bubblewrap: the tests know how things look in there.
    """
    if not options.keys() & {"sandbox", "unsafe"}:
        options["sandbox"] = "bubblewrap"
    try:
        notebook = PythonTool(**options)
    except ToolError as error:
        if os.environ.get("GPTOSS_MLX_REQUIRE_SANDBOX") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    try:
        yield notebook
    finally:
        close(notebook)


def run(notebook: PythonTool, code: str) -> ToolResult:
    """What a cell gives."""
    return asyncio.run(notebook.run("python", code))


def close(notebook: PythonTool) -> None:
    """End a notebook; a second time does nothing."""
    asyncio.run(notebook.close())


def processes(notebook: PythonTool) -> list[psutil.Process]:
    """All that belong to a running notebook, known by the working folder of the first."""
    roots = [process for process in psutil.Process().children() if process.cwd() == str(notebook.folder)]
    return [process for root in roots for process in (root, *root.children(recursive=True))]


def lives(process: psutil.Process) -> bool:
    """Whether a process still runs; one that nobody has asked for its exit status does not."""
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


async def appears(path: Path) -> None:
    """Wait until a cell has made a file."""
    for _ in range(1000):
        if path.exists():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"{path} did not appear")
