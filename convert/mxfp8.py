"""MXFP8: 32 consecutive inputs share a scale 2^(s - 127), each is an eight-bit float (E4M3)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from . import microscaling
from .tensorfile import Array, to_bfloat16

BLOCK = microscaling.BLOCK
U16 = npt.NDArray[np.uint16]


@cache
def _table() -> U16:
    """The bfloat16 bits of every code under every scale byte: (65536,); codes 127 and 255 are not numbers."""
    values = microscaling.value_table([*microscaling.e4m3(), np.inf])
    return to_bfloat16(values).reshape(-1)


def encode(weights: U16) -> list[Array]:
    """Bfloat16 bits (..., in), finite -> words uint32 (..., in/4) and scale bytes (..., in/32)."""
    codes, scales = microscaling.quantize(weights, microscaling.e4m3())
    return [codes.view("<u4"), scales]


def decode(words: Array, scales: npt.NDArray[np.uint8]) -> U16:
    """The reverse of `encode`: bfloat16 bits (..., in)."""
    index = microscaling.scale_index(scales, BLOCK)
    index |= words.view(np.uint8)
    return np.take(_table(), index)
