"""The one door to hot operations, and the only room that knows which device runs them.

Every operation has a plain form in stock MLX (`plain.py`): it is the reference, and what runs where nothing
faster exists. On a GPU these are MLX's own fused kernels; on a CPU, this folder's C++ (`native.py` finds it), or
without a compiler MLX's portable operations in float32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import mlx.core as mx

from . import plain
from .native import load as _load
from .packed import Packed
from .plain import attend, dequantize_rows, gather_product, rms_norm, swiglu

__all__ = [
    "Packed",
    "attend",
    "compute_dtype",
    "dequantize_rows",
    "describe",
    "device_name",
    "exact",
    "exactly",
    "experts",
    "fuses",
    "gather_product",
    "linear",
    "memory_limit",
    "native",
    "on_gpu",
    "rms_norm",
    "route",
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


_exact = ContextVar("exact", default=os.environ.get("GPTOSS_EXACT") == "1")

MANY_ROWS = 16
"""Tokens of a sequence from which native products unpack weights once for all rows: fewer are limited by reading
weights, not by arithmetic. The choice looks at one sequence alone, so that its company in a batch cannot change it."""


def exact() -> bool:
    """Whether native kernels stay in float32 throughout, here and now; else they may round (see `exactly`)."""
    return _exact.get()


@contextmanager
def exactly(wanted: bool = True) -> Iterator[None]:
    """Build operations that stay in float32 (or need not) inside a `with` block.

    Else native kernels round activations to 16 bits with a scale per row (an error of about 3e-5 of
    a product) and keep keys and values in float16. GPTOSS_EXACT=1 sets the default.
    """
    token = _exact.set(wanted)
    try:
        yield
    finally:
        _exact.reset(token)


def linear(x: mx.array, weight: Packed, *, training: bool = False) -> mx.array:
    """x (..., T, in) times the transposed weight (out, in), plus its bias: (..., T, out).

    Native kernels have no gradient: while training, MLX's operations run.
    """
    if _native_for(x, training) and weight.has_native_product:
        product: mx.array = _native_call("product", x, weight.to_native(extension), _precision(x))
        return product
    return plain.linear(x, weight)


def route(logits: mx.array, k: int, *, training: bool = False) -> tuple[mx.array, mx.array]:
    """The k largest of the router's logits (..., E), in any order, and their softmax: indices and shares (..., k)."""
    if _native_for(logits, training):
        chosen, shares = _native_call("route", logits, k)
        return chosen, shares
    return plain.route(logits, k)


def fuses(x: mx.array, *weights: Packed, training: bool = False) -> bool:
    """Whether `experts` can take these activations and matrices (gate, up, down)."""
    gate, up, _ = weights
    return (
        _native_for(x, training)
        and gate.quantization == up.quantization
        and all(weight.has_native_product for weight in weights)
    )


def experts(
    x: mx.array,
    chosen: mx.array,
    shares: mx.array,
    gate: Packed,
    up: Packed,
    down: Packed,
    *,
    limit: float,
    alpha: float,
) -> mx.array:
    """The whole expert block in one native operation; ask `fuses` first.

    Args:
        x: (..., T, hidden).
        chosen: experts of each token (..., T, k).
        shares: their weights in the sum (..., T, k).
        gate: (E, inner, hidden).
        up: as gate.
        down: (E, hidden, inner).
        limit: of the clamped SwiGLU, see `swiglu`.
        alpha: of its sigmoid.

    Returns:
        (..., T, hidden) in float32.
    """
    matrices = (weight.to_native(extension) for weight in (gate, up, down))
    summed: mx.array = _native_call("experts", x, chosen, shares, *matrices, limit, alpha, _precision(x))
    return summed


def _native_for(x: mx.array, training: bool) -> bool:
    return native() and not training and x.dtype == mx.float32


def _precision(x: mx.array) -> int:
    """What native products may do (product/rows.h): 0 exact, 1 rounded few rows, 2 rounded many rows."""
    if exact():
        return 0
    return 2 if x.ndim > 1 and x.shape[-2] >= MANY_ROWS else 1


def _native_call(name: str, *arguments: object) -> Any:
    return getattr(extension, name)(*arguments)


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
