"""What can be said about this machine: its name, its threads, how fast it reads memory, how much a process took."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from . import kernels
from .errors import GptOssError

READING_BYTES = 1 << 30


def reading_speed(threads: int, size: int = READING_BYTES, attempts: int = 7) -> float:
    """How fast this machine reads memory.

    Args:
        threads: that read at the same time, each its own part.
        size: bytes of the buffer; far more than the caches hold.
        attempts: of which the fastest counts.

    Returns:
        1e9 bytes per second.
    """
    data = np.ones(size // 8, np.uint64)
    best = float("inf")
    for _ in range(attempts):
        readers = [threading.Thread(target=part.sum) for part in np.array_split(data, threads)]
        started = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best / 1e9


def machine_reading(threads: int) -> float:
    """`reading_speed` in a process of its own, so that its buffer does not count as the model's memory.

    Raises:
        GptOssError: that process failed, for want of memory as a rule.
    """
    code = f"from gptoss_mlx.machine import reading_speed; print(reading_speed({threads}))"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, start_new_session=True
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise GptOssError(f"reading speed: 1 GiB of memory was to be read in a second process, which failed ({reason})")
    return float(child.stdout)


def peak_memory() -> int:
    """The most bytes that this process has had resident, mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts what the process that started this one had, too
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes elsewhere


def resident_memory() -> int:
    """Bytes of memory that this process has now, mapped files included; its peak where the system does not say."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory()


def machine_name() -> str:
    """The GPU's name, else the processor's, with the number of cores to be had."""
    if kernels.on_gpu():
        return kernels.device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name.strip()}, {core_count()} cores"


def core_count() -> int:
    """Logical cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def thread_count() -> int:
    """Threads of the native kernels; one where MLX's own operations run, which on a CPU use no more."""
    return int(kernels.extension.threads()) if kernels.extension is not None and kernels.native() else 1
