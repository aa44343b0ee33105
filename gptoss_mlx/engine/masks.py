"""Masks: which tokens may come next, and how that is laid on logits.

A mask has one bit per token id. Laying it on 200,000 logits takes about 0.15 ms on a CPU: its bytes are looked up in
a table of eight summands each, because one addition is several times cheaper there than a selection per token.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint32]
"""One bit per token id, the lowest first: set where the token is allowed."""

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_BIAS_OF_BYTE = np.where(_BITS == 1, np.float32(0), np.float32(-np.inf))
"""For each byte of a mask, what is added to the logits of its eight tokens."""


def is_allowed(mask: Mask, token: int) -> bool:
    """Whether `mask` allows a token; False for ids that it does not know."""
    return 0 <= token < 32 * len(mask) and bool(mask[token >> 5] >> np.uint32(token & 31) & np.uint32(1))


def mask_bias(mask: Mask, size: int) -> npt.NDArray[np.float32]:
    """What to add to `size` logits: 0 where the mask allows a token, minus infinity everywhere else."""
    padded = np.zeros(-(-size // 8), np.uint8)  # a model has more logits than its tokenizer has ids
    known = mask.view(np.uint8)[: len(padded)]
    padded[: len(known)] = known
    return np.take(_BIAS_OF_BYTE, padded, axis=0).reshape(-1)[:size]


def apply_mask(logits: mx.array, mask: Mask) -> mx.array:
    """`logits` (..., vocabulary) with minus infinity for every token that the mask does not allow."""
    return logits + mx.array(mask_bias(mask, logits.shape[-1])).astype(logits.dtype)
