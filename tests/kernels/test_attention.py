"""Native attention against float64 NumPy: shapes, dtypes, codes, windows, sinks, views, instruction sets, threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gptoss_mlx.kernels import Codes, plain

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
PROMISED = 2e-6


@dataclass(frozen=True)
class Case:
    """One call: sizes as in `attend`, and how the arrays lie."""

    batch: int = 1
    kv_heads: int = 1
    group: int = 8
    tokens: int = 1
    earlier: int = 0
    width: int = 64
    window: int = 0
    dtype: mx.Dtype = mx.float32
    seed: int = 0

    @property
    def arrays(self) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Queries, keys, values and sinks; keys and values are views of larger buffers that end in not-a-numbers."""
        random = np.random.default_rng(self.seed)
        heads, length = self.kv_heads * self.group, self.earlier + self.tokens
        queries = mx.array(random.normal(size=(self.batch, heads, self.tokens, self.width)).astype(np.float32))
        keys, values = (self._view(random.normal(size=(self.batch, self.kv_heads, length, self.width))) for _ in "kv")
        return queries, keys, values, mx.array(random.normal(size=heads).astype(np.float32))

    def packed(self, bits: int) -> tuple[mx.array, Codes, Codes, mx.array]:
        """The same with codes for keys and values, views as well."""
        queries, keys, values, sinks = self.arrays
        packed_keys, packed_values = (Codes(*map(framed, plain.quantize(a, bits))) for a in (keys, values))
        return queries, packed_keys, packed_values, sinks

    def _view(self, numbers: NDArray[np.float64]) -> mx.array:
        length = numbers.shape[2]
        buffer = np.full((*numbers.shape[:2], length + 5, self.width), np.nan, np.float32)
        buffer[:, :, 2 : 2 + length] = numbers
        return mx.array(buffer).astype(self.dtype)[:, :, 2 : 2 + length]


def framed(array: mx.array) -> mx.array:
    """The same as a view of a larger buffer."""
    return mx.pad(array, [(0, 0), (0, 0), (3, 2), (0, 0)], constant_values=7)[:, :, 3:-2]


CASES = st.builds(
    Case,
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 5, 8, 9]),
    tokens=st.integers(1, 40),
    earlier=st.one_of(st.just(0), st.integers(0, 130), st.integers(500, 1100)),
    width=st.sampled_from([2, 6, 16, 20, 33, 64, 72, 128]),
    window=st.sampled_from([0, 1, 2, 16, 100, 128, 4096]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)


