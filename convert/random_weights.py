"""Random weights with the magnitudes of a trained gpt-oss, drawn by tensor name.

A tensor's values depend on the seed, its Hugging Face name and the model's shapes alone, so every layout of a
checkpoint holds the same model. Large tensors are cut out of one pool of random numbers: writing then runs at the
speed of the disk. The pool's length has no factor in common with any row, so no two rows repeat each other.

Gains are chosen so that attention has a peak but not one key alone, sinks and windows matter, the top 4 experts
stand out, the clamp of SwiGLU is met now and then, and the residual stream grows by less than ten over 36 layers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gptoss_mlx.config import ModelConfig

from . import mxfp4
from .names import release_tensors
from .tensorfile import Array, to_bfloat16

_DIRECT = 1 << 18  # elements up to which a tensor is drawn on its own, not cut from the pool
_CHUNK = 1 << 22  # elements handed out at a time
_LARGEST_POOL = 1 << 24
_SMALL_EXPONENT = 100  # of the smallest normals in the pool, 2^-27

# ending of the name -> (mean, standard deviation); of most matrices: gain, the deviation is gain / sqrt(inputs)
_VECTORS = {
    "embed_tokens.weight": (0.0, 1.0),
    "input_layernorm.weight": (1.0, 0.1),
    "post_attention_layernorm.weight": (1.0, 0.1),
    "model.norm.weight": (1.0, 0.1),
    "sinks": (1.0, 1.0),
    "router.bias": (0.0, 0.3),
    "gate_up_proj_bias": (0.0, 0.2),
    "down_proj_bias": (0.0, 0.02),
    "o_proj.bias": (0.0, 0.05),
    "q_proj.bias": (0.0, 0.3),
    "k_proj.bias": (0.0, 0.3),
    "v_proj.bias": (0.0, 0.1),
}
_GAINS = {
    "q_proj.weight": 1.5,
    "k_proj.weight": 1.5,
    "v_proj.weight": 1.0,
    "o_proj.weight": 0.5,
    "router.weight": 1.5,
    "lm_head.weight": 2.0,
    "gate_up_proj_scales": 2.0,
    "down_proj_scales": 0.125,
}


class RandomWeights:
    """Every tensor of a random model, in pieces."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.config = config
        self.specs = release_tensors(config)
        self._seed = seed
        total = sum(math.prod(spec.shape) for spec in self.specs.values())
        self._pool_size = min(_LARGEST_POOL, 1 << max(total.bit_length(), 12))

    def pieces(self, name: str) -> Iterator[Array]:
        """The values of a release tensor in row-major order: bfloat16 bits (uint16) or bytes, piece by piece."""
        kind = name.rsplit("_", 1)[-1]
        if kind in ("blocks", "scales"):
            yield from self._packed(name, kind)
        elif math.prod(self.specs[name].shape) <= _DIRECT:
            yield self._drawn(name)
        else:
            yield from self._cut(name)

    def expert(self, name: str, index: int) -> npt.NDArray[np.uint16]:
        """One expert's matrix (out, in) as bfloat16 bits; `name` ends in gate_up_proj or down_proj."""
        blocks, scales = self.specs[name + "_blocks"], self.specs[name + "_scales"]
        _, rows, groups = scales.shape
        start = index * rows * groups
        parts = [
            np.concatenate(list(self._packed(spec.name, kind, start, start + rows * groups)))
            for spec, kind in ((blocks, "blocks"), (scales, "scales"))
        ]
        return mxfp4.decode(parts[0].reshape(rows, -1), parts[1].reshape(rows, groups))

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self._seed, zlib.crc32(name.encode())]))

    def _drawn(self, name: str) -> npt.NDArray[np.uint16]:
        shape = self.specs[name].shape
        mean, deviation = _moments(name, shape)
        values = self._generator(name).standard_normal(shape, np.float32)
        return to_bfloat16(values * np.float32(deviation) + np.float32(mean))

    def _cut(self, name: str) -> Iterator[npt.NDArray[np.uint16]]:
        """Normals of the pool, scaled by a power of two through their exponent bits."""
        shape = self.specs[name].shape
        shift = np.uint16(-round(math.log2(_moments(name, shape)[1])) << 7 & 0xFFFF)
        for piece in self._wrapped(self._normals, name, 0, math.prod(shape)):
            yield piece - shift

    def _packed(self, name: str, kind: str, first: int = 0, last: int | None = None) -> Iterator[Array]:
        scales = name.removesuffix(kind) + "scales"
        shape = self.specs[scales].shape
        last = math.prod(shape) if last is None else last
        codes, exponents = self._blocks
        shift = round(math.log2(_moments(scales, shape)[1]))
        pool = codes if kind == "blocks" else exponents + np.uint8(shift & 0xFF)
        yield from self._wrapped(pool, scales, first, last)

    def _wrapped(self, pool: Array, name: str, first: int, last: int) -> Iterator[Array]:
        offset = int(self._generator(name).integers(len(pool)))
        while first < last:
            start = (offset + first) % len(pool)
            count = min(last - first, len(pool) - start, _CHUNK)
            yield pool[start : start + count]
            first += count

    @cached_property
    def _normals(self) -> npt.NDArray[np.uint16]:
        size = _coprime(self._pool_size)
        bits = to_bfloat16(self._generator("pool of normals").standard_normal(size, np.float32))
        small = np.uint16(_SMALL_EXPONENT << 7)  # keeps zeros away: their exponent cannot be shifted
        return np.where(bits & np.uint16(0x7FFF) < small, small, bits)

    @cached_property
    def _blocks(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Codes (n, 16) and scale bytes (n,) of MXFP4 blocks of deviation about 1; the largest is a 4 or a 6."""
        size = _coprime(max(self._pool_size // 16, 256))
        draw = self._generator("pool of blocks")
        values = draw.standard_normal((size, mxfp4.BLOCK), np.float32)
        spread = np.exp2(0.4 * draw.standard_normal((size, 1), np.float32))
        largest = np.abs(values).max(axis=1, keepdims=True) * spread
        exponent = np.ceil(np.log2(largest / 6))
        values *= spread * np.exp2(-exponent)
        middles = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
        code = np.searchsorted(middles, np.abs(values)).astype(np.uint8)
        top = code.max(axis=1, keepdims=True)
        code += (code == top) & (top == 5)  # a block whose largest is 3 would have a finer scale
        code |= np.signbit(values).astype(np.uint8) << 3
        packed = code[:, 0::2] | code[:, 1::2] << np.uint8(4)
        return packed, (exponent[:, 0] + 127).astype(np.uint8)


def _moments(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor."""
    for ending, moments in _VECTORS.items():
        if name.endswith(ending):
            return moments
    inputs = shape[-1] * (mxfp4.BLOCK if name.endswith("scales") else 1)
    gain = next(gain for ending, gain in _GAINS.items() if name.endswith(ending))
    return 0.0, gain / math.sqrt(inputs)


def _coprime(size: int) -> int:
    """The first number from `size` on that has no factor 2, 3 or 5, as every row length does."""
    while math.gcd(size, 30) > 1:
        size += 1
    return size
