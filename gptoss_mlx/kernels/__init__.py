"""The one door to hot operations, and the only room that knows which device runs them.

Every operation has a plain form in stock MLX (`plain.py`): it is the reference, and what runs where nothing
faster exists. On a GPU these are MLX's own fused kernels; on a CPU, this folder's C++ (`native.py` finds it), or
without a compiler MLX's portable operations in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..errors import GptOssError
from . import plain
from .native import load as _load
from .packed import GROUP, Codes, Packed
from .plain import dequantize, dequantize_rows, gather_product, swiglu
from .precision import (
    CACHE_BITS,
    CACHE_DTYPES,
    Rounding,
    cache_kind,
    code_bytes,
    exact,
    exactly,
    precision,
    rounding,
)

__all__ = [
    "CACHE_BITS",
    "CACHE_DTYPES",
    "FIRST_STEP",
    "GROUP",
    "LARGE",
    "Codes",
    "Packed",
    "Rounding",
    "append",
    "append_and_attend",
    "append_codes",
    "appends",
    "attend",
    "attend_codes",
    "cache_kind",
    "code_bytes",
    "compute_dtype",
    "dequantize",
    "dequantize_rows",
    "describe",
    "device_name",
    "exact",
    "exactly",
    "experts",
    "fuses",
    "gather_product",
    "heads",
    "linear",
    "native",
    "on_gpu",
    "rms_norm",
    "room",
    "room_bytes",
    "rounding",
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
"""The compiled kernels, or None and the reason in words; see `native.load` for when both are there."""


def native() -> bool:
    """Whether compiled CPU kernels are active: they are there, and MLX's default device is the CPU.

    Raises:
        GptOssError: GPTOSS_ISA or GPTOSS_NUM_THREADS asks for something that is not to be had.
    """
    if extension is None or on_gpu():
        return False
    if why_off:
        raise GptOssError(why_off)
    return True


FIRST_STEP = 64
"""Native attention takes keys from a multiple of this position on."""


def rms_norm(x: mx.array, weight: mx.array, eps: float, *, training: bool = False) -> mx.array:
    """RMSNorm in float32 including the multiplication by the weight, cast once at the end.

    Args:
        x: activations (..., hidden).
        weight: (hidden,).
        eps: added to the mean square.
        training: whether a gradient is asked for; native kernels have none.
    """
    if _native_for(x, training):
        normed: mx.array = _native_call("rms_norm", x, weight, eps)
        return normed
    return plain.rms_norm(x, weight, eps)


def heads(
    x: mx.array,
    width: int,
    rope: tuple[mx.array, mx.array] | None = None,
    *,
    training: bool = False,
) -> mx.array:
    """Cut a projection into heads, and turn them by their positions.

    Args:
        x: (B, T, heads * width).
        width: D.
        rope: cosines and sines (T, D / 2) in float32; None leaves the heads as they are.
        training: see `rms_norm`.

    Returns:
        (B, heads, T, D).
    """
    if _native_for(x, training):
        parts: mx.array = _native_call("heads", x, width, *(rope or (None, None)), mx.float32)
        return parts
    return plain.heads(x, width, rope)


LARGE = 1 << 22
"""Bytes from which on arrays to append to are large: native ones are pages of their own, and what they replace is given
back to the system."""


def room(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """Zeros to append to. Where they are large, native ones take memory only as they are written."""
    if native() and math.prod(shape) * dtype.size >= LARGE:
        pages: mx.array = _native_call("fresh_pages", shape, dtype)
        return pages
    return mx.zeros(shape, dtype)


def room_bytes() -> int:
    """Bytes that such arrays hold and MLX does not count."""
    return 0 if extension is None else int(extension.page_bytes())


def append(buffer: mx.array, fresh: mx.array, start: int) -> mx.array:
    """Write (B, K, T, D) to the positions from `start` on of a buffer (B, K, room, D), and return the buffer.

    Numbers are cast to the buffer's dtype. Where it can this happens in place, so the old array must not be used any
    more, and no position be written twice; see buffers.py.
    """
    fresh = plain.cast(fresh, buffer.dtype)
    if native():
        appended: mx.array = _native_call("append", buffer, fresh, start)
        return appended
    buffer[:, :, start : start + fresh.shape[2]] = fresh
    return buffer


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    window: int = 0,
    training: bool = False,
) -> mx.array:
    """Causal attention with one learned sink per query head in the softmax's denominator.

    Query t stands at key S - T + t. It sees that key and those before it, of these the last `window` if that is not 0.

    Args:
        queries: (B, H, T, D).
        keys: (B, K, S, D); H is a multiple of K.
        values: (B, K, S, D).
        scale: factor on query-key products; the sinks are not scaled.
        sinks: (H,).
        window: keys that a query may see, itself included; 0 for all.
        training: see `rms_norm`.

    Returns:
        (B, T, H * D).
    """
    if _native_for(queries, training):
        mixed: mx.array = _native_call("attend", queries, keys, values, sinks, scale, window)
        return mixed
    return plain.attend(queries, keys, values, scale=scale, sinks=sinks, window=window)


def appends(queries: mx.array, *, training: bool = False) -> bool:
    """Whether `append_and_attend` can take these queries."""
    return _native_for(queries, training)


def append_and_attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    buffers: Sequence[Sequence[mx.array]],
    *,
    counts: Sequence[int],
    starts: Sequence[int],
    firsts: Sequence[int],
    scale: float,
    sinks: mx.array,
    window: int = 0,
) -> tuple[mx.array, list[list[mx.array]]]:
    """Append the fresh tokens of several sequences, and attend, in one native operation; ask `appends` first.

    Args:
        queries: (B, H, T, D), the sequences' tokens one behind the other.
        keys: (B, K, T, D), cast to what the buffers keep; H is a multiple of K.
        values: as keys.
        buffers: of each sequence its keys and values (B, K, room, D), or the three planes of each as `Codes`. They are
            written in place, see `append`.
        counts: fresh tokens of each.
        starts: tokens that its buffers hold so far.
        firsts: position of its buffers' first token, a multiple of `FIRST_STEP`. Results then do not depend on how many
            keys before a query's window are at hand, to the last bit.
        scale: see `attend`, as for sinks and window.

    Returns:
        (B, T, H * D) in float32, and the buffers to go on with.
    """
    mixed: mx.array
    written: list[list[mx.array]]
    mixed, written = _native_call(
        "append_and_attend", queries, keys, values, sinks, buffers, counts, starts, firsts, scale, window
    )
    return mixed, written


def append_codes(buffers: Codes, fresh: mx.array, start: int) -> Codes:
    """As `append`, of keys or values (B, K, T, D) that are packed on the way; see `plain.quantize`."""
    if native():
        return Codes(*_native_call("append_codes", buffers, fresh, start))
    parts = plain.quantize(fresh, buffers.packing.bits)
    return Codes(*(append(buffer, part, start) for buffer, part in zip(buffers, parts, strict=True)))


def attend_codes(
    queries: mx.array,
    keys: Codes,
    values: Codes,
    *,
    scale: float,
    sinks: mx.array,
    window: int = 0,
    training: bool = False,
) -> mx.array:
    """As `attend`, over packed keys and values."""
    if _native_for(queries, training):
        mixed: mx.array = _native_call("attend_codes", queries, keys, values, sinks, scale, window)
        return mixed
    return plain.attend_codes(queries, keys, values, scale=scale, sinks=sinks, window=window)


def linear(x: mx.array, weight: Packed, *, training: bool = False) -> mx.array:
    """x (..., T, in) times the transposed weight (out, in), plus its bias: (..., T, out).

    Native kernels have no gradient: while training, MLX's operations run.
    """
    if _native_for(x, training) and weight.has_native_product:
        product: mx.array = _native_call("product", x, weight.to_native(extension), precision(x))
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
    summed: mx.array = _native_call("experts", x, chosen, shares, *matrices, limit, alpha, precision(x))
    return summed


def _native_for(x: mx.array, training: bool) -> bool:
    return native() and not training and x.dtype == mx.float32


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
    if not native() or extension is None:
        return f"MLX's portable CPU operations, activations in float32; native kernels are off: {why_off}"
    return f"native CPU kernels ({extension.isa_words()}, {extension.threads()} threads)"
