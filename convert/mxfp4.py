"""MXFP4: 32 consecutive inputs share a scale 2^(s - 127), each is one of 16 four-bit codes (E2M1).

A block is 16 bytes of codes, two to a byte with the first input in the low nibble, and one scale byte. MLX packs
eight codes into a little-endian word, first code lowest: the same bytes. So released blocks are never unpacked on
their way into an MLX folder; decoding serves unpacked copies and checks, encoding serves BF16 fine-tunes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from .tensorfile import Array

BLOCK = 32
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of codes 0..7; 8..15 are their negatives
BAD_SCALE = 254  # from here on codes overflow bfloat16 (254) or readers disagree about the meaning (255)

U16 = npt.NDArray[np.uint16]


@cache
def code_table() -> U16:
    """The bfloat16 bits of every code under every scale byte: (256, 16); row 255 is what MLX makes of it (inf)."""
    values = np.array(MAGNITUDES + tuple(-v for v in MAGNITUDES), np.float64)
    values = np.ldexp(values[None, :], np.arange(256)[:, None] - 127)
    with np.errstate(over="ignore", invalid="ignore"):
        values[255] = np.array(values[255] * np.inf)
        bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    bits.setflags(write=False)
    return bits


@cache
def _pair_table() -> npt.NDArray[np.uint32]:
    """The two bfloat16 values of every code byte under every scale byte, as one word: (65536,)."""
    codes = code_table().astype(np.uint32)
    byte = np.arange(256)
    pairs = codes[:, byte & 15] | codes[:, byte >> 4] << np.uint32(16)
    return pairs.reshape(-1)


def decode(codes: Array, scales: Array) -> U16:
    """Codes (..., in/2) and scales (..., in/32), both uint8 -> bfloat16 bits (..., in), exactly."""
    index = np.repeat(scales.astype(np.uint16) << np.uint16(8), BLOCK // 2, axis=-1)
    index |= codes
    return np.take(_pair_table(), index).view(np.uint16)
