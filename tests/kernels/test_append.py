"""Appending to a buffer in place, as numbers and as codes: what it writes, what it refuses, that nothing is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.cache import FullCache, QuantizedCache
from gptoss_mlx.kernels import GROUP, Codes, plain


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


@pytest.mark.parametrize("make", [FullCache, lambda: QuantizedCache(8, 32), lambda: QuantizedCache(4, 32)])
def test_decoding_does_not_copy_the_buffers(make: Callable[[], FullCache], native: Any) -> None:
    """Steps that are still being computed hold the buffers; MLX's own slice update would copy them."""
    cache, row = make(), mx.ones((1, 2, 1, 32))
    cache.attend(mx.ones((1, 2, 1000, 32)), *[mx.ones((1, 2, 1000, 32))] * 2, scale=1.0, sinks=mx.zeros(2))
    held = [cache.state]
    mx.eval(held)
    before, size = mx.get_active_memory(), cache.nbytes
    mx.reset_peak_memory()
    for _ in range(8):
        cache.attend(row, row, row, scale=1.0, sinks=mx.zeros(2))
        held.append(cache.state)
        mx.async_eval(held[-1])  # type: ignore[no-untyped-call]
    mx.eval(held)
    assert mx.get_peak_memory() - before < size / 4


# Codes


def empty(bits: int, *shape: int) -> Codes:
    """Buffers (B, K, room, ...) for vectors of D numbers; shape is (B, K, room, D)."""
    *rows, width = shape
    groups = [mx.zeros((*rows, width // GROUP), mx.float16) for _ in "sb"]
    return Codes(mx.zeros((*rows, width * bits // 32), mx.uint32), *groups)


@settings(max_examples=60)
@given(
    bits=st.sampled_from([8, 4]),
    tokens=st.integers(1, 70),
    width=st.sampled_from([32, 64, 160]),
    start=st.integers(0, 3),
    exponents=st.lists(st.integers(-30, 30), min_size=1, max_size=3),
    shift=st.sampled_from([0.0, 0.5, -3.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_codes_are_those_of_mlx_to_the_bit(
    bits: int, tokens: int, width: int, start: int, exponents: list[int], shift: float, seed: int, native: Any
) -> None:
    """Of numbers of all sizes, constant groups and such beyond the end of float16 included."""
    random = np.random.default_rng(seed)
    shape = (2, tokens, 3, width)
    numbers = (random.normal(size=shape) + shift) * 2.0 ** random.choice(exponents, size=(*shape[:3], 1))
    numbers[:, ::5] = numbers[:, ::5, :, :1]
    fresh = mx.array(numbers.astype(np.float32)).swapaxes(1, 2)  # not in the buffer's order
    found = native.append_codes(empty(bits, 2, 3, 80, width), fresh, start)
    for plane, wanted in zip(found, plain.quantize(fresh, bits), strict=True):
        raw = np.array(plane.view(mx.uint16))
        np.testing.assert_array_equal(raw[:, :, start : start + tokens], np.array(wanted.view(mx.uint16)))
        assert not raw[:, :, :start].any()
        assert not raw[:, :, start + tokens :].any()


@pytest.mark.parametrize("bits", [8, 4])
def test_numbers_that_are_none_do_no_harm_to_others(bits: int, native: Any) -> None:
    numbers = np.ones((1, 2, 3, 64), np.float32)
    numbers[0, 0, 1, 5], numbers[0, 1, 1, 40] = np.nan, np.inf
    found = Codes(*native.append_codes(empty(bits, 1, 2, 3, 64), mx.array(numbers), 0))
    back = np.array(plain.dequantize(found, mx.float32))
    assert (back[:, :, [0, 2]] == 1).all()
    assert (back[0, 0, 1, 32:] == 1).all()
    assert back[0, 1, 1, 40] == 65504


@pytest.mark.parametrize(("buffers", "fresh", "start"), [
    (empty(8, 1, 2, 10, 64)[:2], mx.zeros((1, 2, 4, 64)), 0),
    (empty(8, 1, 2, 10, 64), mx.zeros((1, 2, 4, 64)), 7),
    (empty(8, 1, 2, 10, 64), mx.zeros((1, 2, 4, 64)), -1),
    (empty(8, 1, 2, 10, 64), mx.zeros((1, 3, 4, 64)), 0),
    (empty(8, 1, 2, 10, 64), mx.zeros((1, 2, 4, 96)), 0),
    (empty(8, 1, 2, 10, 64), mx.zeros((1, 2, 4, 20)), 0),
    (empty(8, 1, 2, 10, 64), mx.zeros((1, 2, 4, 0)), 0),
    (empty(8, 1, 2, 10, 64), mx.zeros((2, 4, 64)), 0),
    ([plane.astype(mx.float32) for plane in empty(8, 1, 2, 10, 64)], mx.zeros((1, 2, 4, 64)), 0),
])  # fmt: skip
def test_it_refuses_codes_that_do_not_fit(buffers: Any, fresh: mx.array, start: int, native: Any) -> None:
    with pytest.raises(ValueError, match=r"^append_codes: .* expected"):
        native.append_codes(buffers, fresh, start)
