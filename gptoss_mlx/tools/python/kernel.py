"""One running sandbox with a Jupyter kernel in it, seen from outside.

The runner inside speaks lines of JSON over a pair of sockets. Everything here blocks and belongs to one thread; only
`kill` may be called from another. That thread has to live as long as the sandbox: what bubblewrap calls its parent,
with which it dies, is the thread that started it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import psutil

from ...errors import ToolError
from .display import Reply, read_reply
from .limits import Limits
from .sandbox import Place, Sandbox
from .watch import Watch, end

START_SECONDS = 60.0
STOP_SECONDS = 10.0
"""How long after a cell was told to stop its reply may take: the runner gives it up far earlier."""
LOOK_SECONDS = 0.1
MOST_REPLY = 64 << 20
"""Bytes of a reply: eight figures in base64 and the text take less."""


class Kernel:
    """A sandbox from its start to its end; `stop` must follow whatever happens."""

    def __init__(self, sandbox: Sandbox, folder: Path, limits: Limits) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._limits = limits
        self._resources = ExitStack()
        self._starting = threading.Lock()  # a sandbox that is killed while it starts must not go on
        self._killed = False
        self._root: psutil.Process | None = None
        self._ending: tuple[str, ...] = ()

    def start(self) -> None:
        """Start the sandbox and wait for the kernel in it.

        Raises:
            ToolError: it did not start; the last line that it wrote says why.
        """
        temporary = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="gptoss-")))
        self._log: IO[bytes] = self._resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - with the rest
        self._socket, theirs = map(self._resources.enter_context, socket.socketpair())
        launch = self._sandbox.launch(Place(self._folder, temporary), self._limits)
        with self._starting, theirs:
            if self._killed:
                raise ToolError("python: the notebook was closed")
            try:
                self._process = subprocess.Popen(
                    launch.command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._log,
                    cwd=self._folder,
                    env=launch.environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ToolError(f"python: {launch.command[0]} does not start ({error.strerror})") from None
            self._root, self._ending = psutil.Process(self._process.pid), launch.ending
        self._watch = Watch(self._root, self._limits)
        self._watch.start()
        self._resources.callback(self._watch.stop)
        reply = self._receive(START_SECONDS)
        self._watch.attend(busy=False)
        if reply.state != "ready":
            raise ToolError(f"python: the notebook did not start ({self._last_words() or reply.reason})")

    @property
    def alive(self) -> bool:
        """Whether it can take a cell."""
        return self._process.poll() is None

    @property
    def excess(self) -> str:
        """What the processes had too much of, if they were ended for it."""
        return self._watch.excess or ""

    def run(self, code: str, stop: threading.Event) -> Reply:
        """Run a cell to its end, or until another thread sets `stop`."""
        self._watch.attend(busy=True)
        try:
            self._send({"code": code, "seconds": self._limits.timeout})
            reply = self._receive(self._limits.timeout + STOP_SECONDS, stop)
            return self._lost("") if reply.final and self.excess else reply
        except OSError:
            return self._lost("the sandbox ended")
        finally:
            self._watch.attend(busy=False)

    def kill(self) -> None:
        """End all processes at once; a cell that runs is lost. Callable from any thread."""
        with self._starting:
            self._killed = True
        if self._root is not None:
            if self._ending:
                subprocess.run(self._ending, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            end(self._root)

    def stop(self) -> None:
        """End all processes and give back everything else."""
        self.kill()
        if self._root is not None:
            self._process.wait()
        self._resources.close()

    def _send(self, request: Mapping[str, Any]) -> None:
        self._socket.settimeout(STOP_SECONDS)  # it only blocks when the runner does not read
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def _receive(self, seconds: float, stop: threading.Event | None = None) -> Reply:
        """The runner's next reply, which ends with its line; "lost" when it does not come in time."""
        deadline = time.monotonic() + seconds
        line = bytearray()
        while not line.endswith(b"\n"):
            if time.monotonic() > deadline or len(line) > MOST_REPLY:
                return self._lost("the sandbox did not answer")
            if stop is not None and stop.is_set():
                stop = None
                self._send({"interrupt": True})
                deadline = min(deadline, time.monotonic() + STOP_SECONDS)
            self._socket.settimeout(LOOK_SECONDS)
            try:
                part = self._socket.recv(1 << 20)
            except TimeoutError:
                continue
            except ConnectionError:
                part = b""
            if not part:
                return self._lost("the sandbox ended")
            line += part
        return read_reply(bytes(line), self._limits.output)

    def _lost(self, reason: str) -> Reply:
        return Reply("lost", reason=self.excess or reason)

    def _last_words(self) -> str:
        """The last line that the sandbox or the kernel wrote before it gave up."""
        size = self._log.seek(0, 2)
        self._log.seek(max(0, size - 2000))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""