def exact(
    queries: mx.array, keys: mx.array, values: mx.array, sinks: mx.array, scale: float, window: int
) -> NDArray[np.float64]:
    """The definition, in float64: (B, T, H * D)."""
    q, k, v, s = (np.array(a.astype(mx.float32)).astype(np.float64) for a in (queries, keys, values, sinks))
    (batch, heads, tokens, width), length = q.shape, k.shape[2]
    k, v = (np.repeat(a, heads // k.shape[1], axis=1) for a in (k, v))
    here, there = np.arange(length - tokens, length)[:, None], np.arange(length)[None]
    seen = (there <= here) & (there > here - (window or length))
    scores = np.where(seen, q @ k.swapaxes(-1, -2) * scale, -np.inf)
    sink = s[None, :, None, None]
    top = np.maximum(scores.max(-1, keepdims=True), sink)
    shares = np.exp(scores - top)
    out = shares @ v / (shares.sum(-1, keepdims=True) + np.exp(sink - top))
    return np.asarray(out.swapaxes(1, 2).reshape(batch, tokens, heads * width))


def error(found: mx.array, wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.array(found) - wanted) / max(np.linalg.norm(wanted), 1e-30))


@settings(max_examples=40)
@given(case=CASES)
def test_it_is_attention(case: Case, forced: Any) -> None:
    arrays = case.arrays
    assert error(forced.attend(*arrays, 0.25, case.window), exact(*arrays, 0.25, case.window)) < PROMISED


@settings(max_examples=15)
@given(case=CASES)
def test_a_row_depends_on_itself_alone(case: Case, forced: Any) -> None:
    """Not on the threads, nor on the rows beside it: token by token equals all at once, bit for bit."""
    queries, keys, values, sinks = case.arrays
    forced.set_threads(1)
    whole = np.array(forced.attend(queries, keys, values, sinks, 0.25, case.window))
    forced.set_threads(3)
    np.testing.assert_array_equal(np.array(forced.attend(queries, keys, values, sinks, 0.25, case.window)), whole)
    for t in {0, case.tokens // 2, case.tokens - 1}:
        end = case.earlier + t + 1
        one = forced.attend(queries[:, :, t : t + 1], keys[:, :, :end], values[:, :, :end], sinks, 0.25, case.window)
        np.testing.assert_array_equal(np.array(one)[:, 0], whole[:, t])


@settings(max_examples=25)
@given(case=CASES, dropped=st.integers(0, 20))
def test_keys_before_the_window_change_no_bit(case: Case, dropped: int, forced: Any) -> None:
    """Nor does their absence, if the first key that is there says where it stands."""
    queries, keys, values, sinks = case.arrays
    window = case.window or keys.shape[2]
    first = min(64 * dropped, max(0, case.earlier - window + 1)) // 64 * 64
    whole = np.array(forced.attend(queries, keys, values, sinks, 0.25, window))
    part = forced.attend(queries, keys[:, :, first:], values[:, :, first:], sinks, 0.25, window, first)
    np.testing.assert_array_equal(np.array(part), whole)


@pytest.mark.parametrize("first", [-64, 1, 63])
def test_a_first_key_between_the_steps_is_refused(first: int, forced: Any) -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        forced.attend(*Case(earlier=5).arrays, 0.25, 0, first)


@pytest.mark.parametrize("case", [
    Case(kv_heads=8, tokens=130, earlier=600, dtype=mx.float16),
    Case(kv_heads=8, tokens=300, window=128, dtype=mx.float16),
    Case(batch=3, kv_heads=2, group=4, tokens=1, earlier=2100, dtype=mx.bfloat16),
])  # fmt: skip
def test_the_shapes_of_the_real_model(case: Case, forced: Any) -> None:
    arrays = case.arrays
    assert error(forced.attend(*arrays, 0.125, case.window), exact(*arrays, 0.125, case.window)) < PROMISED


@pytest.mark.parametrize("sink", [-np.inf, -1e30, -100.0, 0.0, 50.0])
def test_sinks_of_any_size(sink: float, forced: Any) -> None:
    queries, keys, values, sinks = Case(tokens=20, earlier=600).arrays
    sinks = mx.full(sinks.shape, sink)
    found = forced.attend(queries, keys, values, sinks, 0.25, 16)
    wanted = exact(queries, keys, values, sinks, 0.25, 16)
    np.testing.assert_allclose(np.array(found), wanted, atol=1e-5 * np.abs(wanted).max() + 1e-38)


@pytest.mark.parametrize("sink", [1e4, 1e30, np.inf])
def test_a_sink_that_takes_everything_leaves_nothing(sink: float, forced: Any) -> None:
    queries, keys, values, sinks = Case(tokens=3, earlier=600).arrays
    assert not np.array(forced.attend(queries, keys, values, mx.full(sinks.shape, sink), 0.25, 0)).any()


@pytest.mark.parametrize("factor", [1e-20, 30.0, 1e4])
def test_scores_of_any_size(factor: float, forced: Any) -> None:
    queries, keys, values, sinks = Case(tokens=4, earlier=700).arrays
    wanted = exact(queries * factor, keys, values, sinks, 0.25, 0)
    assert error(forced.attend(queries * factor, keys, values, sinks, 0.25, 0), wanted) < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_of_any_kind(dtype: mx.Dtype, forced: Any) -> None:
    """Every axis out of order or with gaps, the last one included; sinks and queries as well."""
    queries, keys, values, sinks = Case(batch=2, kv_heads=2, tokens=9, earlier=100, dtype=dtype).arrays
    wanted = exact(queries, keys, values, sinks, 0.25, 0)
    mixed_sinks = mx.stack([sinks, sinks], axis=1)[:, 0]
    for order in [(0, 2, 1, 3), (2, 1, 0, 3), (3, 2, 1, 0), (0, 1, 3, 2)]:
        views = [mx.contiguous(a.transpose(order)).transpose(np.argsort(order).tolist()) for a in (queries, keys)]
        assert error(forced.attend(*views, values, mixed_sinks, 0.25, 0), wanted) < PROMISED


def test_keys_and_values_of_different_dtypes(forced: Any) -> None:
    queries, keys, values, sinks = Case(tokens=5, earlier=80).arrays
    keys, values = keys.astype(mx.float16), values.astype(mx.bfloat16)
    assert error(forced.attend(queries, keys, values, sinks, 0.25, 0), exact(queries, keys, values, sinks, 0.25, 0)) < (
        PROMISED
    )


@settings(max_examples=20)
@given(case=CASES)
def test_the_plain_form_is_the_same(case: Case, native: Any) -> None:
    queries, keys, values, sinks = case.arrays
    found = native.attend(queries, keys, values, sinks, 0.25, case.window)
    wanted = plain.attend(queries, keys, values, scale=0.25, sinks=sinks, window=case.window)
    assert error(found, np.array(wanted).astype(np.float64)) < 1e-5


def shaped(*sizes: int) -> mx.array:
    return mx.zeros(sizes)


@pytest.mark.parametrize(("queries", "keys", "values", "sinks"), [
    (shaped(1, 8, 1, 64), shaped(1, 3, 5, 64), shaped(1, 3, 5, 64), shaped(8)),
    (shaped(1, 8, 1, 64), shaped(1, 2, 5, 64), shaped(1, 2, 6, 64), shaped(8)),
    (shaped(1, 8, 6, 64), shaped(1, 2, 5, 64), shaped(1, 2, 5, 64), shaped(8)),
    (shaped(2, 8, 1, 64), shaped(1, 2, 5, 64), shaped(1, 2, 5, 64), shaped(8)),
    (shaped(1, 8, 1, 32), shaped(1, 2, 5, 64), shaped(1, 2, 5, 64), shaped(8)),
    (shaped(1, 8, 1, 64), shaped(1, 2, 5, 64), shaped(1, 2, 5, 64), shaped(2)),
    (shaped(8, 1, 64), shaped(1, 2, 5, 64), shaped(1, 2, 5, 64), shaped(8)),
    (shaped(1, 8, 1, 64), shaped(1, 2, 5, 64).astype(mx.int32), shaped(1, 2, 5, 64), shaped(8)),
])  # fmt: skip
def test_it_refuses_what_does_not_fit(
    queries: mx.array, keys: mx.array, values: mx.array, sinks: mx.array, native: Any
) -> None:
    with pytest.raises(ValueError, match="expected"):
        native.attend(queries, keys, values, sinks, 1.0, 0)


# Codes

PACKED = st.builds(
    replace, CASES, width=st.sampled_from([32, 64, 96, 128]), dtype=st.just(mx.float32), window=st.sampled_from([0, 16])
)
BITS = st.sampled_from([8, 4])


def exact_codes(queries: mx.array, keys: Codes, values: Codes, sinks: mx.array, window: int) -> NDArray[np.float64]:
    all_keys, all_values = (plain.dequantize(packed, mx.float32) for packed in (keys, values))
    return exact(queries, all_keys, all_values, sinks, 0.25, window)


@settings(max_examples=40)
@given(case=PACKED, bits=BITS)
def test_codes_are_attended_to_as_what_they_stand_for(case: Case, bits: int, forced: Any) -> None:
    arrays = case.packed(bits)
    assert error(forced.attend_codes(*arrays, 0.25, case.window), exact_codes(*arrays, case.window)) < PROMISED


@settings(max_examples=15)
@given(case=PACKED, bits=BITS)
def test_with_codes_too_a_row_depends_on_itself_alone(case: Case, bits: int, forced: Any) -> None:
    queries, keys, values, sinks = case.packed(bits)
    forced.set_threads(1)
    whole = np.array(forced.attend_codes(queries, keys, values, sinks, 0.25, case.window))
    forced.set_threads(3)
    again = forced.attend_codes(queries, keys, values, sinks, 0.25, case.window)
    np.testing.assert_array_equal(np.array(again), whole)
    for t in {0, case.tokens // 2, case.tokens - 1}:
        end = case.earlier + t + 1
        seen = ([plane[:, :, :end] for plane in packed] for packed in (keys, values))
        one = forced.attend_codes(queries[:, :, t : t + 1], *seen, sinks, 0.25, case.window)
        np.testing.assert_array_equal(np.array(one)[:, 0], whole[:, t])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", [
    Case(kv_heads=8, tokens=130, earlier=600),
    Case(kv_heads=8, tokens=1, earlier=4200),
    Case(batch=2, kv_heads=2, group=4, tokens=3, earlier=2100),
])  # fmt: skip
def test_codes_in_the_shapes_of_the_real_model(case: Case, bits: int, forced: Any) -> None:
    arrays = case.packed(bits)
    assert error(forced.attend_codes(*arrays, 0.25, 0), exact_codes(*arrays, 0)) < PROMISED


@settings(max_examples=30)
@given(case=PACKED, bits=BITS)
def test_the_plain_form_of_codes_is_the_same(case: Case, bits: int) -> None:
    """Few query tokens multiply with codes, many with what they stand for."""
    queries, keys, values, sinks = case.packed(bits)
    found = plain.attend_codes(queries, keys, values, scale=0.25, sinks=sinks, window=case.window)
    assert error(found, exact_codes(queries, keys, values, sinks, case.window)) < 1e-5


@pytest.mark.parametrize("damage", [
    lambda q, k, v, s: (q, k[:2], v, s),
    lambda q, k, v, s: (q, k, (), s),
    lambda q, k, v, s: (q[..., :32], k, v, s),
    lambda q, k, v, s: (q, (k[0].astype(mx.int32), *k[1:]), v, s),
    lambda q, k, v, s: (q, (k[0], k[1].astype(mx.float32), k[2]), v, s),
    lambda q, k, v, s: (q, (k[0], k[1][..., :1], k[2]), v, s),
    lambda q, k, v, s: (q, k, (v[0], v[1], v[2][:, :, :3]), s),
    lambda q, k, v, s: (q, [plane[:, :, :3] for plane in k], v, s),
    lambda q, k, v, s: (q, k, v, s[:3]),
])  # fmt: skip
def test_it_refuses_codes_that_do_not_fit(damage: Callable[..., tuple[Any, ...]], native: Any) -> None:
    with pytest.raises(ValueError, match=r"^attend: .* expected"):
        native.attend_codes(*damage(*Case(tokens=2, earlier=3).packed(8)), 0.25, 0)


def test_it_refuses_codes_that_are_scattered(native: Any) -> None:
    queries, keys, values, sinks = Case(earlier=9).packed(8)
    scattered = mx.contiguous(keys.codes.swapaxes(2, 3)).swapaxes(2, 3)
    with pytest.raises(RuntimeError, match="do not lie side by side"):
        mx.eval(native.attend_codes(queries, keys._replace(codes=scattered), values, sinks, 0.25, 0))
