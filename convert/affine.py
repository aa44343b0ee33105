"""Affine quantisation in NumPy, bit for bit what `mx.quantize(mode="affine")` of mlx 0.32.4 gives on a CPU.

A group of weights becomes unsigned codes q with w ~ scale * q + bias. The end of the range that is larger in
magnitude is met exactly (it is the bias, and zero is a whole number of steps away from it), so a scale is negative
where that end is the maximum. All arithmetic is float32; scale and bias are rounded to bfloat16 only when stored.

MLX does this on one thread. The same in NumPy releases the interpreter, so that two threads do twice as much, and
gives the same bits whatever the device; blocks of 128 K weights stay in the cache.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .tensorfile import Array, to_bfloat16, to_float32

U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]
_BLOCK = 1 << 17
_SMALLEST = np.float32(1e-7)  # of a scale


def encode(weights: U16, bits: int, group_size: int) -> list[Array]:
    """Bfloat16 bits (..., in), below 2^100 -> words uint32 (..., in * bits / 32), scales, biases (..., in / group)."""
    flat = np.ascontiguousarray(weights).reshape(-1)
    codes = np.empty(flat.size, np.uint8)
    scales = np.empty(flat.size // group_size, np.float32)
    biases = np.empty_like(scales)
    for start in range(0, flat.size, _BLOCK):
        groups = slice(start // group_size, (start + _BLOCK) // group_size)
        block = to_float32(flat[start : start + _BLOCK]).reshape(-1, group_size)
        scales[groups], biases[groups] = _grid(block, bits)
        _round(block, scales[groups, None], biases[groups, None], bits)
        codes[start : start + _BLOCK] = block.reshape(-1)
    lead = weights.shape[:-1]
    words = pack(codes, bits).view("<u4").reshape(*lead, -1)
    return [words, to_bfloat16(scales).reshape(*lead, -1), to_bfloat16(biases).reshape(*lead, -1)]


def _grid(block: F32, bits: int) -> tuple[F32, F32]:
    """Scale and bias of each row of (groups, group_size)."""
    low, high = block.min(axis=1), block.max(axis=1)
    below = np.abs(low) > np.abs(high)
    step = np.maximum((high - low) / np.float32((1 << bits) - 1), _SMALLEST)
    step = np.where(below, step, -step)
    edge = np.where(below, low, high)
    count = np.rint(edge / step)
    shifted = count != 0
    np.divide(edge, count, out=step, where=shifted)
    return step, np.where(shifted, edge, np.float32(0))


def _round(block: F32, scale: F32, bias: F32, bits: int) -> None:
    """Replace weights by their codes, in place."""
    block -= bias
    block /= scale
    np.rint(block, out=block)
    np.clip(block, np.float32(0), np.float32((1 << bits) - 1), out=block)


def decode(words: Array, scales: U16, biases: U16, bits: int, group_size: int) -> U16:
    """The reverse of `encode`: scale * q + bias in float32, rounded to bfloat16 once."""
    lead = words.shape[:-1]
    codes = unpack(np.ascontiguousarray(words).reshape(-1).view(np.uint8), bits).reshape(-1, group_size)
    scale, bias = (to_float32(x.reshape(-1, 1)) for x in (scales, biases))
    values = np.empty(codes.shape, np.uint16)
    rows = max(_BLOCK // group_size, 1)
    for start in range(0, len(codes), rows):
        part = slice(start, start + rows)
        block = codes[part].astype(np.float32)
        block *= scale[part]
        block += bias[part]
        values[part] = to_bfloat16(block)
    return values.reshape(*lead, -1)


def pack(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes of 8, 6 or 4 bits -> bytes, the first code in the lowest bits."""
    if bits == 8:
        return codes
    if bits == 4:
        pairs: npt.NDArray[np.uint8] = codes[0::2] | codes[1::2] << np.uint8(4)
        return pairs
    a, b, c, d = (codes[i::4] for i in range(4))
    packed = np.empty((codes.size // 4, 3), np.uint8)
    packed[:, 0] = a | b << np.uint8(6)
    packed[:, 1] = b >> np.uint8(2) | c << np.uint8(4)
    packed[:, 2] = c >> np.uint8(4) | d << np.uint8(2)
    return packed.reshape(-1)


def unpack(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """The reverse of `pack`."""
    if bits == 8:
        return packed
    if bits == 4:
        return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(-1)
    a, b, c = (packed[i::3] for i in range(3))
    mask = np.uint8(63)
    codes = (
        a & mask,
        (a >> np.uint8(6) | b << np.uint8(2)) & mask,
        (b >> np.uint8(4) | c << np.uint8(4)) & mask,
        c >> np.uint8(2),
    )
    return np.stack(codes, axis=-1).reshape(-1)
