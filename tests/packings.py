"""Random weight matrices in every packing, decoded in float64 by the definition of each format.

The codes are random bits rather than what a quantizer makes of random numbers, so that every code occurs. Nothing here
shares code with the package or with MLX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Float = NDArray[np.float64]

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
NUMBERS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def e4m3() -> Float:
    """The 256 values of an 8-bit float with 4 exponent bits (bias 7) and 3 mantissa bits."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, (codes & 7) / 8
    magnitude = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    values: Float = np.where(codes & 128, -magnitude, magnitude)
    return values


def as_number(values: NDArray[Any], number: str) -> tuple[mx.array, Float]:
    """Values rounded to a float dtype, for MLX and in float64."""
    array = mx.array(values.astype(np.float32)).astype(NUMBERS[number])
    return array, np.array(array.astype(mx.float32)).astype(np.float64)


@dataclass(frozen=True)
class Packing:
    """How a matrix is stored; `number` is the dtype of a plain matrix or of an affine one's scales and biases."""

    mode: str
    bits: int
    group: int
    number: str

    def __str__(self) -> str:
        return "-".join(str(part) for part in (self.mode or "plain", self.bits, self.group, self.number) if part)

    @property
    def plain(self) -> bool:
        return self.mode == ""

    def width(self, units: int) -> int:
        """A number of columns that this packing can have: `units` of them, or `units` groups."""
        return units if self.plain else units * self.group


PACKINGS = [
    *(Packing("", 0, 0, number) for number in NUMBERS),
    *(Packing("affine", bits, group, number) for bits in (4, 6, 8) for group in (32, 64, 128) for number in NUMBERS),
    Packing("mxfp4", 4, 32, ""),
    Packing("mxfp8", 8, 32, ""),
]


@dataclass(frozen=True)
class Matrix:
    """One matrix, or one per expert: MLX's arrays, and in float64 the values and the sizes of what they add up from.

    `size` is |scale| * code + |offset| for affine packings and |value| otherwise: float32 rounds in its units.
    """

    packing: Packing
    codes: mx.array
    scales: mx.array | None
    biases: mx.array | None
    bias: mx.array | None
    values: Float
    size: Float

    @cached_property
    def offset(self) -> Float:
        """The bias in float64; zeros where there is none."""
        if self.bias is None:
            return np.zeros(self.values.shape[:-1])
        return np.array(self.bias.astype(mx.float32)).astype(np.float64)

    def native(self, extension: Any) -> Any:
        p = self.packing
        return extension.Weight(self.codes, self.scales, self.biases, self.bias, p.mode, p.bits, p.group)


def pack(codes: NDArray[Any], bits: int) -> mx.array:
    """Codes (..., cols) to words (..., cols * bits / 32), the lowest bits first."""
    spread = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    rows = np.packbits(spread.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")
    return mx.array(np.ascontiguousarray(rows).view("<u4"))


def matrix(
    packing: Packing,
    shape: Sequence[int],
    seed: int = 0,
    *,
    biased: bool = True,
    exponents: tuple[int, int] = (118, 126),
) -> Matrix:
    """A random matrix (..., rows, cols); `exponents` bounds the bytes of microscaling formats, the last excluded."""
    random = np.random.default_rng(seed)
    bias = as_number(random.normal(size=shape[:-1]), "float32")[0] if biased else None
    if packing.plain:
        array, values = as_number(random.normal(size=shape), packing.number)
        return Matrix(packing, array, None, None, bias, values, np.abs(values))
    codes = random.integers(0, 1 << packing.bits, shape)
    groups = (*shape[:-1], shape[-1] // packing.group)
    if packing.mode == "affine":
        top = (1 << packing.bits) - 1
        scales, s = as_number(random.normal(size=groups) / top, packing.number)
        biases, b = as_number(random.normal(size=groups), packing.number)
        wide: Float = codes.astype(np.float64)
        s, b = np.repeat(s, packing.group, axis=-1), np.repeat(b, packing.group, axis=-1)
        packed = pack(codes, packing.bits)
        return Matrix(packing, packed, scales, biases, bias, s * wide + b, np.abs(s) * wide + np.abs(b))
    if packing.mode == "mxfp8":
        codes = np.where(codes & 127 == 127, 0, codes)  # no number
    exponent = random.integers(*exponents, groups)
    table = FP4 if packing.mode == "mxfp4" else e4m3()
    values = table[codes] * np.repeat(2.0 ** (exponent - 127.0), 32, axis=-1)
    return Matrix(
        packing, pack(codes, packing.bits), mx.array(exponent.astype(np.uint8)), None, bias, values, np.abs(values)
    )


KINDS = ("normal", "outlier", "zero", "huge", "tiny", "equal")


def activations(shape: Sequence[int], kind: str, seed: int = 0) -> NDArray[np.float32]:
    """Rows of float32 of some kind: all near one size, with a thousandfold outlier each, all 0, about 1e15 or 1e-15,
    or all equal."""
    random = np.random.default_rng(seed + 1)
    x = random.normal(size=shape)
    if kind == "outlier":
        np.put_along_axis(x, random.integers(0, shape[-1], (*shape[:-1], 1)), 1000.0, axis=-1)
    scaled = {"zero": 0.0, "huge": 1e15, "tiny": 1e-15}
    return np.asarray(np.full(shape, 0.7) if kind == "equal" else x * scaled.get(kind, 1.0)).astype(np.float32)


packings = st.sampled_from(PACKINGS)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 1 << 16)
counts = st.one_of(st.integers(1, 9), st.integers(10, 40))
"""Rows of activations."""
outputs = st.one_of(st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 64, 130]), st.integers(1, 140))


@st.composite
def widths(draw: st.DrawFn, packing: Packing) -> int:
    """Columns: a single group, a few, many, never only round numbers."""
    if packing.plain:
        return draw(st.one_of(st.integers(1, 70), st.integers(71, 1100)))
    return packing.width(draw(st.one_of(st.integers(1, 6), st.integers(7, 1280 // packing.group))))
