"""What is packed, with all that belongs to it: a weight matrix, or one per expert, and cached keys or values."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from ..quantization import Quantization

NATIVE_AFFINE_BITS = (4, 6, 8)

GROUP = 32
"""Numbers of a key or value that share a scale and a bias."""


class Packed(NamedTuple):
    """The arrays of one linear layer, or of one per expert; plain where `quantization` is None.

    `weight` is (..., out, in) or packed (..., out, words), `scales` and `biases` (the offsets of an affine weight)
    are (..., out, groups), `bias` is (..., out).
    """

    weight: mx.array
    bias: mx.array | None = None
    scales: mx.array | None = None
    biases: mx.array | None = None
    quantization: Quantization | None = None

    @property
    def has_native_product(self) -> bool:
        """Whether the native kernels know this packing; they know all that the converter writes."""
        packing = self.quantization
        if packing is None:
            return self.weight.dtype in (mx.float32, mx.bfloat16, mx.float16)
        return packing.mode in ("mxfp4", "mxfp8") or (
            packing.mode == "affine" and packing.bits in NATIVE_AFFINE_BITS and self.scales is not None
        )

    def to_native(self, extension: Any) -> Any:
        """The same as the extension's own type."""
        packing = self.quantization
        if packing is None:
            return extension.Weight(self.weight, None, None, self.bias)
        return extension.Weight(
            self.weight, self.scales, self.biases, self.bias, packing.mode, packing.bits, packing.group_size
        )


class Codes(NamedTuple):
    """Keys or values (B, K, S, D) in affine groups of GROUP numbers, each code * scale + bias.

    `codes` (B, K, S, D * bits / 32) is uint32, `scales` and `biases` (B, K, S, D / GROUP) are float16, which adds less
    than a hundredth to the error of 8 bits, where bfloat16 would add a third.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array

    @property
    def packing(self) -> Quantization:
        """Of any of the three."""
        width = self.scales.shape[-1] * GROUP
        return Quantization(GROUP, self.codes.shape[-1] * 32 // width)
