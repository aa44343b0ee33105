"""What MXFP4 and MXFP8 share: 32 inputs, one scale 2^(s - 127) that fits their largest, codes of few bits.

The scale is the smallest power of two under which the largest weight does not exceed the largest code (6, or 448),
as in mlx 0.32.4; older releases rounded the exponent, which cut off every block whose largest was a 4. Codes are
the nearest, ties to the even code (as Metal does; MLX's CPU path takes the lower code on the ties of MXFP4).

With this rule a block that was decoded from MXFP4 is found again exactly: same values always, same bits wherever
its largest code is a 4 or a 6 (else the same values have a second spelling under a finer scale). Signs of zeros are
kept. Blocks too small for the scale byte get scale 0, where MLX's CPU path wraps around to 255 (infinity) and takes
subnormal weights for zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from .tensorfile import Array, to_bfloat16, to_float32

BLOCK = 32
_ROWS = 1 << 12  # blocks at a time: 128 K weights stay in the cache
_SMALL = 16  # scales under which subnormal weights matter, whose exponent cannot be subtracted from their bits
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]


def e2m1() -> list[float]:
    """The magnitudes of MXFP4's codes 0 to 7."""
    return [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def e4m3() -> list[float]:
    """The magnitudes of MXFP8's codes 0 to 126 (127 is not a number)."""
    return [(c & 7) * 2.0**-9 if c < 8 else (8 + (c & 7)) * 2.0 ** ((c >> 3) - 10) for c in range(127)]


def quantize(weights: U16, magnitudes: Sequence[float]) -> tuple[U8, U8]:
    """Bfloat16 bits (..., in), finite -> codes (..., in) without their sign's place, scale bytes (..., in / 32).

    The sign of each code stands in bit 7.
    """
    blocks = np.ascontiguousarray(weights).reshape(-1, BLOCK)
    codes = np.empty(blocks.shape, np.uint8)
    scales = np.empty(len(blocks), np.uint8)
    for start in range(0, len(blocks), _ROWS):
        part = slice(start, start + _ROWS)
        codes[part], scales[part] = _quantize_blocks(blocks[part], tuple(magnitudes))
    return codes.reshape(weights.shape), scales.reshape(*weights.shape[:-1], -1)


def _quantize_blocks(blocks: U16, magnitudes: tuple[float, ...]) -> tuple[U8, U8]:
    largest = _bits_of(magnitudes[-1])
    magnitude = (blocks & np.uint16(0x7FFF)).astype(np.int32)
    top = magnitude.max(axis=1)
    # an exponent one higher wherever the mantissa is above that of the largest code
    exponent = ((top + (127 - (largest & 127))) >> 7) - (largest >> 7)
    scales = np.where(top == 0, 127, np.clip(exponent + 127, 0, 253)).astype(np.int32)
    magnitude -= ((scales - 127) << 7)[:, None]
    small = np.flatnonzero(scales < _SMALL)
    if small.size:
        values = np.abs(to_float32(blocks[small]).astype(np.float64))
        magnitude[small] = to_bfloat16(np.ldexp(values, 127 - scales[small, None]).astype(np.float32))
    np.clip(magnitude, 0, largest, out=magnitude)
    codes = np.take(_nearest(magnitudes), magnitude)
    codes |= (blocks >> np.uint16(8)).astype(np.uint8) & np.uint8(0x80)
    return codes, scales.astype(np.uint8)


@cache
def _nearest(magnitudes: tuple[float, ...]) -> U8:
    """The code nearest to every bfloat16 from 0 up to the largest magnitude, by its bits."""
    bits = np.arange(_bits_of(magnitudes[-1]) + 1, dtype=np.uint16)
    values = to_float32(bits).astype(np.float64)
    table = np.array(magnitudes)
    upper = np.clip(np.searchsorted(table, values), 1, len(table) - 1)
    over, under = table[upper] - values, values - table[upper - 1]
    up = (over < under) | ((over == under) & (upper % 2 == 0))
    return np.where(up, upper, upper - 1).astype(np.uint8)


def _bits_of(value: float) -> int:
    return int(to_bfloat16(np.array([value], np.float32))[0])


def value_table(magnitudes: Sequence[float]) -> npt.NDArray[np.float32]:
    """The value of each code (n, then n negatives) under each scale byte: (256, 2 n). Row 255 is infinite."""
    values = np.array([*magnitudes, *(-m for m in magnitudes)], np.float64)
    with np.errstate(over="ignore"):
        table: npt.NDArray[np.float32] = np.ldexp(values, np.arange(256)[:, None] - 127).astype(np.float32)
    table[255] = np.copysign(np.inf, values)
    return table


def scale_index(scales: Array, per_scale: int) -> npt.NDArray[np.uint16]:
    """Scale bytes as the high byte of an index, one per item of the last axis."""
    return np.repeat(scales.astype(np.uint16) << np.uint16(8), per_scale, axis=-1)
