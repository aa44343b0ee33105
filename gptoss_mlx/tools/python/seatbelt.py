"""macOS: `sandbox-exec`, which holds a process and its children to a profile.

Cells see the system and this Python, read-only, and the notebook's folder under its own path. They have no network
but sockets among themselves. Apple calls the program deprecated and ships it with every release.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ToolError
from .limits import Limits
from .sandbox import RUNNER, UNSAFE, Launch, Place, Sandbox, own_environment, python_folders, settings

SYSTEM = ("/usr", "/bin", "/sbin", "/System", "/Library", "/opt/homebrew", "/private/etc", "/private/var/db/dyld")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dtracehelper")


@dataclass(frozen=True)
class Seatbelt(Sandbox):
    """The program `sandbox-exec` with a profile that denies what it does not name."""

    drive = None
    program: str | None = field(default_factory=lambda: shutil.which("sandbox-exec"))

    def check(self, folder: Path) -> None:
        """The program comes with the system."""
        if self.program is None:
            raise ToolError(f"python: no sandbox, this system has no sandbox-exec; choose docker, {UNSAFE}")
        python_folders()

    def launch(self, place: Place, limits: Limits) -> Launch:
        """The runner under the profile; what it writes besides the folder goes to the temporary one."""
        assert self.program is not None, "checked before"
        command = (self.program, "-p", profile(place), sys.executable, str(RUNNER), settings(limits))
        home = str(place.temporary.resolve())
        return Launch(command, {**own_environment(home), "TMPDIR": home})


def profile(place: Place) -> str:
    """The rules, in the language of macOS's sandbox; of two that apply the later one counts."""
    own = [place.folder.resolve(), place.temporary.resolve()]
    readable = [*map(Path, SYSTEM), *python_folders(), RUNNER.resolve(), *own]
    return "\n".join(
        [
            "(version 1)",
            "(deny default)",
            "(allow process-exec process-fork sysctl-read file-read-metadata ipc-posix-sem)",
            "(allow signal process-info* (target same-sandbox))",
            '(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))',
            '(allow file-read* (literal "/"))',
            f"(allow file-read* {_paths('literal', DEVICES)} {_paths('subpath', readable)})",
            f"(allow file-write-data file-ioctl {_paths('literal', DEVICES)})",
            f"(allow file-write* {_paths('subpath', own)})",
            f"(allow network* {_paths('subpath', own[1:])})",
        ]
    )


def _paths(kind: str, paths: tuple[str, ...] | list[Path]) -> str:
    return " ".join(f"({kind} {_quoted(str(path))})" for path in paths)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
