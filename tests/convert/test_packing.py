"""Our quantisers against MLX's, bit for bit, and MXFP4 against its definition."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from workbench import U16, mlx_array, numpy_array

from gptoss_mlx.convert import affine, microscaling, mxfp4, mxfp8
from gptoss_mlx.convert.tensorfile import to_bfloat16, to_float32

LARGEST = 0x7180  # bits of 2^100, from where on the converter refuses
WIDTH = 192


def _normal(seed: int, deviation: float = 0.02) -> U16:
    values = np.random.default_rng(seed).standard_normal((256, WIDTH), np.float32)
    return np.asarray(to_bfloat16(values * np.float32(deviation)))


@st.composite
def weights(draw: st.DrawFn, smallest: int = 0) -> U16:
    """Rows of bfloat16 bits: any at all, a few values over and over (ties, constants), or a narrow range."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 8)), WIDTH)
    match draw(st.sampled_from(["any", "few", "narrow", "sparse"])):
        case "any":
            magnitude = numbers.integers(smallest, LARGEST, shape)
        case "few":
            values = draw(st.lists(st.integers(smallest, LARGEST), min_size=1, max_size=6))
            magnitude = numbers.choice([*values, *(v + 0x80 for v in values if v + 0x80 < LARGEST)], shape)
        case "narrow":
            low = draw(st.integers(smallest, LARGEST - 0x400))
            magnitude = low + numbers.integers(0, draw(st.integers(1, 0x400)), shape)
        case _:
            magnitude = numbers.integers(0x3C00, 0x3E00, shape) * (numbers.random(shape) < 0.05)
    signs = numbers.integers(0, 2, shape) * draw(st.integers(0, 1)) | draw(st.integers(0, 1))
    return (magnitude | signs << 15).astype(np.uint16)


def _mlx_quantize(weights: U16, **options: Any) -> list[np.ndarray[Any, Any]]:
    with mx.stream(mx.cpu):
        return [numpy_array(part) for part in mx.quantize(mlx_array(weights), **options)]


def _safe_in_mlx(weights: U16) -> bool:
    """Whether no block is so small that MLX's CPU path wraps around to scale 255."""
    top = (weights & 0x7FFF).reshape(-1, 32).max(axis=1)
    return bool(np.all((top == 0) | (top >= 0x0500)))


