"""What cells may use of the machine.

Two things enforce this: limits that the kernel of the operating system holds each process to, set by the runner
before any cell runs, and the watch (module `watch`), which counts what all processes together have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import RequestError

MIB = 1 << 20
LEAST_MEMORY = 256 * MIB
"""What the notebook itself needs, with room for a small cell."""


@dataclass(frozen=True)
class Limits:
    """What cells may use.

    Attributes:
        timeout: seconds that a cell may take.
        memory: bytes that a process may allocate; more is a MemoryError. All together may hold half as much again.
        processes: that may run at the same time.
        file_size: bytes of a file.
        cpu_seconds: that a process may compute in all; it ends work that a cell left behind.
        output: characters of a result.
    """

    timeout: float = 120.0
    memory: int = 2048 * MIB
    processes: int = 128
    file_size: int = 1024 * MIB
    cpu_seconds: int = 3600
    output: int = 20_000

    def __post_init__(self) -> None:
        least: Mapping[str, float] = {
            "timeout": 0.1, "memory": LEAST_MEMORY, "processes": 8, "file_size": 1, "cpu_seconds": 1, "output": 100
        }  # fmt: skip
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise RequestError(f"{name}: {value:,} or more expected, {getattr(self, name):,} found")

    @property
    def memory_together(self) -> int:
        """Bytes that all processes may hold."""
        return self.memory + self.memory // 2

    def of_a_process(self, tasks: int) -> dict[str, int]:
        """The operating system's limits by their names.

        Args:
            tasks: threads that this user has already: the limit of processes counts them, too.
        """
        return {
            "RLIMIT_DATA": self.memory,  # not RLIMIT_AS: libraries reserve far more addresses than they use
            "RLIMIT_FSIZE": self.file_size,
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_NPROC": self.processes + tasks,
            "RLIMIT_CORE": 0,
        }
