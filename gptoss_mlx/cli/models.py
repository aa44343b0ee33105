"""The models that a session may answer with: found by name, checked, and loaded, one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gptoss_mlx import demo, hub
from gptoss_mlx.runtime import GptOss

from .options import Loading, check_memory, load_runtime
from .printer import remark, terminal_console


class Models(Protocol):
    """Where a session gets its models from."""

    def find(self, name: str | None) -> Path:
        """The folder of a model that could be loaded; None: of the newest one."""

    def load(self, folder: Path) -> GptOss:
        """Load it."""


class LocalModels:
    """Those on this machine.

    Args:
        wanted: how they are loaded.
    """

    def __init__(self, wanted: Loading) -> None:
        self._wanted = wanted

    def find(self, name: str | None) -> Path:
        """The folder of a model, once it is told which one that is.

        Raises:
            GptOssError: there is none, or it does not fit in the memory that this process has or can get.
        """
        found = hub.find(name) if name is not None else hub.newest() or demo.MODEL_FOLDER
        folder = found.absolute()  # a session may go on elsewhere
        check_memory(folder, self._wanted)
        console = terminal_console(stderr=True)
        if folder == demo.MODEL_FOLDER:
            remark(demo.NOTICE, console)
        elif name is None:
            remark(f"model: {hub.display_name(folder)} ({folder})", console)
        return folder

    def load(self, folder: Path) -> GptOss:
        """Load it; see `load_runtime`."""
        return load_runtime(folder, self._wanted)
