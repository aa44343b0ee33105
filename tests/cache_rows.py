"""Keys and values whose rows carry their position, for tests of caches."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

WIDTH = 32


def numbered(first: int, count: int) -> mx.array:
    """(1, 2, count, WIDTH) arrays whose rows carry their position; codes hold it exactly up to 2048."""
    rows = mx.arange(first, first + count).astype(mx.float32)[None, None, :, None]
    return mx.broadcast_to(rows, (1, 2, count, WIDTH))


def positions(keys: mx.array) -> list[int]:
    return [int(x) for x in np.array(keys)[0, 0, :, 0]]


def random_arrays(tokens: int, seed: int = 0) -> list[mx.array]:
    """Queries of eight heads, keys and values of two."""
    random = np.random.default_rng(seed)
    return [mx.array(random.normal(size=(1, heads, tokens, WIDTH)).astype(np.float32)) for heads in (8, 2, 2)]
