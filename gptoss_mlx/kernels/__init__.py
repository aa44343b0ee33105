"""The one door to hot operations, and the only room that knows which device runs them.

Every operation has a plain form in stock MLX (`plain.py`): it is the reference, and what runs where nothing
faster exists. On a GPU these are MLX's own fused kernels; on a CPU, this folder's C++ (`native.py` finds it), or
without a compiler MLX's portable operations in float32.
"""

from __future__ import annotations

import os

import mlx.core as mx

from .native import load as _load
from .plain import attend, dequantize_rows, gather_product, rms_norm, swiglu

__all__ = [
    "attend",
    "compute_dtype",
    "dequantize_rows",
    "describe",
    "device_name",
    "gather_product",
    "memory_limit",
    "native",
    "on_gpu",
    "rms_norm",
    "swiglu",
]


def on_gpu() -> bool:
    """Whether MLX's default device is a GPU (Metal or CUDA)."""
    return bool(mx.default_device() == mx.Device(mx.gpu))


def compute_dtype() -> mx.Dtype:
    """The dtype of activations: bfloat16 on a GPU like the release, float32 on a CPU.

    MLX's CPU products of bfloat16 add up in bfloat16, which costs one to six percent of each result.
    """
    return mx.bfloat16 if on_gpu() else mx.float32


extension, why_off = _load()
"""The compiled kernels, or None and the reason in words."""


def native() -> bool:
    """Whether compiled CPU kernels are active: they are there, and MLX's default device is the CPU."""
    return extension is not None and not on_gpu()


def device_name() -> str:
    """The device in words, such as `Apple M4 Max` or `CPU`."""
    if not on_gpu():
        return "CPU"
    info = mx.device_info(mx.Device(mx.gpu))
    return str(info.get("device_name", "GPU"))


def describe() -> str:
    """One line for `gptoss-mlx info`: what runs the hot operations here."""
    if on_gpu():
        return f"MLX's GPU kernels on {device_name()}, activations in bfloat16"
    if extension is None:
        return f"MLX's portable CPU operations, activations in float32; native kernels are off: {why_off}"
    return f"native CPU kernels ({extension.isa_words()}, {extension.threads()} threads)"


def memory_limit() -> int:
    """Bytes that a model may take here: the GPU's recommended working set, else the machine's memory."""
    if on_gpu():
        info = mx.device_info(mx.Device(mx.gpu))
        for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if key in info:
                return int(info[key])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
