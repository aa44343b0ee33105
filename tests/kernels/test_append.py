"""Appending to a buffer in place: what it writes, what it refuses, and that nothing is copied."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache import FullCache


def test_it_writes_the_positions_and_no_others(native: Any) -> None:
    buffer = mx.zeros((2, 3, 10, 5), mx.float16)
    fresh = mx.random.normal((2, 4, 3, 5)).astype(mx.float16).swapaxes(1, 2)  # not in the buffer's order
    found = np.array(native.append(buffer, fresh, 5))
    np.testing.assert_array_equal(found[:, :, 5:9], np.array(fresh))
    assert not found[:, :, :5].any()
    assert not found[:, :, 9:].any()


@pytest.mark.parametrize(("fresh", "start"), [
    (mx.zeros((1, 2, 4, 8)), 7),
    (mx.zeros((1, 2, 4, 8)), -1),
    (mx.zeros((1, 3, 4, 8)), 0),
    (mx.zeros((1, 2, 4, 9)), 0),
    (mx.zeros((1, 2, 4, 8), mx.float16), 0),
])  # fmt: skip
def test_it_refuses_what_does_not_fit(fresh: mx.array, start: int, native: Any) -> None:
    with pytest.raises(ValueError, match=r"^append: .* expected"):
        native.append(mx.zeros((1, 2, 10, 8)), fresh, start)


def test_decoding_does_not_copy_the_buffers(native: Any) -> None:
    """Steps that are still being computed hold the buffers; MLX's own slice update would copy them."""
    cache, row = FullCache(), mx.ones((1, 2, 1, 4))
    keys, _ = cache.update_and_fetch(mx.ones((1, 2, 1000, 4)), mx.ones((1, 2, 1000, 4)))
    held = [keys]
    mx.eval(keys)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(8):
        held.append(cache.update_and_fetch(row, row)[0])
        mx.async_eval(held[-1])  # type: ignore[no-untyped-call]
    mx.eval(held)
    assert mx.get_peak_memory() - before < keys.nbytes / 2
