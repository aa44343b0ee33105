"""The caches by themselves: what they keep, how they grow, which keys they allow."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.cache import STEP, FullCache, SlidingCache, window_mask


def numbered(first: int, count: int) -> mx.array:
    """(1, 2, count, 4) arrays whose rows carry their position."""
    return mx.broadcast_to(mx.arange(first, first + count)[None, None, :, None], (1, 2, count, 4)).astype(mx.float32)


def positions(keys: mx.array) -> list[int]:
    return [int(x) for x in np.array(keys)[0, 0, :, 0]]


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_full_keeps_everything(lengths: list[int]) -> None:
    cache, offset = FullCache(), 0
    for length in lengths:
        keys, values = cache.update_and_fetch(numbered(offset, length), -numbered(offset, length))
        offset += length
        assert positions(keys) == list(range(offset))
        assert positions(-values) == list(range(offset))
        assert cache.offset == offset


def test_full_copies_each_token_a_bounded_number_of_times() -> None:
    cache, copied, held = FullCache(), 0, 0
    for _ in range(400):
        cache.update_and_fetch(numbered(0, 100), numbered(0, 100))
        now = cache.nbytes
        if now != held:
            copied, held = copied + held, now
    assert copied < 3 * held
    assert held <= 1.5 * cache.offset * 2 * 2 * 4 * 4 + STEP * 64


@given(st.integers(1, 9), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_sliding_sees_exactly_its_window(window: int, lengths: list[int]) -> None:
    cache, offset = SlidingCache(window), 0
    for length in lengths:
        mask = cache.mask(length)
        keys, _ = cache.update_and_fetch(numbered(offset, length), numbered(offset, length))
        held = positions(keys)
        for row in range(length):
            here = offset + row
            seen = (
                held if mask is None else [p for p, allowed in zip(held, np.array(mask)[row], strict=True) if allowed]
            )
            assert seen == list(range(max(0, here - window + 1), here + 1))
        offset += length
        assert cache.kept == min(offset, window - 1)


def test_the_window_counts_the_current_token() -> None:
    mask = np.array(window_mask(130, 0, 128))
    assert mask[129].sum() == 128
    assert mask[129, 2]
    assert not mask[129, 1]
