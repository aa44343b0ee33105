"""Native RMSNorm and cutting into heads, against float64 NumPy."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.kernels import plain

ROUNDING = {mx.float32: 3e-7, mx.float16: 2**-11 * 1.001, mx.bfloat16: 2**-8 * 1.001}
DTYPES = st.sampled_from(list(ROUNDING))


@given(
    leading=st.lists(st.integers(1, 5), min_size=0, max_size=2),
    size=st.integers(1, 300),
    dtype=DTYPES,
    magnitude=st.floats(-6, 4),
    seed=st.integers(0, 99),
)
def test_rms_norm(leading: list[int], size: int, dtype: mx.Dtype, magnitude: float, seed: int, forced: Any) -> None:
    random = np.random.default_rng(seed)
    x = mx.array((random.normal(size=(*leading, size)) * 10**magnitude).astype(np.float32)).astype(dtype)
    weight = mx.array(random.normal(size=size).astype(np.float32)).astype(dtype)
    wide, factors = (np.array(a.astype(mx.float32)).astype(np.float64) for a in (x, weight))
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * factors
    found = forced.rms_norm(x, weight, 1e-5)
    assert found.dtype == mx.float32
    np.testing.assert_allclose(np.array(found), wanted, rtol=2e-6, atol=1e-30)


def test_rms_norm_of_a_long_prompt_on_all_threads(forced: Any) -> None:
    x, weight = mx.random.normal((2, 300, 384)), mx.random.normal((384,))
    results = []
    for count in (1, 3):
        forced.set_threads(count)
        results.append(np.array(forced.rms_norm(x, weight, 1e-5)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], np.array(plain.rms_norm(x, weight, 1e-5)), rtol=2e-5, atol=1e-6)


def test_rms_norm_of_views(forced: Any) -> None:
    x, weight = mx.random.normal((70, 5, 3)), mx.random.normal((70, 2))
    found = forced.rms_norm(x.transpose(2, 1, 0), weight[:, 1], 1e-5)
    wanted = forced.rms_norm(mx.contiguous(x.transpose(2, 1, 0)), mx.contiguous(weight[:, 1]), 1e-5)
    np.testing.assert_array_equal(np.array(found), np.array(wanted))
    with pytest.raises(ValueError, match="expected"):
        forced.rms_norm(x, weight[:, 1], 1e-5)


@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 9),
    count=st.integers(1, 5),
    half=st.integers(1, 40),
    dtype=DTYPES,
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_heads(
    batch: int, tokens: int, count: int, half: int, dtype: mx.Dtype, turned: bool, seed: int, forced: Any
) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(batch, tokens, count * 2 * half)).astype(np.float32)
    angles = random.uniform(-4, 4, size=(tokens, half))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    wanted = x.reshape(batch, tokens, count, 2 * half).swapaxes(1, 2).astype(np.float64)
    if turned:
        first, second = wanted[..., :half], wanted[..., half:]
        wanted = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    table = (mx.array(cos), mx.array(sin)) if turned else (None, None)
    found = forced.heads(mx.array(x), 2 * half, *table, dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), wanted, rtol=ROUNDING[dtype], atol=1e-6)


@settings(max_examples=10)
@given(tokens=st.integers(1, 200), width=st.sampled_from([8, 64]))
def test_heads_equal_the_plain_form_and_do_not_depend_on_threads(tokens: int, width: int, forced: Any) -> None:
    x = mx.random.normal((2, tokens, 8 * width))
    rope = (mx.random.normal((tokens + 3, width // 2))[2:-1], mx.random.normal((tokens, width // 2)))
    results = []
    for count in (1, 3):
        forced.set_threads(count)
        results.append(np.array(forced.heads(x, width, *rope, mx.float32)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], np.array(plain.heads(x, width, rope)), rtol=1e-6, atol=1e-6)


def test_float16_ends_where_it_ends(forced: Any) -> None:
    row = [1e5, -1e5, 65504.0, 65519.0, 65521.0, np.inf, -np.inf, np.nan, 1e-8, 6e-8, 1.0, -0.0, 2049.0, 3e38]
    x = mx.array([row * 3], mx.float32)[None]
    found = np.array(forced.heads(x, len(row), None, None, mx.float16))[0, 2, 0]
    wanted = np.clip(np.array(row, np.float32), -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(found, wanted)
    assert np.isnan(found[7])


def test_heads_refuse_what_does_not_fit(native: Any) -> None:
    x, table = mx.zeros((1, 3, 64)), mx.zeros((3, 16))
    for arguments in [
        (x, 48, None, None, mx.float32),
        (x[0], 32, None, None, mx.float32),
        (x, 32, table, None, mx.float32),
        (x, 32, table[:2], table, mx.float32),
        (x, 32, table, table.astype(mx.float16), mx.float32),
        (x, 32, None, None, mx.int32),
    ]:
        with pytest.raises(ValueError, match="expected"):
            native.heads(*arguments)
