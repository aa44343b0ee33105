"""Watches from outside what all processes of a sandbox use together, and ends them when it is too much.

Limits of the operating system are per process, do not bind the superuser's number of processes, and on macOS not
the memory. What a sandbox holds without mapping it (files in its memory disks apart, which have a size) is not seen
here; where that exhausts the machine, Linux ends the sandbox first (see `runner.confine`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress

import psutil

from .limits import MIB, Limits

BUSY_SECONDS = 0.2
IDLE_SECONDS = 2.0
"""Between two looks, while a cell runs and otherwise."""
END_SECONDS = 5.0
"""How long killed processes may take to end."""

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


class Watch(threading.Thread):
    """A thread that looks after a process and all below it until it is told to stop."""

    def __init__(self, root: psutil.Process, limits: Limits) -> None:
        super().__init__(name="python-tool-watch", daemon=True)
        self._root = root
        self._limits = limits
        self._wake = threading.Event()
        self._busy = True
        self._over = False
        self.excess: str | None = None
        """What was too much, once this ended the processes for it."""

    def run(self) -> None:
        """Look until told to stop, or until something was too much."""
        while not self._over:
            self.excess = find_excess(family(self._root), self._limits)
            if self.excess is not None:
                end(self._root)
                return
            self._wake.wait(BUSY_SECONDS if self._busy else IDLE_SECONDS)
            self._wake.clear()

    def attend(self, busy: bool) -> None:
        """Look often from now on, or seldom."""
        self._busy = busy
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._over = True
        self._wake.set()
        self.join()


def family(root: psutil.Process) -> list[psutil.Process]:
    """A process and all below it, parents first; empty when it is gone."""
    with suppress(*_GONE):
        return [root, *root.children(recursive=True)]
    return []


def find_excess(processes: list[psutil.Process], limits: Limits) -> str | None:
    """What these processes have more of than they may, in words; None where all is well."""
    if len(processes) > limits.processes:
        return f"more than {limits.processes} processes ran"
    most = limits.memory_together
    if sum(map(_resident, processes)) > most and sum(map(_share, processes)) > most:
        return f"more than {most // MIB:,} MiB of memory were in use"
    return None


def end(root: psutil.Process) -> None:
    """Kill a process and all below it, by groups as far as possible: no member of a group can fork away from that."""
    members = family(root)
    groups = set()
    for process in members:
        with suppress(ProcessLookupError, PermissionError):
            groups.add(os.getpgid(process.pid))
    for group in groups - {os.getpgrp()}:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for process in members:
        with suppress(*_GONE):
            process.kill()
    deadline = time.monotonic() + END_SECONDS
    while not all(map(_ended, members)) and time.monotonic() < deadline:
        time.sleep(0.01)


def tasks_of_user() -> int:
    """How many threads this user runs: what the operating system's limit of processes counts (on macOS, processes)."""
    uid, tasks = os.getuid(), 0
    for process in psutil.process_iter():
        with suppress(*_GONE):
            if process.uids().real == uid:
                tasks += 1 if sys.platform == "darwin" else process.num_threads()
    return tasks


def _ended(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _resident(process: psutil.Process) -> int:
    """Bytes in memory; pages that processes share count for each of them."""
    with suppress(*_GONE):
        return int(process.memory_info().rss)
    return 0


def _share(process: psutil.Process) -> int:
    """Bytes in memory, shared pages by halves, thirds and so on; slow to find out."""
    with suppress(*_GONE):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.uss))  # macOS knows only what is not shared
    return 0
