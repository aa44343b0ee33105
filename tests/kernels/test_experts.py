"""The fused expert block and the router's choice, against float64 and against the composed forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gptoss_mlx.kernels import plain
from gptoss_mlx.quantization import Quantization
from oracle import ALPHA, swiglu
from packings import PACKINGS, Float, Matrix, Packing, activations, matrix, packings, seeds

EXACT, FEW, MANY = PRECISIONS = (0, 1, 2)
LIMIT = 7.0
MXFP4 = next(packing for packing in PACKINGS if packing.mode == "mxfp4")
COMMON = [packing for packing in PACKINGS if packing.number in ("bfloat16", "")]


@dataclass(frozen=True)
class Block:
    """One expert block: gate, up (E, inner, hidden) and down (E, hidden, inner)."""

    gate: Matrix
    up: Matrix
    down: Matrix

    def run(self, native: Any, x: Any, chosen: Any, shares: Any, precision: int) -> NDArray[np.float32]:
        parts = (mx.array(part) for part in (x, chosen, shares))
        weights = (part.native(native) for part in (self.gate, self.up, self.down))
        return np.array(native.experts(*parts, *weights, LIMIT, ALPHA, precision))

    def wanted(self, x: NDArray[Any], chosen: NDArray[Any], shares: NDArray[Any]) -> tuple[Float, float]:
        """The sums in float64, and the size of what they add up from."""
        out = np.zeros(x.shape)
        size = 0.0
        for place in np.ndindex(chosen.shape):
            e, row = chosen[place], x[place[:-1]].astype(np.float64)
            both = [part.values[e] @ row + part.offset[e] for part in (self.gate, self.up)]
            with np.errstate(over="ignore"):  # e to a large number, which it divides by
                inner = swiglu(np.stack(both, axis=-1).reshape(-1), LIMIT)
            down = self.down.values[e] @ inner + self.down.offset[e]
            out[place[:-1]] += shares[place].astype(np.float64) * down
            reach = np.linalg.norm(self.down.values[e], axis=-1).max() * np.linalg.norm(inner)
            size = max(size, float(reach + np.abs(self.down.offset[e]).max()))
        return out, size


def block(
    packing: Packing, experts: int, hidden: int, inner: int, seed: int = 0, second: Packing | None = None
) -> Block:
    """A block whose gates lie on both sides of their limit."""

    def part(rows: int, packing: Packing, n: int) -> Matrix:
        return matrix(packing, (experts, rows, hidden if n < 2 else inner), 3 * seed + n)

    return Block(part(inner, packing, 0), part(inner, packing, 1), part(hidden, second or packing, 2))


def choices(tokens: tuple[int, ...], experts: int, k: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Different experts for each token, and shares that add up to 1."""
    random = np.random.default_rng(seed + 5)
    chosen = np.argsort(random.normal(size=(*tokens, experts)), axis=-1)[..., :k].astype(np.uint32)
    shares = random.random((*tokens, k)) + 0.05
    return chosen, (shares / shares.sum(-1, keepdims=True)).astype(np.float32)


def scaled(x: NDArray[np.float32], packing: Packing) -> NDArray[np.float32]:
    """Activations that give gates of about 4, so that some are beyond the clamps."""
    typical = {"mxfp4": 2.0**-3.5, "mxfp8": 2.0**0.5}.get(packing.mode, 1.0)
    return np.asarray(x * (4 / typical / np.sqrt(x.shape[-1]))).astype(np.float32)


BOUND = {EXACT: 1e-6, FEW: 1e-4, MANY: 1e-4}
"""Of the largest share's |down| * |inner|; 6e-8 and 1e-5 are typical. A rounded gate's error passes through the
SwiGLU and both roundings add up, so this is more than for one product."""


