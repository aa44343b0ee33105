"""A weight matrix, or one per expert, with all that belongs to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from ..quantization import Quantization

NATIVE_AFFINE_BITS = (4, 6, 8)


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
