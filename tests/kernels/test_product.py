"""Native matrix products against float64, for every packing, shape and instruction set.

Bounds. In float32 each of n products and sums is rounded by at most 2^-24 of what is added up, so that errors are in
units of sum(|x| * |w|). Rounded activations are whole multiples of a step: the largest magnitude of their row (few
rows) or of their group of the weight's columns (many rows), by 8,355,000 or 32,512. Each is off by half a step at most,
and the result by no more than the sum of that times |w|. By Cauchy and Schwarz this is less than sqrt(columns) / 65024
of |x| * |w|, below 1e-3 up to 4000 columns; what is found is 2e-6, and 8e-6 beside outliers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gptoss_mlx import kernels
from gptoss_mlx.quantization import Quantization
from packings import (
    PACKINGS,
    Float,
    Matrix,
    Packing,
    activations,
    counts,
    kinds,
    matrix,
    outputs,
    packings,
    seeds,
    widths,
)

EXACT, FEW, MANY = PRECISIONS = (0, 1, 2)
COMMON = [packing for packing in PACKINGS if packing.number in ("bfloat16", "")]

FLOAT32 = 2e-6
"""Of sum(|x| * |w|). The largest error seen is 6e-7, in portable C++ and beside an outlier."""


def run(native: Any, x: Any, weight: Matrix, precision: int) -> NDArray[np.float32]:
    x = x if isinstance(x, mx.array) else mx.array(x)
    return np.array(native.product(x, weight.native(native), precision))


def wanted(x: NDArray[Any], weight: Matrix) -> Float:
    found: Float = x.astype(np.float64) @ weight.values.T + weight.offset
    return found


def steps(native: Any, x: NDArray[Any], weight: Matrix, precision: int) -> Float:
    """Half of what each activation may be rounded by: (rows, columns), or 0 where nothing is rounded."""
    sizes, group = np.abs(x.astype(np.float64)), weight.packing.group
    if precision == EXACT or not group:
        return np.zeros(x.shape)
    if precision == MANY:
        tops = sizes.reshape(len(x), -1, group).max(-1)
        return np.asarray(np.repeat(tops, group, axis=-1) / 65024)
    bits24 = native.isa() in ("avx512", "avx2", "portable")
    return np.asarray(np.broadcast_to(sizes.max(-1, keepdims=True) / (16_710_000 if bits24 else 65024), x.shape))


def allowed(native: Any, x: NDArray[Any], weight: Matrix, precision: int) -> Float:
    """The largest error that each result may have."""
    bound = FLOAT32 * (np.abs(x.astype(np.float64)) @ weight.size.T + np.abs(weight.offset))
    step = steps(native, x, weight, precision)
    return np.asarray(bound + step @ np.abs(weight.values).T + 1e-5 * step @ weight.size.T + 1e-37)


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float32], Matrix]:
    packing, seed = draw(packings), draw(seeds)
    shape = draw(outputs), draw(widths(packing))
    weight = matrix(packing, shape, seed, biased=draw(st.booleans()))
    return activations((draw(counts), shape[1]), draw(kinds), seed), weight


@given(problem=problems())
@settings(max_examples=120)
def test_every_packing_shape_and_precision(forced: Any, problem: tuple[Any, Matrix]) -> None:
    x, weight = problem
    for precision in PRECISIONS:
        found = run(forced, x, weight, precision)
        assert found.shape == (len(x), len(weight.values))
        assert (np.abs(found - wanted(x, weight)) <= allowed(forced, x, weight, precision)).all()


@pytest.mark.parametrize("packing", [packing for packing in PACKINGS if not packing.plain], ids=str)
def test_the_definitions_are_mlx_s(packing: Packing) -> None:
    weight = matrix(packing, (9, packing.width(5)), 3)
    quantization = Quantization(packing.group, packing.bits, packing.mode)
    assert weight.scales is not None
    found = kernels.dequantize_rows(weight.codes, weight.scales, weight.biases, quantization, mx.float32)
    assert (np.abs(np.array(found) - weight.values) <= 2**-23 * weight.size).all()


# Errors


@pytest.mark.parametrize("packing", COMMON, ids=str)
def test_activations_without_outliers_lose_little(forced: Any, packing: Packing) -> None:
    """At the width of the release: a row of results by its size, the largest error by that of what was multiplied."""
    weight = matrix(packing, (20, 2816 if packing.group == 128 else 2880), 1, biased=False)
    x = activations((20, weight.values.shape[1]), "normal", 1)
    exactly = wanted(x, weight)
    sizes = np.linalg.norm(x, axis=-1, keepdims=True) * np.linalg.norm(weight.values, axis=-1)
    for precision in PRECISIONS:
        error = run(forced, x, weight, precision) - exactly
        rows = np.linalg.norm(error, axis=-1) / np.linalg.norm(exactly, axis=-1)
        assert rows.max() < (5e-7 if precision == EXACT else 1e-4)
        assert (np.abs(error) / sizes).max() < (1e-7 if precision == EXACT else 5e-6)


@pytest.mark.parametrize("packing", COMMON, ids=str)
def test_an_outlier_takes_less_than_a_thousandth(forced: Any, packing: Packing) -> None:
    weight = matrix(packing, (40, packing.width(3968 // max(packing.group, 1))), 2, biased=False)
    x = activations((20, weight.values.shape[1]), "outlier", 2)
    sizes = np.linalg.norm(x, axis=-1, keepdims=True) * np.linalg.norm(weight.values, axis=-1)
    for precision in PRECISIONS:
        assert (np.abs(run(forced, x, weight, precision) - wanted(x, weight)) / sizes).max() < 1e-4


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8"])
@pytest.mark.parametrize(("byte", "factor"), [(0, 1e20), (1, 1e20), (2, 1e15), (60, 1.0), (200, 1.0), (220, 1e-15)])
def test_scales_of_any_size(forced: Any, mode: str, byte: int, factor: float) -> None:
    """The smallest is 2^-127, which float32 has no normal number for."""
    packing = next(p for p in PACKINGS if p.mode == mode)
    weight = matrix(packing, (33, 160), byte, biased=False, exponents=(byte, byte + 1))
    x = activations((17, 160), "normal", byte) * np.float32(factor)
    for precision in PRECISIONS:
        bound = allowed(forced, x, weight, precision) - 1e-37
        assert (np.abs(run(forced, x, weight, precision) - wanted(x, weight)) <= bound).all()


@pytest.mark.parametrize("byte", [230, 240, 253, 254, 255])
def test_scales_near_the_end_of_float32_give_no_wrong_numbers(forced: Any, byte: int) -> None:
    packing = next(p for p in PACKINGS if p.mode == "mxfp4")
    weight = matrix(packing, (33, 160), byte, biased=False, exponents=(byte, byte + 1))
    x = activations((17, 160), "normal", byte) * np.float32(1e-20)
    for precision in PRECISIONS:
        found = run(forced, x, weight, precision)
        right = np.abs(found - wanted(x, weight)) <= allowed(forced, x, weight, precision)
        assert (right | ~np.isfinite(found)).all()
        assert byte < 255 or not np.isfinite(found).any()  # the format's NaN


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-37, 1e-33])
def test_rows_at_the_other_end_vanish_at_worst(forced: Any, size: float) -> None:
    for packing in (p for p in PACKINGS if p.group == 32):
        weight = matrix(packing, (20, 96), 4)
        x = activations((3, 96), "normal", 4)
        x[1] = (x[1].astype(np.float64) * size).astype(np.float32)
        for precision in PRECISIONS:
            found = run(forced, x, weight, precision)
            assert (np.abs(found - wanted(x, weight)) <= allowed(forced, x, weight, precision)).all()


@given(packing=packings, value=st.sampled_from([np.nan, np.inf, -np.inf]), place=st.integers(0, 639), data=st.data())
@settings(max_examples=60)
def test_what_is_no_number_spoils_its_row_alone(
    forced: Any, packing: Packing, value: float, place: int, data: st.DataObject
) -> None:
    weight = matrix(packing, (35, packing.width(5 if packing.group else 100)), 6)
    x = activations((data.draw(counts), weight.values.shape[1]), "normal", 6)
    row = data.draw(st.integers(0, len(x) - 1))
    clean, others = wanted(x, weight), np.arange(len(x)) != row
    x[row, place % x.shape[1]] = value
    for precision in PRECISIONS:
        found = run(forced, x, weight, precision)
        assert not np.isfinite(found[row]).any()
        x[row] = 0
        assert (np.abs(found - clean)[others] <= allowed(forced, x, weight, precision)[others]).all()
        x[row, place % x.shape[1]] = value


# What a result does not depend on


@given(problem=problems())
@settings(max_examples=50)
def test_a_row_does_not_depend_on_the_others(forced: Any, problem: tuple[Any, Matrix]) -> None:
    x, weight = problem
    for precision in PRECISIONS:
        together = run(forced, x, weight, precision)
        for first, last in ((0, 1), (0, 2), (len(x) - 1, len(x)), (1, 4), (len(x) // 2, len(x))):
            np.testing.assert_array_equal(run(forced, x[first:last], weight, precision), together[first:last])


@given(problem=problems(), threads=st.integers(2, 5))
@settings(max_examples=50)
def test_threads_change_nothing(forced: Any, problem: tuple[Any, Matrix], threads: int) -> None:
    x, weight = problem
    for precision in PRECISIONS:
        results = []
        for count in (1, threads):
            forced.set_threads(count)
            results.append(run(forced, x, weight, precision))
        np.testing.assert_array_equal(results[0], results[1])


def test_large_matrices_on_all_threads(forced: Any) -> None:
    for packing in (p for p in COMMON if p.group in (0, 64) or p.mode == "mxfp4"):
        weight, x = matrix(packing, (1500, 512), 7), activations((3, 512), "normal", 7)
        for precision in PRECISIONS:
            results = []
            for count in (1, 2, 3):
                forced.set_threads(count)
                results.append(run(forced, x, weight, precision))
            np.testing.assert_array_equal(results[0], results[1])
            np.testing.assert_array_equal(results[0], results[2])
            assert (np.abs(results[0] - wanted(x, weight)) <= allowed(forced, x, weight, precision)).all()


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_views_are_what_they_show(native: Any, packing: Packing) -> None:
    weight = matrix(packing, (40, 256), 8)
    x = mx.array(activations((6, 256), "normal", 8))
    wide = mx.contiguous(mx.stack([x, x * 0], axis=1))

    def view(part: mx.array | None) -> mx.array | None:
        return None if part is None else mx.contiguous(mx.repeat(part, 2, axis=0).swapaxes(0, -1)).swapaxes(0, -1)[::2]

    codes = view(weight.codes)
    assert codes is not None
    viewed = replace(
        weight, codes=codes, scales=view(weight.scales), biases=view(weight.biases), bias=view(weight.bias)
    )
    for precision in PRECISIONS:
        expected = run(native, x, weight, precision)
        for same in (wide[:, 0], mx.contiguous(x.T).T):
            np.testing.assert_array_equal(run(native, same, weight, precision), expected)
        np.testing.assert_array_equal(run(native, x, viewed, precision), expected)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.int32])
def test_other_dtypes_of_activations_are_widened(native: Any, dtype: mx.Dtype) -> None:
    weight = matrix(PACKINGS[3], (40, 256), 9)
    x = (mx.array(activations((6, 256), "normal", 9)) * 5).astype(dtype)
    for precision in PRECISIONS:
        expected = run(native, x.astype(mx.float32), weight, precision)
        np.testing.assert_array_equal(run(native, x, weight, precision), expected)


def test_leading_axes_are_rows(native: Any) -> None:
    weight = matrix(PACKINGS[3], (40, 256), 9)
    x = activations((2, 1, 3, 256), "normal", 9)
    for precision in PRECISIONS:
        flat = run(native, x.reshape(-1, 256), weight, precision)
        np.testing.assert_array_equal(run(native, x, weight, precision), flat.reshape(2, 1, 3, 40))
        np.testing.assert_array_equal(run(native, x[0, 0, 0], weight, precision), flat[0])


def test_nothing_times_something_is_nothing(native: Any) -> None:
    for packing in PACKINGS:
        weight = matrix(packing, (40, 256), 9)
        for precision in PRECISIONS:
            assert run(native, mx.zeros((0, 256)), weight, precision).shape == (0, 40)
            assert run(native, mx.zeros((2, 0, 256)), weight, precision).shape == (2, 0, 40)
            if packing.plain:
                empty = replace(weight, bias=None, codes=weight.codes[:0])
                assert run(native, mx.zeros((3, 256)), empty, precision).shape == (3, 0)


def test_biases_of_any_float_dtype(native: Any) -> None:
    weight = matrix(PACKINGS[3], (40, 256), 9)
    x = activations((5, 256), "normal", 9)
    for dtype in (mx.float16, mx.bfloat16):
        assert weight.bias is not None
        narrow = replace(weight, bias=weight.bias.astype(dtype))
        assert (np.abs(run(native, x, narrow, EXACT) - wanted(x, narrow)) <= allowed(native, x, narrow, EXACT)).all()


# What is refused


FLOATS, WORDS, BYTES = mx.zeros((8, 64)), mx.zeros((8, 8), mx.uint32), mx.zeros((8, 2), mx.uint8)
REFUSED: list[tuple[Any, tuple[Any, ...], str]] = [
    ((3, 63), (FLOATS,), r"weight: shape \(8, 63\) expected, \(8, 64\) found"),
    ((), (FLOATS,), "x: at least one axis and one column expected"),
    ((3, 0), (mx.zeros((8, 0)),), "x: at least one axis and one column expected"),
    ((3, 64), (mx.zeros((2, 8, 64)),), r"weight: 2 axes expected, shape \(2, 8, 64\) found"),
    ((3, 64), (FLOATS, None, None, mx.zeros(7)), r"weight bias: shape \(8\) expected, \(7\) found"),
    ((3, 64), (FLOATS.astype(mx.int32),), "weight: no native product for this dtype"),
    ((3, 64), (FLOATS, None, None, None, "", 0, 32), "weight: a plain weight has no groups"),
    ((3, 64), (WORDS, BYTES, None, None, "mxfp5", 4, 32), "weight: no native product for mxfp5 with 4 bits"),
    ((3, 64), (WORDS, BYTES, BYTES, None, "affine", 3, 32), "weight: no native product for affine with 3 bits"),
    ((3, 64), (FLOATS, BYTES, None, None, "mxfp4", 4, 32), "weight: packed weights are uint32"),
    ((3, 64), (WORDS, BYTES, None, None, "mxfp4", 4, 0), "weight: no native product for groups of 0 in rows of 64"),
    ((3, 64), (WORDS, BYTES, None, None, "mxfp4", 4, 64), "weight: no native product for groups of 64 in rows of 64"),
    ((3, 48), (WORDS[:, :6], BYTES, None, None, "mxfp4", 4, 32), "weight: no native product for groups of 32"),
    ((3, 128), (WORDS, BYTES, None, None, "mxfp4", 4, 32), r"weight: shape \(8, 16\) expected, \(8, 8\) found"),
    ((3, 64), (WORDS, None, None, None, "mxfp4", 4, 32), "weight: scales, and biases of an affine weight, expected"),
    ((3, 64), (WORDS, BYTES, BYTES, None, "mxfp4", 4, 32), "weight: scales, and biases of an affine weight, expected"),
    ((3, 64), (WORDS, BYTES[:, :1], None, None, "mxfp4", 4, 32), r"weight scales: shape \(8, 2\) expected"),
    ((3, 64), (WORDS, FLOATS[:, :2], None, None, "mxfp4", 4, 32), "weight scales: uint8 exponents expected"),
    ((3, 64), (WORDS, BYTES, BYTES, None, "affine", 4, 32), "weight scales: float32, float16 or bfloat16 expected"),
    (
        (3, 64),
        (WORDS, FLOATS[:, :2], FLOATS[:, :2].astype(mx.float16), None, "affine", 4, 32),
        "weight biases: the dtype of the scales expected",
    ),
]


@pytest.mark.parametrize(("shape", "parts", "words"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(
    native: Any, shape: tuple[int, ...], parts: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        native.product(mx.zeros(shape), native.Weight(*parts), EXACT)
    assert "\n" not in str(caught.value)


def test_other_precisions_are_refused(native: Any) -> None:
    for precision in (-1, 3):
        with pytest.raises(ValueError, match="precision: 0 "):
            native.product(mx.zeros((3, 64)), native.Weight(FLOATS), precision)
    with pytest.raises(TypeError):
        native.product([1.0], native.Weight(FLOATS), EXACT)


def test_there_is_no_gradient(native: Any) -> None:
    weight = matrix(PACKINGS[0], (4, 8)).native(native)
    with pytest.raises(RuntimeError, match="has no gradient"):
        mx.eval(mx.grad(lambda x: native.product(x, weight, EXACT).sum())(mx.ones((2, 8))))
