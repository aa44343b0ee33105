"""MXFP4: 32 consecutive inputs share a scale 2^(s - 127), each is one of 16 four-bit codes (E2M1).

A block is 16 bytes of codes, two to a byte with the first input in the low nibble, and one scale byte. MLX packs
eight codes into a little-endian word, first code lowest: the same bytes. So released blocks are never unpacked on
their way into an MLX folder; decoding serves unpacked copies and checks, encoding serves BF16 fine-tunes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from . import microscaling
from .tensorfile import Array

BLOCK = microscaling.BLOCK
BAD_SCALE = 254  # from here on codes 3 to 6 overflow (254) or readers disagree about the meaning (255)

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]


@cache
def code_table() -> U16:
    """The bfloat16 bits of every code under every scale byte: (256, 16); exact below `BAD_SCALE`."""
    values = microscaling.value_table(microscaling.e2m1())
    bits: U16 = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return bits


@cache
def _pair_table() -> npt.NDArray[np.uint32]:
    """The two bfloat16 values of every code byte under every scale byte, as one word: (65536,)."""
    codes = code_table().astype(np.uint32)
    byte = np.arange(256)
    pairs: npt.NDArray[np.uint32] = codes[:, byte & 15] | codes[:, byte >> 4] << np.uint32(16)
    return pairs.reshape(-1)


def decode(codes: U8, scales: U8) -> U16:
    """Codes (..., in/2) and scales (..., in/32), both uint8 -> bfloat16 bits (..., in), exactly."""
    index = microscaling.scale_index(scales, BLOCK // 2)
    index |= codes
    return np.take(_pair_table(), index).view(np.uint16)


def encode(weights: U16) -> list[Array]:
    """Bfloat16 bits (..., in), finite -> words uint32 (..., in/8) and scale bytes (..., in/32)."""
    codes, scales = microscaling.quantize(weights, microscaling.e2m1())
    codes |= codes >> np.uint8(4)
    codes &= np.uint8(15)
    packed = codes[..., 0::2] | codes[..., 1::2] << np.uint8(4)
    return [packed.view("<u4"), scales]
