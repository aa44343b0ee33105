"""Rotary position embedding with YaRN, from a table.

The angles are computed in float64 and their cosines and sines rounded to float32 once. Multiplying a float32
position with a float32 frequency instead is off by 1e-3 rad at position 20,000 already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> npt.NDArray[np.float64]:
    """YaRN's inverse frequency of each of the head_dim / 2 pairs, in radians per position.

    Pairs that turn often keep their frequency, pairs that turn less than once over the original context are
    slowed down by the whole factor, those between are blended. The borders of the blend are fractional unless
    the configuration asks for `truncate`. Source: Peng et al., YaRN (2023), section 3.2; gpt-oss model card.
    """
    pairs = config.head_dim // 2
    plain = config.rope_theta ** (-np.arange(pairs) / pairs)
    if config.rope_factor <= 1:
        return np.asarray(plain, np.float64)

    def pair_with(turns: float) -> float:
        return pairs * math.log(config.rope_original_context / (turns * 2 * math.pi)) / math.log(config.rope_theta)

    low, high = pair_with(config.rope_beta_fast), pair_with(config.rope_beta_slow)
    if config.rope_truncate:
        low, high = math.floor(low), math.ceil(high)
    ramp = np.clip((np.arange(pairs) - low) / max(high - low, 1e-3), 0.0, 1.0)
    return np.asarray(plain * (1 - ramp) + plain / config.rope_factor * ramp, np.float64)


class Rope:
    """The table that queries and keys are rotated by (`kernels.heads`).

    It grows by doubling up to the model's last position; all layers share it.
    """

    FIRST = 4096

    def __init__(self, config: ModelConfig) -> None:
        self._frequencies = inverse_frequencies(config)
        self._factor = config.attention_factor
        self._rows = 0
        self._cos = self._sin = mx.zeros((0, config.head_dim // 2))

    def rows(self, runs: Sequence[tuple[int, int]]) -> tuple[mx.array, mx.array]:
        """Cosines and sines, times the attention factor, of some positions.

        Args:
            runs: one or more of (first position, how many).

        Returns:
            Two float32 arrays (all of the positions, head_dim / 2).
        """
        self._reach(max(first + length for first, length in runs))
        if len(runs) == 1:
            first, length = runs[0]
            return self._cos[first : first + length], self._sin[first : first + length]
        wanted = mx.array([first + i for first, length in runs for i in range(length)])
        return self._cos[wanted], self._sin[wanted]

    def _reach(self, end: int) -> None:
        if end <= self._rows:
            return
        rows = self.FIRST
        while rows < end:
            rows *= 2
        angles = np.arange(rows)[:, None] * self._frequencies
        self._cos = mx.array((np.cos(angles) * self._factor).astype(np.float32))
        self._sin = mx.array((np.sin(angles) * self._factor).astype(np.float32))
        self._rows = rows
