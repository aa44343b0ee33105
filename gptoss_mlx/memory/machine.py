"""The memory that models can have here: on a GPU as MLX says, else what the system leaves of the RAM.

In a container the machine's own figures say too much; control groups of both versions are asked as well. What is said
of Metal and CUDA is from MLX's sources and from logs; the tests stand in for both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import mlx.core as mx

from gptoss_mlx import kernels

CACHE_LIMIT = 512 << 20
"""Freed buffers that MLX may keep on a GPU; without a limit it keeps as many as the memory holds."""
SPARE = {"cpu": 256 << 20, "metal": 0, "cuda": 1 << 30}
"""Bytes left to Python, the tokenizer and the libraries, on CUDA to its context and the libraries' workspaces."""
WIRED_STEP = 64
"""Limits of Metal are given in multiples of this many MiB."""


class KvWidth(NamedTuple):
    """Bytes that a number takes in the caches of full and of sliding layers, what goes with codes included."""

    full: float
    sliding: float


BFLOAT16 = KvWidth(2, 2)
"""As in the release."""


@dataclass(frozen=True)
class Machine:
    """The memory that models can have here, measured once.

    Attributes:
        device: where MLX computes.
        total: all bytes that the device works in: RAM on a CPU and on a Mac.
        free: what models may take of it; what this process's own arrays hold counts as free.
        native: whether native CPU kernels run, which use MLX folders where they lie and keep no attention scores.
        kv: what caches keep, as `kernels.cache_kind` names it.
    """

    device: Literal["cpu", "metal", "cuda"]
    total: int
    free: int
    native: bool = False
    kv: str = "bfloat16"

    @classmethod
    def measure(cls, root: Path = Path("/")) -> Machine:
        """Ask MLX about its default device, and the system where that is the CPU.

        Args:
            root: where `proc` and `sys` are.

        Raises:
            RequestError: GPTOSS_CACHE names no kind of cache.
        """
        kv = kernels.cache_kind()
        own = mx.get_active_memory() + mx.get_cache_memory() + kernels.room_bytes()
        if not kernels.on_gpu():
            total, free = _ram(root)
            return cls("cpu", total, min(total, free + own), kernels.native(), kv or "float32")
        info: dict[str, Any] = mx.device_info(mx.Device(mx.gpu))
        if "max_recommended_working_set_size" in info:
            limit = int(info["max_recommended_working_set_size"])
            return cls("metal", int(info["memory_size"]), limit, kv=kv or "bfloat16")
        total = int(info["total_memory"])
        return cls("cuda", total, min(total, int(info.get("free_memory", total)) + own), kv=kv or "bfloat16")

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the activations: float32 on a CPU, bfloat16 on a GPU."""
        return 4 if self.device == "cpu" else 2

    @property
    def kv_width(self) -> KvWidth:
        """Bytes of a number in caches of `kv`; those of sliding layers keep what is computed where there are codes."""
        if self.kv in kernels.CACHE_BITS:
            return KvWidth(kernels.code_bytes(kernels.CACHE_BITS[self.kv]), self.itemsize)
        size = kernels.CACHE_DTYPES[self.kv].size
        return KvWidth(size, size)

    @property
    def available(self) -> int:
        """Bytes that weights, caches and activations may take together."""
        return max(0, self.free - SPARE[self.device])

    @property
    def most_wired(self) -> int:
        """MiB that Metal's limit may be raised to: the system keeps 4 GB, or a tenth if that is more; 0 elsewhere."""
        left = max(0, self.total - max(4_000_000_000, self.total // 10)) if self.device == "metal" else 0
        return (left >> 20) // WIRED_STEP * WIRED_STEP

    def __str__(self) -> str:
        share = {
            "cpu": "free of {} of memory",
            "metal": "Metal's limit on a Mac of {}",
            "cuda": "free of {} on the GPU",
        }
        return share[self.device].format(f"{self.total / 1e9:.2f} GB")


def _ram(root: Path) -> tuple[int, int]:
    """RAM in all and what is free of it, both within the limits of this process's control groups."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    known = dict(re.findall(r"^(\w+):\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    total = int(known.get("MemTotal", total // 1024)) * 1024
    free = int(known.get("MemAvailable", total // 1024)) * 1024  # macOS has no such figure
    for limit, left in _control_groups(root):
        total, free = min(total, limit), min(free, left)
    return total, free


def _control_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit, and what is left of it, of each control group around this process that has one.

    Inside a container the path may be the host's, which is not to be seen there; its own group is then at the top.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit_file, usage_file, prefix = root / "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            base, prefix = root / "sys/fs/cgroup/memory", "total_"  # of the groups inside as well
            limit_file, usage_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for group in _upwards(path):
            limit, usage = (_text(base / group / file).strip() for file in (limit_file, usage_file))
            if limit.isdecimal() and usage.isdecimal():  # not "max", not a file that is missing
                files = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _text(base / group / "memory.stat"), re.M)
                held = max(0, int(usage) - sum(map(int, files)))  # the system drops cached files when it must
                yield int(limit), max(0, int(limit) - held)


def _upwards(path: str) -> list[PurePosixPath]:
    """A group and those around it, relative to the top; only the top where the path leads out of what is seen."""
    group = PurePosixPath(path.lstrip("/"))
    return [group, *group.parents] if ".." not in group.parts else [PurePosixPath()]


def _text(path: Path) -> str:
    """A file of the system, empty where there is none or none for us."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def set_limits(machine: Machine) -> None:
    """Tell MLX how much freed memory it may keep, and on Metal to keep what it uses from being paged out.

    What is allocated is wired up to Metal's limit; MLX by itself wires nothing, so that the first answer after a pause
    is slow. Neither exists on a CPU, and nothing is wired on CUDA. Both hold for the whole process. Not run on a Mac.
    """
    if machine.device == "cpu":
        return
    mx.set_cache_limit(CACHE_LIMIT)
    if machine.device == "metal":
        mx.set_wired_limit(machine.free)