def _same(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("group_size", [64, 32])
@pytest.mark.parametrize("bits", [8, 6, 4])
class TestAffine:
    @given(weights=weights())
    @example(weights=np.zeros((1, WIDTH), np.uint16))
    @example(weights=np.full((1, WIDTH), 0x8000, np.uint16))
    @example(weights=np.full((1, WIDTH), 0x3F80, np.uint16))
    @example(weights=np.arange(WIDTH, dtype=np.uint16)[None])
    def test_equals_mlx(self, bits: int, group_size: int, weights: U16) -> None:
        theirs = _mlx_quantize(weights, bits=bits, group_size=group_size)
        assert _same(affine.encode(weights, bits, group_size), theirs)

    def test_equals_mlx_on_weights_as_models_have_them(self, bits: int, group_size: int) -> None:
        for seed in range(4):
            theirs = _mlx_quantize(_normal(seed), bits=bits, group_size=group_size)
            assert _same(affine.encode(_normal(seed), bits, group_size), theirs)

    def test_decoding_is_within_a_rounding_of_mlx(self, bits: int, group_size: int) -> None:
        words, scales, biases = affine.encode(_normal(1), bits, group_size)
        wide = [mlx_array(part).astype(mx.float32) for part in (scales, biases)]
        exact = np.array(mx.dequantize(mx.array(words), wide[0], wide[1], bits=bits, group_size=group_size))
        ours = to_float32(affine.decode(words, scales, biases, bits, group_size))
        assert np.all(np.abs(ours - exact) <= np.abs(exact) * 2.0**-8)


@given(data=hnp.arrays(np.uint8, 96), bits=st.sampled_from([4, 6, 8]))
def test_packing_is_reversible(data: np.ndarray[Any, np.dtype[np.uint8]], bits: int) -> None:
    codes = data & np.uint8((1 << bits) - 1)
    packed = affine.pack(codes, bits)
    assert packed.size * 8 == codes.size * bits
    assert np.array_equal(affine.unpack(packed, bits), codes)


def test_blocks_do_not_depend_on_each_other() -> None:
    many = np.tile(_normal(3), (8, 1))  # more than one block of the loop
    assert np.array_equal(affine.encode(many, 8, 64)[0][-256:], affine.encode(_normal(3), 8, 64)[0])
    assert np.array_equal(mxfp8.encode(many)[0][-256:], mxfp8.encode(_normal(3))[0])


class TestMxfp4:
    def test_every_code_under_every_scale_equals_mlx_and_the_definition(self) -> None:
        codes = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every byte, so every code on both sides
        for scale in range(mxfp4.BAD_SCALE):
            scales = np.full((16, 1), scale, np.uint8)
            ours = mxfp4.decode(codes, scales)
            words = mx.array(codes.view(np.uint32))
            theirs = mx.dequantize(words, mx.array(scales), mode="mxfp4", group_size=32, bits=4)
            assert np.array_equal(ours, numpy_array(theirs.astype(mx.bfloat16)))
            nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(16, 32)
            table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
            wanted = np.where(nibbles & 8, -1, 1) * table[nibbles & 7] * 2.0 ** (scale - 127)
            wanted[np.abs(wanted) >= 2.0**128] *= np.inf  # codes 4 and 6 under scale 253
            assert np.array_equal(to_float32(ours).astype(np.float64), wanted)

    @given(
        codes=hnp.arrays(np.uint8, (3, 32)),
        scales=hnp.arrays(np.uint8, (3, 2), elements=st.integers(0, 252)),
    )
    def test_decoded_blocks_are_found_again(self, codes: Any, scales: Any) -> None:
        values = mxfp4.decode(codes, scales)
        words, found = mxfp4.encode(values)
        assert np.array_equal(mxfp4.decode(words.view(np.uint8), found), values)
        nibbles = np.stack([codes & 7, codes >> 4 & 7], axis=-1).reshape(3, 2, 32)
        canonical = nibbles.max(axis=-1) >= 6  # the largest is a 4 or a 6: one spelling only
        assert np.array_equal(found[canonical], scales[canonical])
        same = words.view(np.uint8).reshape(3, 2, 16) == codes.reshape(3, 2, 16)
        assert same[canonical].all()

    @given(weights=weights(smallest=0x0080))
    def test_equals_mlx_but_for_ties(self, weights: U16) -> None:
        assume(_safe_in_mlx(weights))
        words, scales = mxfp4.encode(weights)
        theirs = _mlx_quantize(weights, mode="mxfp4")
        assert np.array_equal(scales, theirs[1])
        step = np.repeat(np.exp2(scales.astype(np.float64) - 127), 32, axis=-1)
        scaled = np.abs(to_float32(weights)) / step
        ties = np.isin(scaled, [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])
        ours = to_float32(mxfp4.decode(words.view(np.uint8), scales))
        other = to_float32(mxfp4.decode(theirs[0].view(np.uint8), theirs[1]))
        assert np.array_equal(ours[~ties], other[~ties])
        assert np.all(np.isin(np.abs(ours / step)[ties], [0, 1, 2, 4]))  # the even codes

    def test_signs_of_zeros_are_kept(self) -> None:
        bits = np.zeros((1, 32), np.uint16)
        bits[0, ::2] = 0x8000
        words, scales = mxfp4.encode(bits)
        assert np.array_equal(mxfp4.decode(words.view(np.uint8), scales), bits)


class TestMxfp8:
    @given(weights=weights(smallest=0x0080))
    def test_equals_mlx(self, weights: U16) -> None:
        assume(_safe_in_mlx(weights))
        assert _same(mxfp8.encode(weights), _mlx_quantize(weights, mode="mxfp8"))

    def test_equals_mlx_on_weights_as_models_have_them(self) -> None:
        assert _same(mxfp8.encode(_normal(2)), _mlx_quantize(_normal(2), mode="mxfp8"))

    @given(weights=weights())
    def test_tiny_blocks_stay_finite(self, weights: U16) -> None:
        tiny = weights & np.uint16(0x81FF)
        decoded = to_float32(mxfp8.decode(*mxfp8.encode(tiny)))
        assert np.all(np.abs(decoded - to_float32(tiny)) <= np.abs(to_float32(tiny)) / 16 + 2.0**-136)

    def test_decoding_equals_mlx(self) -> None:
        codes = np.arange(256, dtype=np.uint8)
        codes[[127, 255]] = 0  # not numbers
        for scale in (1, 100, 127, 200, 240):
            scales = np.full((1, 8), scale, np.uint8)
            theirs = mx.dequantize(mx.array(codes.view(np.uint32)[None]), mx.array(scales), mode="mxfp8")
            assert np.array_equal(mxfp8.decode(codes.view("<u4")[None], scales), numpy_array(theirs))


def test_magnitudes_are_those_of_the_formats() -> None:
    assert microscaling.e2m1()[-1] == 6
    assert microscaling.e4m3()[-1] == 448
    assert microscaling.e4m3()[1] == 2.0**-9


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_rounds_as_mlx_does(value: float) -> None:
    array = np.array([value], np.float32)
    assert np.array_equal(to_bfloat16(array), numpy_array(mx.array(array).astype(mx.bfloat16)))
