"""The hot operations in stock MLX: reference, and fallback where no faster form exists.

Shapes: B sequences, T tokens, S cached keys, H query heads, K key/value heads, D head width, E experts,
k experts per token.
"""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np

from ..quantization import Quantization
from .packed import GROUP, Codes, Packed

FEW_TOKENS = 8
"""Query tokens up to which attention multiplies with codes; for more, these are expanded first."""


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """RMSNorm in float32 including the multiplication by the weight, cast once at the end.

    Args:
        x: activations (..., hidden).
        weight: (hidden,) in float32; a narrower weight would be multiplied after the cast.
        eps: added to the mean square.
    """
    return mx.fast.rms_norm(x, weight.astype(mx.float32), eps).astype(x.dtype)


def linear(x: mx.array, weight: Packed) -> mx.array:
    """x (..., in) times the transposed weight, plus its bias: (..., out)."""
    packing, scales = weight.quantization, weight.scales
    if packing is None or scales is None:
        if weight.bias is None:
            return x @ weight.weight.T
        return mx.addmm(weight.bias, x, weight.weight.T)
    y = mx.quantized_matmul(
        x,
        weight.weight,
        scales,
        weight.biases,
        transpose=True,
        group_size=packing.group_size,
        bits=packing.bits,
        mode=packing.mode,
    )
    return y if weight.bias is None else y + weight.bias


