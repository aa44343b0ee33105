"""What the model calls `python`: a notebook on this machine that keeps its variables from call to call."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ToolError
from ...harmony.message import ToolNamespace
from ..tool import RunnableTool, ToolResult
from .display import describe
from .limits import Limits
from .sandbox import DRIVE, RUNNER, SandboxName, choose, python_folders

if TYPE_CHECKING:
    from .kernel import Kernel

TRAINED_SECONDS = "120.0"
"""The time that the trained description promises, as it is spelled there."""


class PythonTool(RunnableTool):
    """The built-in notebook. Its sandbox starts with the first call; calls run one after the other."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        sandbox: SandboxName = "auto",
        unsafe: bool = False,
        timeout: float = Limits.timeout,
        memory: int = Limits.memory,
        processes: int = Limits.processes,
        output: int = Limits.output,
        image: str | None = None,
    ) -> None:
        """Choose the sandbox and make sure that it works here.

        Args:
            folder: where cells write, and find what they are to read; made where it is missing. None: a temporary
                one, which `close` removes.
            sandbox: "bubblewrap" (Linux), "sandbox-exec" (macOS), "auto" (the one of this system) or "docker".
            unsafe: no sandbox at all: cells may do whatever this process may.
            timeout: seconds that a call may take.
            memory: bytes that a process may allocate; all together may hold half as much again.
            processes: that may run at the same time.
            output: characters of a result.
            image: of the sandbox "docker": one with ipykernel that is on this machine.

        Raises:
            ToolError: no sandbox works here, the notebook's packages are missing, or the folder cannot serve.
            RequestError: an argument out of its range, or two that contradict each other.
        """
        self._limits = Limits(timeout, memory, processes, output=output)
        self._sandbox = choose(sandbox, unsafe=unsafe, image=image)
        with ExitStack() as resources:
            if folder is None:
                folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="gptoss-python-")))
            self.folder = _serving(folder, unsafe)
            self._sandbox.check(self.folder)
            self._resources = resources.pop_all()
        self.namespace = _describe(self._sandbox.drive or str(self.folder), timeout)
        self._thread = ThreadPoolExecutor(1, "python-tool")  # one that stays: see `kernel`
        self._kernel: Kernel | None = None
        self._running: threading.Event | None = None  # what stops the cell that runs
        self._closed = False

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Run a cell. An exception in it, its end by a limit or a sandbox that fails is a failed result.

        Args:
            recipient: `python`.
            arguments: the code.
        """
        if self._closed:
            return ToolResult("[the notebook is closed]", failed=True)
        stop = threading.Event()
        code = arguments.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be sent
        call = self._thread.submit(self._run, code, stop)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            call.cancel()  # if it still waits for its turn
            stop.set()
            raise

    async def interrupt(self) -> None:
        """Stop the cell that runs, if one does; its call gives what it has shown."""
        running = self._running
        if running is not None:
            running.set()

    async def close(self) -> None:
        """End the notebook with all its processes, and remove the folder unless it was given."""
        if self._closed:
            return
        self._closed = True
        kernel = self._kernel
        if kernel is not None:
            await asyncio.to_thread(kernel.kill)  # a cell that runs ends with it
        await asyncio.wrap_future(self._thread.submit(self._stop))
        self._thread.shutdown()
        self._resources.close()

    def _run(self, code: str, stop: threading.Event) -> ToolResult:
        self._running = stop
        try:
            return self._run_cell(code, stop)
        finally:
            self._running = None

    def _run_cell(self, code: str, stop: threading.Event) -> ToolResult:
        before = ""
        if self._kernel is not None and not self._kernel.alive:
            why = self._kernel.excess or "its kernel exited"
            before = f"[the notebook had ended ({why}): a new one runs this cell]"
            self._stop()
        try:
            kernel = self._kernel or self._start()
        except ToolError as error:
            self._stop()
            return ToolResult(f"[{error}]", failed=True)
        reply = kernel.run(code, stop)
        if reply.final:
            self._stop()
        return describe(reply, self._limits.timeout, before)

    def _start(self) -> Kernel:
        from .kernel import Kernel  # here: psutil is an extra

        self._kernel = Kernel(self._sandbox, self.folder, self._limits)
        if self._closed:
            raise ToolError("python: the notebook is closed")
        self._kernel.start()
        return self._kernel

    def _stop(self) -> None:
        if self._kernel is not None:
            self._kernel.stop()
            self._kernel = None


def _serving(folder: Path, unsafe: bool) -> Path:
    """The folder, made if it is missing, once it is sure that writing to it cannot lead out of the sandbox."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"python: {folder} cannot be the notebook's folder ({error.strerror})") from None
    folder = folder.resolve()
    if unsafe:
        return folder
    for other in (Path.home(), RUNNER, *python_folders()):
        if other.resolve().is_relative_to(folder):
            raise ToolError(f"python: {folder} holds {other}, which cells must not change; choose a folder of its own")
    for other in python_folders():
        if folder.is_relative_to(other):
            raise ToolError(f"python: {folder} is a part of {other}, which cells must not change; choose another one")
    return folder


def _describe(drive: str, timeout: float) -> ToolNamespace:
    """The description that the model was trained on, with another place and time where they differ."""
    trained = ToolNamespace.python()
    text = trained.description or ""
    return replace(trained, description=text.replace(TRAINED_SECONDS, str(float(timeout))).replace(DRIVE, drive))