@st.composite
def problems(draw: st.DrawFn) -> tuple[Packing, Block, NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    packing, seed = draw(packings), draw(seeds)
    unit = packing.group or draw(st.integers(5, 50))
    hidden, inner = (unit * draw(st.integers(1, 4)) for _ in range(2))
    experts = draw(st.integers(1, 9))
    tokens = draw(st.one_of(st.integers(1, 8), st.integers(20, 70)))
    leading = draw(st.sampled_from([(tokens,), (1, tokens), (2, tokens), ()]))
    chosen, shares = choices(leading, experts, draw(st.integers(1, min(4, experts))), seed)
    x = scaled(activations((*leading, hidden), "normal", seed), packing)
    return packing, block(packing, experts, hidden, inner, seed), x, chosen, shares


@given(problem=problems())
@settings(max_examples=60)
def test_against_float64(forced: Any, problem: Any) -> None:
    _, parts, x, chosen, shares = problem
    wanted, size = parts.wanted(x, chosen, shares)
    for precision in PRECISIONS:
        found = parts.run(forced, x, chosen, shares, precision)
        assert found.shape == x.shape
        assert np.abs(found - wanted).max() <= BOUND[precision] * size


@pytest.mark.parametrize("packing", COMMON, ids=str)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_against_the_composed_form(forced: Any, packing: Packing, tokens: int) -> None:
    parts = block(packing, 6, 256, 128, 1)
    chosen, shares = choices((2, tokens), 6, 3, 1)
    x = scaled(activations((2, tokens, 256), "normal", 1), packing)
    rows = mx.array(x)[..., None, None, :]

    def product(rows: mx.array, part: Matrix) -> mx.array:
        quantization = None if packing.plain else Quantization(packing.group, packing.bits, packing.mode)
        y = plain.gather_product(
            rows, part.codes, mx.array(chosen), scales=part.scales, biases=part.biases, quantization=quantization
        )
        assert part.bias is not None
        return y + part.bias[mx.array(chosen)][..., None, :]

    inner = plain.swiglu(product(rows, parts.gate), product(rows, parts.up), limit=LIMIT, alpha=ALPHA)
    each = product(inner, parts.down).squeeze(-2)
    composed = np.array((each * mx.array(shares)[..., None]).sum(-2))
    for precision in PRECISIONS:
        found = parts.run(forced, x, chosen, shares, precision)
        error = np.abs(found - composed).max() / np.abs(composed).max()
        # MLX's own products round a float16's or bfloat16's scales and sums in that dtype
        assert error < (1e-5 if precision == EXACT else 3e-4)


@pytest.mark.parametrize("second", COMMON, ids=str)
def test_down_may_be_packed_in_another_way(forced: Any, second: Packing) -> None:
    parts = block(MXFP4, 4, 160 if second.group == 32 else 256, 128, 2, second)
    chosen, shares = choices((20,), 4, 2, 2)
    x = scaled(activations((20, parts.down.values.shape[1]), "normal", 2), MXFP4)
    wanted, size = parts.wanted(x, chosen, shares)
    for precision in PRECISIONS:
        assert np.abs(parts.run(forced, x, chosen, shares, precision) - wanted).max() <= BOUND[precision] * size


def test_everybody_chooses_one_expert(forced: Any) -> None:
    parts = block(MXFP4, 9, 96, 64, 3)
    x = scaled(activations((50, 96), "normal", 3), MXFP4)
    chosen, shares = np.full((50, 1), 7, np.uint32), np.ones((50, 1), np.float32)
    wanted, size = parts.wanted(x, chosen, shares)
    for precision in PRECISIONS:
        assert np.abs(parts.run(forced, x, chosen, shares, precision) - wanted).max() <= BOUND[precision] * size


def test_experts_that_nobody_chose_are_not_read(forced: Any) -> None:
    parts = block(next(p for p in PACKINGS if p.plain), 4, 96, 64, 4)
    x = activations((20, 96), "normal", 4)
    chosen, shares = choices((20,), 2, 2, 4)
    spoilt = [
        Matrix(p.packing, mx.concatenate([p.codes[:2], p.codes[2:] * mx.nan]), None, None, p.bias, p.values, p.size)
        for p in (parts.gate, parts.up, parts.down)
    ]
    for precision in PRECISIONS:
        expected = parts.run(forced, x, chosen, shares, precision)
        np.testing.assert_array_equal(Block(*spoilt).run(forced, x, chosen, shares, precision), expected)


def test_an_expert_that_does_not_exist_adds_nothing(forced: Any) -> None:
    parts = block(MXFP4, 4, 96, 64, 5)
    x = scaled(activations((3, 96), "normal", 5), MXFP4)
    chosen, shares = choices((3,), 4, 2, 5)
    for precision in PRECISIONS:
        alone = parts.run(forced, x, chosen[:, :1], shares[:, :1], precision)
        for missing in (4, 2**31, 2**32 - 1):
            chosen[:, 1] = missing
            np.testing.assert_array_equal(parts.run(forced, x, chosen, shares, precision), alone)


@given(problem=problems())
@settings(max_examples=25)
def test_a_token_does_not_depend_on_the_others_nor_on_threads(forced: Any, problem: Any) -> None:
    _, parts, x, chosen, shares = problem
    x, chosen, shares = (part.reshape(-1, part.shape[-1]) for part in (x, chosen, shares))
    for precision in PRECISIONS:
        forced.set_threads(1)
        together = parts.run(forced, x, chosen, shares, precision)
        for threads, first, last in ((2, 0, len(x)), (3, 0, len(x)), (2, 0, 1), (1, len(x) - 1, len(x))):
            forced.set_threads(threads)
            part = slice(first, last)
            found = parts.run(forced, x[part], chosen[part], shares[part], precision)
            np.testing.assert_array_equal(found, together[part])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("packing", [MXFP4, PACKINGS[0]], ids=str)
def test_what_is_no_number_spoils_its_token_alone(forced: Any, packing: Packing, value: float) -> None:
    parts = block(packing, 4, 96, 64, 6)
    x = scaled(activations((20, 96), "normal", 6), packing)
    chosen, shares = choices((20,), 4, 2, 6)
    for precision in PRECISIONS:
        clean = parts.run(forced, x, chosen, shares, precision)
        spoilt = x.copy()
        spoilt[4, 17] = value
        found = parts.run(forced, spoilt, chosen, shares, precision)
        others = np.arange(20) != 4
        np.testing.assert_array_equal(found[others], clean[others])
        if np.isnan(value) or (packing is MXFP4 and precision != EXACT):
            assert np.isnan(found[4]).all()


def test_gates_far_beyond_the_clamp(forced: Any) -> None:
    parts = block(MXFP4, 2, 96, 64, 7)
    chosen, shares = choices((20,), 2, 1, 7)
    for size in (1e3, 1e6, 1e20, 1e30):
        x = (activations((20, 96), "normal", 7) * size).astype(np.float32)
        wanted, reach = parts.wanted(x, chosen, shares)
        for precision in PRECISIONS:
            assert np.abs(parts.run(forced, x, chosen, shares, precision) - wanted).max() <= 1e-3 * reach


def test_no_tokens(native: Any) -> None:
    parts = block(MXFP4, 2, 96, 64)
    for shape in ((0,), (2, 0)):
        x, chosen = np.zeros((*shape, 96), np.float32), np.zeros((*shape, 2), np.uint32)
        assert parts.run(native, x, chosen, chosen.astype(np.float32), FEW).shape == x.shape


def test_views_and_other_dtypes(native: Any) -> None:
    parts = block(MXFP4, 5, 96, 64, 8)
    x, (chosen, shares) = activations((7, 96), "normal", 8), choices((7,), 5, 3, 8)
    for precision in PRECISIONS:
        expected = parts.run(native, x, chosen, shares, precision)
        turned = [mx.contiguous(mx.array(part).T).T for part in (x, chosen.astype(np.int64), shares)]
        found = parts.run(native, turned[0], turned[1], turned[2], precision)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": (2, 2)}, "chosen and shares: one shape expected, that of x but for the last axis"),
        ({"chosen": (3, 2, 1)}, "chosen and shares: one shape expected"),
        ({"shares": (3, 1)}, "chosen and shares: one shape expected"),
        ({"x": (3, 64)}, r"gate: shape \(2, 32, 64\) expected, \(2, 32, 96\) found"),
        ({"x": ()}, "x: at least one axis and one column expected"),
        ({"up": (2, 16, 96)}, "gate and up: one packing and one shape expected"),
        ({"down": (2, 96, 16)}, r"down: shape \(2, 96, 32\) expected, \(2, 96, 16\) found"),
        ({"down": (3, 96, 32)}, "down: as many experts and outputs as gate has experts and inputs expected"),
        ({"down": (2, 95, 32)}, "down: as many experts and outputs as gate has experts and inputs expected"),
        ({"gate": (32, 96)}, r"gate: 3 axes expected, shape \(32, 96\) found"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(native: Any, change: dict[str, Any], words: str) -> None:
    shapes = {"x": (3, 96), "chosen": (3, 2), "shares": (3, 2)}
    shapes |= {"gate": (2, 32, 96), "up": (2, 32, 96), "down": (2, 96, 32)} | change
    x, chosen, shares, *weights = (mx.zeros(shape) for shape in shapes.values())
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        native.experts(x, chosen, shares, *(native.Weight(part) for part in weights), LIMIT, ALPHA, EXACT)
    assert "\n" not in str(caught.value)


# The router's choice


@given(leading=st.lists(st.integers(1, 6), max_size=2), experts=st.integers(1, 130), data=st.data(), seed=seeds)
def test_the_largest_are_chosen(native: Any, leading: list[int], experts: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, min(experts, 6)))
    logits = np.random.default_rng(seed).normal(size=(*leading, experts)).astype(np.float32)
    chosen, shares = (np.array(part) for part in native.route(mx.array(logits), k))
    order = np.argsort(-logits, axis=-1)[..., :k]
    np.testing.assert_array_equal(chosen, order)
    top = np.take_along_axis(logits.astype(np.float64), order, axis=-1)
    weights = np.exp(top - top.max(-1, keepdims=True))
    np.testing.assert_allclose(shares, weights / weights.sum(-1, keepdims=True), rtol=1e-6)
    for ours, theirs in zip((chosen, shares), plain.route(mx.array(logits), k), strict=True):
        np.testing.assert_allclose(np.sort(ours, axis=-1), np.sort(np.array(theirs), axis=-1), rtol=1e-6)


def test_of_equals_the_first_is_chosen(native: Any) -> None:
    logits = mx.array([[1.0, 2, 2, 0, 2], [0, 0, 0, 0, 0], [-mx.inf, -mx.inf, 3, -mx.inf, 3]])
    chosen, shares = native.route(logits, 3)
    assert chosen.tolist() == [[1, 2, 4], [0, 1, 2], [2, 4, 0]]
    np.testing.assert_allclose(np.array(shares), [[1 / 3] * 3, [1 / 3] * 3, [0.5, 0.5, 0]], rtol=1e-6)


@given(data=st.data(), k=st.integers(1, 4))
def test_logits_that_are_no_numbers_choose_experts_that_exist(native: Any, data: st.DataObject, k: int) -> None:
    values = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 3e38])
    logits = data.draw(st.lists(st.lists(values, min_size=6, max_size=6), min_size=1, max_size=4))
    chosen, shares = (np.array(part) for part in native.route(mx.array(logits), k))
    assert chosen.max() < 6
    assert all(len(set(row)) == k for row in chosen.tolist())
    bad = ~np.isfinite(np.where(np.array(logits) == -np.inf, 0, np.array(logits))).all(-1)
    assert np.isfinite(shares[~bad & (np.array(logits) > -np.inf).any(-1)]).all()


def test_views_of_logits_and_other_dtypes(native: Any) -> None:
    logits = mx.random.normal((5, 9)).astype(mx.bfloat16)
    for same in (logits, logits.astype(mx.float32), mx.contiguous(logits.T).T):
        for found, wanted in zip(native.route(same, 4), native.route(logits, 4), strict=True):
            np.testing.assert_array_equal(np.array(found), np.array(wanted))


@pytest.mark.parametrize(("shape", "k"), [((3, 4), 5), ((3, 4), 0), ((3, 4), -1), ((), 1), ((3, 0), 1)])
def test_choices_that_cannot_be_made_are_refused(native: Any, shape: tuple[int, ...], k: int) -> None:
    with pytest.raises(ValueError, match=r"logits: at least .* expected"):
        native.route(mx.zeros(shape), k)
