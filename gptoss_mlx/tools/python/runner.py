"""What runs inside the sandbox: it starts one Jupyter kernel, hands it cells and reports what they gave.

This file is a program, `python runner.py SETTINGS`, for any Python from 3.10 on that has `ipykernel`. It uses
nothing of gptoss_mlx, which the sandbox does not show. Requests come on standard input and replies go to standard
output, each a line of JSON:

    {"code": "1 + 1", "seconds": 120}  ->  {"state": "ok", "text": "2\\n", "images": []}
    {"interrupt": true}                    (the reply is that of the cell that runs)

A reply's state is "ready" (once, at the start), "ok", "error" (an exception in the cell), "timeout" or "interrupted"
(the cell was stopped, the kernel goes on), "stuck" (it could not be stopped) or "died". The last two are this
program's last words. Whoever reads them must not trust them: a cell can do whatever this process can.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import re
import resource
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import zmq
from jupyter_client.session import Session

PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
"""Endings of the sockets' names, which Jupyter calls ports."""
PATIENCE = 0.1
"""How long to wait for a message before looking at the clock and at the kernel."""
QUIET_SECONDS = 1.0
"""After this long without a message a cell is over, though half of the kernel's word for it got lost."""
INTERRUPTS = 2
"""How often a cell is interrupted, a second apart, before it is given up: an `except:` may swallow the first."""
FIGURES = 8
FIGURE_BYTES = 4 << 20
"""The most figures that a cell may show, and the size of each; others are mentioned and left out."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def main() -> None:
    """Serve cells until standard input ends or the kernel does."""
    settings = json.loads(sys.argv[1])
    confine(settings["limits"])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library may print must not come among the replies
    kernel = Kernel()
    try:
        kernel.wait_until_ready()
        requests: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=_listen, args=(sys.stdin, requests, kernel), daemon=True).start()
        _reply(replies, {"state": "ready"})
        while kernel.death is None:
            with suppress(queue.Empty):
                request = requests.get(timeout=0.5)
                _reply(replies, kernel.run(request["code"], request["seconds"], settings["output"]))
    finally:
        kernel.kill()


def confine(limits: Mapping[str, int]) -> None:
    """Set limits by name (`RLIMIT_DATA`) for this process and its children, and let others go first."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))
    os.nice(5)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():  # Linux: should memory run out all the same, this is what goes first
        score.write_text("1000")


def _listen(source: IO[str], requests: queue.Queue[dict[str, Any]], kernel: Kernel) -> None:
    for line in source:
        request = json.loads(line)
        if "interrupt" in request:
            kernel.interrupted.set()
        else:
            kernel.interrupted.clear()  # here: what interrupts this cell is read after it
            requests.put(request)
    kernel.kill()
    os._exit(0)  # whoever asked is gone; a cell may still keep the main thread


