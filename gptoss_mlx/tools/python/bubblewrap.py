"""Linux: bubblewrap, which gives processes namespaces of their own and a file system with little in it.

Cells see the system's programs and this Python, read-only, and the notebook's folder at /mnt/data. They have no
network, no other processes, no privileges, no further namespaces; /tmp and /dev/shm are small disks in memory. The
system calls are not filtered: a hole in Linux itself remains one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ToolError
from .limits import Limits
from .sandbox import DRIVE, RUNNER, UNSAFE, Launch, Place, Sandbox, disk_size, own_environment, python_folders, settings

INSTALL = "install bubblewrap (apt install bubblewrap, dnf install bubblewrap)"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
CONFIGURATION = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime", "mime.types")
"""What of /etc the dynamic linker and common libraries read; nothing that names the machine or its users."""
INSIDE_RUNNER = "/run/notebook/runner.py"


@dataclass(frozen=True)
class Bubblewrap(Sandbox):
    """The program `bwrap`, version 0.8 or later."""

    program: str | None = field(default_factory=lambda: shutil.which("bwrap"))

    def check(self, folder: Path) -> None:
        """Start this Python in the very sandbox that cells will have."""
        if self.program is None:
            raise ToolError(f"python: no sandbox, bubblewrap is missing; {INSTALL}, {UNSAFE}")
        trial = subprocess.run(
            (*self._command(folder, Limits()), sys.executable, "-c", ""),
            env=own_environment("/tmp"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if trial.returncode:
            said = (trial.stderr.strip().splitlines() or [f"exit status {trial.returncode}"])[-1]
            raise ToolError(f"python: bubblewrap does not work here ({said}): {_remedy(said)}, {UNSAFE}")

    def launch(self, place: Place, limits: Limits) -> Launch:
        """The runner as an unprivileged user in namespaces of its own."""
        command = (*self._command(place.folder, limits), sys.executable, INSIDE_RUNNER, settings(limits))
        return Launch(command, own_environment("/tmp"))

    def _command(self, folder: Path, limits: Limits) -> tuple[str, ...]:
        assert self.program is not None, "checked before"
        disk = ("--size", str(disk_size(limits)), "--tmpfs")
        return (
            self.program, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000",
            "--hostname", "notebook", "--cap-drop", "ALL", "--new-session", "--die-with-parent",
            "--proc", "/proc", "--dev", "/dev", *disk, "/dev/shm", *disk, "/tmp",
            *_system(), "--ro-bind", str(RUNNER), INSIDE_RUNNER,
            "--bind", str(folder), DRIVE, "--chdir", DRIVE,
            "--remount-ro", "/dev", "--remount-ro", "/",
        )  # fmt: skip


def _system() -> list[str]:
    """Options that show the system's programs and this Python, and let nobody write to them."""
    options: list[str] = []
    for path in SYSTEM:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            options += ["--ro-bind", path, path]
    for name in CONFIGURATION:
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for folder in python_folders():
        if not folder.is_relative_to("/usr"):
            options += ["--ro-bind", str(folder), str(folder)]
    return options


def _remedy(said: str) -> str:
    """What to do about it, from what bwrap said and how the kernel is set."""
    if "nknown option" in said:
        return f"it is older than 0.8; {INSTALL} of a newer release, choose docker"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor forbids user namespaces; give bwrap a profile that allows `userns`, choose docker"
    off = _setting("user/max_user_namespaces") == "0" or _setting("kernel/unprivileged_userns_clone") == "0"
    if off:
        return "user namespaces are off; set sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone"
    return "user namespaces may be forbidden, as in most containers; run this outside of one, choose docker"


def _setting(name: str) -> str | None:
    path = Path("/proc/sys", name)
    return path.read_text().strip() if path.exists() else None