def route(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """The k largest of the router's logits (..., E), in any order, and their softmax: indices and shares (..., k)."""
    chosen = mx.stop_gradient(mx.argpartition(-logits, k - 1, axis=-1))[..., :k]
    return chosen, mx.softmax(mx.take_along_axis(logits, chosen, axis=-1), axis=-1, precise=True)


def heads(x: mx.array, width: int, rope: tuple[mx.array, mx.array] | None = None) -> mx.array:
    """Cut a projection into heads, and turn them by their positions.

    Args:
        x: (B, T, heads * width).
        width: D.
        rope: cosines and sines (T, D / 2) in float32; None leaves the heads as they are.

    Returns:
        (B, heads, T, D) in the dtype of x.
    """
    parts = mx.unflatten(x, -1, (-1, width)).swapaxes(1, 2)
    return parts if rope is None else rotate(parts, *rope)


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotate pairs (i, i + D/2) of the last axis of (B, heads, T, D) in float32, cast once at the end."""
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    turned = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, sinks: mx.array, window: int = 0
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

    Returns:
        (B, T, H * D) in the dtype of the queries.
    """
    out = mx.fast.scaled_dot_product_attention(
        queries,
        keys.astype(queries.dtype),
        values.astype(queries.dtype),
        scale=scale,
        mask=_mask(queries.shape[2], keys.shape[2], window),
        sinks=sinks.astype(queries.dtype),
    )
    return out.swapaxes(1, 2).flatten(2)


def _mask(tokens: int, keys: int, window: int) -> mx.array | str | None:
    if window and keys > window:
        return window_mask(tokens, keys, window)
    return "causal" if tokens > 1 else None


@lru_cache(maxsize=2)
def window_mask(tokens: int, keys: int, window: int) -> mx.array:
    """Which of the keys each of the last `tokens` positions may see: the `window` up to itself; boolean (T, S).

    All sliding layers of a pass ask for the same one. It is built without MLX, so that it is no part of any graph.
    """
    query = np.arange(keys - tokens, keys)[:, None]
    key = np.arange(keys)[None]
    return mx.array((key <= query) & (key > query - window))


def cast(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Cast numbers; what lies beyond the end of float16 stays there instead of becoming infinite."""
    if dtype == mx.float16 and x.dtype != dtype:
        x = mx.clip(x.astype(mx.float32), -65504, 65504)
    return x.astype(dtype)


def quantize(x: mx.array, bits: int) -> Codes:
    """Keys or values (B, K, T, D), rounded to float16, as codes of 8 or 4 bits; D is a multiple of GROUP."""
    return Codes(*mx.quantize(cast(x, mx.float16), group_size=GROUP, bits=bits))


def dequantize(packed: Codes, dtype: mx.Dtype) -> mx.array:
    """What codes stand for (B, K, S, D), computed in float32."""
    return dequantize_rows(*packed, packed.packing, mx.float32).astype(dtype)


def attend_codes(
    queries: mx.array, keys: Codes, values: Codes, *, scale: float, sinks: mx.array, window: int = 0
) -> mx.array:
    """As `attend`, over keys and values (B, K, S, D) as `quantize` packs them."""
    if queries.shape[2] <= FEW_TOKENS:
        return _multiply_codes(queries, keys, values, scale, sinks, window)
    kv_heads = keys.codes.shape[1]
    group, mixed = queries.shape[1] // kv_heads, []
    for head in range(kv_heads):  # one after the other, so that only one head's keys and values are ever expanded
        own = slice(head * group, (head + 1) * group)
        expanded = (
            dequantize(Codes(*(plane[:, head : head + 1] for plane in packed)), queries.dtype)
            for packed in (keys, values)
        )
        mixed.append(attend(queries[:, own], *expanded, scale=scale, sinks=sinks[own], window=window))
    return mx.concatenate(mixed, axis=-1)


def _multiply_codes(
    queries: mx.array, keys: Codes, values: Codes, scale: float, sinks: mx.array, window: int
) -> mx.array:
    """In float32: scores, a softmax of which the sink takes its part, and the weighted sum of the values."""
    (batch, heads, tokens, width), (kv_heads, length) = queries.shape, keys.codes.shape[1:3]
    bits = keys.packing.bits
    rows = (queries.astype(mx.float32) * scale).reshape(batch, kv_heads, -1, width)  # those that share keys
    scores = mx.quantized_matmul(rows, *keys, transpose=True, group_size=GROUP, bits=bits)
    scores = scores.reshape(batch, heads, tokens, length)
    if tokens > 1 or window:
        scores = mx.where(window_mask(tokens, length, window or length), scores, -mx.inf)
    sink = mx.broadcast_to(sinks.astype(mx.float32)[:, None, None], (batch, heads, tokens, 1))
    shares = mx.softmax(mx.concatenate([scores, sink], axis=-1), axis=-1)[..., :length]
    rows = shares.reshape(batch, kv_heads, -1, length)
    mixed = mx.quantized_matmul(rows, *values, transpose=False, group_size=GROUP, bits=bits)
    return mixed.reshape(queries.shape).swapaxes(1, 2).flatten(2).astype(queries.dtype)


def swiglu(gate: mx.array, up: mx.array, *, limit: float, alpha: float) -> mx.array:
    """gpt-oss's clamped SwiGLU: gate * sigmoid(alpha * gate) * (up + 1).

    The gate is clamped from above only, up on both sides.
    """
    gate = mx.minimum(gate, limit)
    up = mx.clip(up, -limit, limit)
    return gate * mx.sigmoid(alpha * gate) * (up + 1)


def gather_product(
    x: mx.array,
    weight: mx.array,
    experts: mx.array,
    *,
    scales: mx.array | None = None,
    biases: mx.array | None = None,
    quantization: Quantization | None = None,
    sorted_experts: bool = False,
) -> mx.array:
    """Multiply each row by the matrix of its expert.

    Args:
        x: (..., 1, in), broadcast against `experts`.
        weight: (E, out, in), or packed (E, out, words).
        experts: indices (..., k).
        scales: one per group of a packed weight.
        biases: the offsets of an affine weight.
        quantization: how the weight is packed; None for a plain one.
        sorted_experts: whether `experts` ascends, which lets a GPU take a faster path.

    Returns:
        (..., k, 1, out).
    """
    if quantization is None or scales is None:
        plain = weight.swapaxes(-1, -2).astype(x.dtype)
        return mx.gather_mm(x, plain, rhs_indices=experts, sorted_indices=sorted_experts)
    return mx.gather_qmm(
        x,
        weight,
        scales,
        biases,
        rhs_indices=experts,
        transpose=True,
        group_size=quantization.group_size,
        bits=quantization.bits,
        mode=quantization.mode,
        sorted_indices=sorted_experts,
    )


def dequantize_rows(
    weight: mx.array, scales: mx.array, biases: mx.array | None, quantization: Quantization, dtype: mx.Dtype
) -> mx.array:
    """Expand packed rows (..., words) to (..., in) in `dtype`, without a detour through a narrower one."""
    if quantization.mode == "affine":
        scales = scales.astype(dtype)
        biases = None if biases is None else biases.astype(dtype)
    return mx.dequantize(
        weight,
        scales,
        biases,
        group_size=quantization.group_size,
        bits=quantization.bits,
        mode=quantization.mode,
    ).astype(dtype)