def _reply(replies: IO[str], reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


class Kernel:
    """An IPython kernel in a process group of its own, spoken to over Unix sockets."""

    def __init__(self) -> None:
        stem = f"{tempfile.mkdtemp(prefix='k')}/s"  # short: the path of a socket has about 100 characters
        key = secrets.token_hex(16)
        self._process = _start_kernel(Path(f"{stem}.json"), {"ip": stem, "key": key})
        self._session = Session(key=key.encode(), signature_scheme="hmac-sha256")
        self._poller = zmq.Poller()
        self._iopub = self._connect(zmq.SUB, f"ipc://{stem}-{PORTS['iopub_port']}")
        self._shell = self._connect(zmq.DEALER, f"ipc://{stem}-{PORTS['shell_port']}")
        self._iopub.subscribe(b"")
        self.interrupted = threading.Event()
        """Set by whoever wants the cell that runs to stop."""

    @property
    def death(self) -> str | None:
        """How the process ended, or None while it lives."""
        status = self._process.poll()
        if status is None:
            return None
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def wait_until_ready(self) -> None:
        """Wait until the kernel answers and what it publishes arrives; SystemExit if it ends first."""
        heard: set[zmq.Socket[bytes]] = set()
        while heard != {self._shell, self._iopub}:
            if self.death is not None:
                raise SystemExit(f"the kernel ended while it started ({self.death})")
            self._session.send(self._shell, "kernel_info_request", {})
            while heard != {self._shell, self._iopub} and (message := self._receive(QUIET_SECONDS)) is not None:
                heard.add(message[0])

    def run(self, code: str, seconds: float, limit: int) -> dict[str, Any]:
        """Run a cell to its end, or until it was stopped or given up, and say what it gave."""
        content = {"code": code, "silent": False, "allow_stdin": False, "stop_on_error": False}
        request = self._session.msg("execute_request", content)
        self._session.send(self._shell, request)
        shown = Transcript(limit)
        state = self._follow(request["msg_id"], Deadline(self, seconds), shown)
        return {"state": state, "text": shown.text(), "images": shown.images, "death": self.death}

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs; between cells nothing happens."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the kernel and what it started, as far as it stayed in its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _follow(self, request: str, deadline: Deadline, shown: Transcript) -> str:
        """A cell is over when its reply has come and the kernel has published that it is idle."""
        state, idle, heard = "", False, time.monotonic()
        while not (state and idle):
            message = self._receive(PATIENCE)
            if message is not None:
                heard = time.monotonic()
                _, kind, content, parent = message
                if kind == "execute_reply" and parent == request:
                    state = "ok" if content["status"] == "ok" else "error"
                elif kind == "status" and parent == request:
                    idle = content["execution_state"] == "idle"
                else:
                    shown.add(kind, content)
            elif self.death is not None:
                return "died"
            elif (state or idle) and time.monotonic() - heard > QUIET_SECONDS:
                break
            if deadline.passed():
                return "stuck"
        return deadline.cause or state or "ok"

    def _connect(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        socket.linger = 0
        socket.connect(address)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def _receive(self, seconds: float) -> tuple[zmq.Socket[bytes], str, dict[str, Any], str | None] | None:
        """The next message: where it came from, its kind, its content, the id of the request it belongs to."""
        ready = dict(self._poller.poll(int(seconds * 1000)))
        if not ready:
            return None
        socket = self._iopub if self._iopub in ready else self._shell
        _, message = self._session.recv(socket, mode=0)
        assert message is not None  # which it is only where nothing had come
        return socket, message["msg_type"], message["content"], message["parent_header"].get("msg_id")


def _start_kernel(file: Path, connection: Mapping[str, str]) -> subprocess.Popen[bytes]:
    file.touch(mode=0o600)
    file.write_text(json.dumps({"transport": "ipc", "signature_scheme": "hmac-sha256", **connection, **PORTS}))
    launcher = find_spec("ipykernel_launcher")
    if launcher is None or launcher.origin is None:
        raise SystemExit(f"{sys.executable} has no ipykernel")
    # By its file, not by `-m`: a random.py that a cell wrote into the working folder must not be what is imported.
    command = [sys.executable, launcher.origin, "-f", str(file), "--HistoryManager.enabled=False"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


class Deadline:
    """Ends a cell that takes too long or is not wanted any more: interrupts it a few times, then gives it up."""

    def __init__(self, kernel: Kernel, seconds: float) -> None:
        self._kernel = kernel
        self._next = time.monotonic() + seconds
        self._interrupts = 0
        self.cause: str | None = None
        """Why the cell was interrupted: "timeout" or "interrupted"."""

    def passed(self) -> bool:
        """Interrupt the cell where that is due; True once it had its chances to end."""
        now = time.monotonic()
        if self.cause is None and self._kernel.interrupted.is_set():
            self.cause, self._next = "interrupted", now
        if now < self._next:
            return False
        self.cause = self.cause or "timeout"
        if self._interrupts == INTERRUPTS:
            return True
        self._kernel.interrupt()
        self._interrupts += 1
        self._next = now + 1.0
        return False


class Transcript:
    """What a cell shows, in its order: text, whose middle is left out where it is too long, and figures."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = ""
        self._tail = ""
        self._left_out = 0
        self._figures = 0
        self.images: list[str] = []
        """PNG files in base64."""

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take one of the kernel's messages; kinds that show nothing are passed over."""
        if kind == "stream":
            self._write(content["text"])
        elif kind in ("execute_result", "display_data", "update_display_data"):
            self._show(content["data"])
        elif kind == "error":
            self._line("\n".join(content["traceback"]))

    def text(self) -> str:
        """The text as a terminal without colours would show it."""
        cut = max(0, len(self._tail) - self._half)
        left_out = self._left_out + cut
        if not left_out:
            return plain(self._head + self._tail)
        return f"{plain(self._head)}\n[{left_out:,} characters left out]\n{plain(self._tail[cut:])}"

    def _show(self, data: Mapping[str, Any]) -> None:
        if "image/png" in data:
            self._figure("".join(data["image/png"].split()))
        elif "text/plain" in data:
            self._line(data["text/plain"])

    def _figure(self, encoded: str) -> None:
        self._figures += 1
        about = f"figure {self._figures}: image/png, {png_size(encoded)}"
        if len(self.images) < FIGURES and len(encoded) * 3 // 4 <= FIGURE_BYTES:
            self.images.append(encoded)
            self._line(f"[{about}]")
        else:
            self._line(f"[{about}, left out: a cell may show {FIGURES} figures of {FIGURE_BYTES >> 20} MiB]")

    def _line(self, text: str) -> None:
        before = self._tail or self._head
        self._write(text + "\n" if not before or before.endswith("\n") else f"\n{text}\n")

    def _write(self, text: str) -> None:
        room = self._half - len(self._head)
        self._head += text[:room]
        self._tail += text[room:]
        if len(self._tail) > 2 * self._half:
            self._left_out += len(self._tail) - self._half
            self._tail = self._tail[-self._half :]


def plain(text: str) -> str:
    """Text without terminal colours, and of lines that were overwritten (progress bars) only what they ended with."""
    lines = _ANSI.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def png_size(encoded: str) -> str:
    """Width and height of a PNG file in base64, as `640x480`."""
    try:
        return "x".join(str(side) for side in struct.unpack(">II", base64.b64decode(encoded[:32])[16:24]))
    except (ValueError, struct.error):  # no base64, or too short
        return "damaged"


if __name__ == "__main__":
    main()
