"""Finds the compiled CPU kernels, holds them against the installed mlx, and says why they are off when they are.

The extension is built by `pip install` where a C++ compiler is at hand, and never on macOS, where the GPU does the
work. It speaks mlx's C++ interface, so it runs only with the mlx that it was built against.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import mlx.core as mx

INTERFACE = 6
"""What this Python code expects of the extension; CMakeLists.txt states the same number."""

OFF = "GPTOSS_NATIVE"
"""The environment variable that turns the kernels off when it is 0."""

REBUILD = "install a C++20 compiler (g++ 11, clang 14 or newer) and repeat `pip install --force-reinstall --no-deps .`"


def load() -> tuple[ModuleType | None, str]:
    """The extension, or None and the reason in words.

    Both mean that GPTOSS_ISA or GPTOSS_NUM_THREADS asks for what is not to be had. That is no reason to go on
    without, but raised here it would keep the package from being imported.
    """
    if os.environ.get(OFF) == "0":
        return None, f"turned off by {OFF}=0"
    if sys.platform != "linux":
        return None, "built on Linux only"
    path = _find()
    if path is None:
        return None, f"not built; {REBUILD}"
    try:
        module = _import(path)
    except ImportError as error:
        return None, f"{path.name} does not load with mlx {_mlx_version()} ({error}); {REBUILD}"
    reason = _mismatch(module)
    return (None, reason) if reason else (module, _refusal(module))


def _find() -> Path | None:
    """Beside this file, or where it is installed when this file is in a source tree."""
    folders = [Path(__file__).parent]
    folders += [Path(entry) / "gptoss_mlx" / "kernels" for entry in sys.path]
    for folder in folders:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = folder / f"_native{suffix}"
            if path.is_file():
                return path
    return None


def _import(path: Path) -> ModuleType:
    name = f"{__package__}._native"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python extension")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def _mismatch(module: ModuleType) -> str:
    """Why an extension that loads must not be used, or nothing."""
    if module.interface != INTERFACE:
        return f"built from other sources (interface {module.interface}, {INTERFACE} expected); {REBUILD}"
    if module.mlx_version != _mlx_version():
        return f"built for mlx {module.mlx_version}, {_mlx_version()} found; {REBUILD}"
    try:  # an extension whose nanobind is not mlx's imports, and refuses every array
        module.route(mx.zeros((1, 1)), 1)
    except TypeError:
        return f"built with another nanobind than mlx {_mlx_version()}; {REBUILD}"
    return ""


def _refusal(module: ModuleType) -> str:
    """What is wrong with the settings that the extension takes from the environment, or nothing."""
    try:
        module.isa(), module.threads()
    except ValueError as error:
        return str(error)
    return ""


def _mlx_version() -> str:
    return importlib.metadata.version("mlx")
