"""How the notebook's processes are confined: the choice of a sandbox, and the two that need no system of their own.

A sandbox turns the runner's command into one that starts it without network, without sight of the person's files,
and with one folder to write to. Those of the operating systems are in `bubblewrap` (Linux) and `seatbelt` (macOS).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from ...errors import RequestError, ToolError
from .limits import MIB, Limits

SandboxName = Literal["auto", "bubblewrap", "sandbox-exec", "docker"]
RUNNER = Path(__file__).with_name("runner.py")
DRIVE = "/mnt/data"
"""Where the trained description of the tool says that files are kept."""
IMAGE = "quay.io/jupyter/scipy-notebook"
"""A public image with ipykernel, numpy and matplotlib."""
UNSAFE = "or run code without a sandbox (--unsafe-python, unsafe=True), with all that you may do yourself"
"""What an error message offers last."""


@dataclass(frozen=True)
class Launch:
    """How to start a confined runner, and how to end it where killing its process is not enough."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    ending: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Folders of one notebook on this machine: for the person's files, and for what is nobody's business."""

    folder: Path
    temporary: Path


class Sandbox(ABC):
    """A way to confine processes."""

    drive: str | None = DRIVE
    """Where cells find the notebook's folder; None: under its own path."""

    @abstractmethod
    def check(self, folder: Path) -> None:
        """Make sure that this works on this machine with that folder; ToolError with the way out if not."""

    @abstractmethod
    def launch(self, place: Place, limits: Limits) -> Launch:
        """How to start the runner in it."""


class Unconfined(Sandbox):
    """No sandbox: cells may do whatever the person may. Limits hold all the same."""

    drive = None

    def check(self, folder: Path) -> None:
        """Nothing can be missing but the notebook's packages."""
        python_folders()

    def launch(self, place: Place, limits: Limits) -> Launch:
        """The bare runner."""
        temporary = str(place.temporary)
        variables = {**os.environ, **environment(temporary), "TMPDIR": temporary}
        return Launch((sys.executable, str(RUNNER), settings(limits)), variables)


@dataclass(frozen=True)
class Docker(Sandbox):
    """A container of an image that is on this machine already; its Python is the image's, not this one."""

    image: str = IMAGE
    program: str | None = field(default_factory=lambda: shutil.which("docker"))

    def check(self, folder: Path) -> None:
        """Docker must be installed; whether its service runs shows when the notebook starts."""
        if self.program is None:
            raise ToolError(f"python: docker is not installed; install it, choose another sandbox, {UNSAFE}")

    def launch(self, place: Place, limits: Limits) -> Launch:
        """`docker run` with the folder and the runner mounted; without network, rights and a writable system."""
        assert self.program is not None, "checked before"
        name = place.temporary.name
        runner = "/opt/notebook/runner.py"
        command = [
            self.program, "run", "--rm", "--interactive", "--init", "--pull", "never", "--name", name,
            "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--user", f"{os.getuid()}:{os.getgid()}", "--memory", str(limits.memory_together),
            "--memory-swap", str(limits.memory_together), "--pids-limit", str(limits.processes),
            "--tmpfs", f"/tmp:size={disk_size(limits)}", "--shm-size", str(disk_size(limits)),
            "--mount", _mount(place.folder, DRIVE), "--mount", _mount(RUNNER, runner) + ",readonly",
            "--workdir", DRIVE,
        ]  # fmt: skip
        for variable, value in {**environment("/tmp"), "HOME": "/tmp"}.items():
            command += ["--env", f"{variable}={value}"]
        command += [self.image, "python", runner, settings(limits)]
        return Launch(tuple(command), dict(os.environ), (self.program, "kill", name))


def choose(name: SandboxName, *, unsafe: bool, image: str | None = None) -> Sandbox:
    """The sandbox of that name; "auto": the one of this operating system.

    Args:
        name: what was asked for.
        unsafe: that none is wanted.
        image: the image for "docker".

    Raises:
        RequestError: an unknown name, or wishes that contradict each other.
        ToolError: this system has no sandbox of its own.
    """
    from .bubblewrap import Bubblewrap
    from .seatbelt import Seatbelt

    if name not in get_args(SandboxName):
        raise RequestError(f"sandbox: expected one of {', '.join(get_args(SandboxName))}, found {name!r}")
    if image is not None and name != "docker":
        raise RequestError(f"image: only the sandbox 'docker' has one, found sandbox {name!r}")
    if unsafe:
        if name != "auto":
            raise RequestError(f"unsafe: means no sandbox, found sandbox {name!r} as well; leave out one of them")
        return Unconfined()
    if name == "auto":
        name = _of_this_system()
    if name == "docker":
        return Docker(image or IMAGE)
    return Bubblewrap() if name == "bubblewrap" else Seatbelt()


def environment(temporary: str) -> dict[str, str]:
    """Variables that every notebook needs, whatever else there is; `temporary` is a folder that cells may write to."""
    return {
        "TERM": "dumb",
        "IPYTHONDIR": f"{temporary}/.ipython",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JPY_PARENT_PID": "",  # where this process is a notebook itself, its kernels are not that notebook's
    }


def own_environment(temporary: str) -> dict[str, str]:
    """All variables of a notebook that sees this Python and nothing of the person's."""
    folders = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    prefixes = (sys.prefix, sys.base_prefix)
    elsewhere = [str(path) for path in package_folders() if not any(path.is_relative_to(prefix) for prefix in prefixes)]
    return {
        **environment(temporary),
        "PATH": os.pathsep.join(folders),
        "HOME": temporary,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(elsewhere)),
    }


def settings(limits: Limits) -> str:
    """What the runner is told: the limits of a process by their names, and how much a cell may show."""
    from .watch import tasks_of_user  # here: psutil is an extra

    return json.dumps({"limits": limits.of_a_process(tasks_of_user()), "output": limits.output})


def disk_size(limits: Limits) -> int:
    """Bytes of each disk that is in memory: /tmp and /dev/shm."""
    return limits.memory // 4 // MIB * MIB


def package_folders() -> list[Path]:
    """Where the notebook's packages are installed; ToolError where one is missing."""
    folders = []
    for package in ("ipykernel", "jupyter_client", "psutil"):
        found = find_spec(package)
        if found is None or found.origin is None:
            raise ToolError(f"python: {package} is not installed; pip install 'gptoss-mlx[tools]'")
        folders.append(Path(found.origin).parent.parent)
    return folders


def python_folders() -> list[Path]:
    """Folders that this Python needs to run a notebook: as they are named, and where links lead.

    Raises:
        ToolError: a package is missing, or a folder would show the person's home.
    """
    named = [Path(sys.prefix), Path(sys.base_prefix), *package_folders()]
    folders = {path: None for folder in named for path in (folder, folder.resolve())}
    for folder in folders:
        if Path.home().resolve().is_relative_to(folder):
            raise ToolError(f"python: Python is installed in {folder}, which holds your home; use a Python of its own")
    return [folder for folder in folders if not any(other in folder.parents for other in folders)]


def _of_this_system() -> SandboxName:
    names: dict[str, SandboxName] = {"linux": "bubblewrap", "darwin": "sandbox-exec"}
    if sys.platform not in names:
        raise ToolError(f"python: {sys.platform} has no sandbox of its own; choose docker, {UNSAFE}")
    return names[sys.platform]


def _mount(source: Path, target: str) -> str:
    quoted = str(source).replace('"', '""')  # the option is a line of CSV
    return f'type=bind,"source={quoted}",target={target}'
