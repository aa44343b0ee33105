"""Several sequences appended and attended at once, held to the bit against appending and attending one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptoss_mlx.kernels import FIRST_STEP, GROUP, Codes, plain

KV_HEADS, GROUPED, WIDTH, SCALE = 2, 3, 32, 0.25
PLAIN = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
BITS = {"q8": 8, "q4": 4}


@dataclass(frozen=True)
class Part:
    """One sequence: tokens that are there and that come, the position of the first one, how they are kept."""

    earlier: int
    count: int
    base: int = 0
    kept: str = "float32"
    spare: int = 0

    def buffers(self, batch: int) -> list[mx.array]:
        """Empty ones, with something in them that must not be seen."""
        rows = (batch, KV_HEADS, self.earlier + self.count + self.spare)
        if self.kept in PLAIN:
            return [mx.full((*rows, WIDTH), np.nan, PLAIN[self.kept]) for _ in "kv"]
        layout = [(WIDTH * BITS[self.kept] // 32, mx.uint32), *[(WIDTH // GROUP, mx.float16)] * 2] * 2
        return [mx.full((*rows, width), 7, dtype) for width, dtype in layout]

    def filled(self, native: Any, keys: mx.array, values: mx.array, start: int) -> list[mx.array]:
        """Buffers that have these tokens from `start` on, and before them always the same others."""
        old_keys, old_values = (numbers((keys.shape[0], KV_HEADS, start, WIDTH), seed) for seed in (1, 2))
        planes = self.appended(native, self.buffers(keys.shape[0]), old_keys, old_values, 0)
        return self.appended(native, planes, keys, values, start)

    def appended(
        self, native: Any, planes: list[mx.array], keys: mx.array, values: mx.array, start: int
    ) -> list[mx.array]:
        """One after the other."""
        if self.kept in PLAIN:
            pairs = zip(planes, (keys, values), strict=True)
            return [native.append(plane, plain.cast(new, plane.dtype), start) for plane, new in pairs]
        return [*native.append_codes(planes[:3], keys, start), *native.append_codes(planes[3:], values, start)]

    def attended(self, native: Any, queries: mx.array, planes: list[mx.array], sinks: mx.array, window: int) -> Any:
        """By itself, over buffers that hold the fresh tokens."""
        seen = [plane[:, :, : self.earlier + self.count] for plane in planes]
        if self.kept in PLAIN:
            return native.attend(queries, *seen, sinks, SCALE, window, self.base)
        assert self.base % 512 == 0  # `attend_codes` does not take one
        return native.attend_codes(queries, seen[:3], seen[3:], sinks, SCALE, window)


def numbers(shape: tuple[int, ...], seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def fresh(batch: int, tokens: int, *, transposed: bool) -> list[mx.array]:
    """Queries, keys, values; transposed as MLX's own rotation leaves them."""
    heads = (KV_HEADS * GROUPED, KV_HEADS, KV_HEADS)
    if transposed:
        return [numbers((batch, tokens, n, WIDTH), 3 + i).swapaxes(1, 2) for i, n in enumerate(heads)]
    return [numbers((batch, n, tokens, WIDTH), 3 + i) for i, n in enumerate(heads)]


PARTS = st.builds(
    Part,
    earlier=st.one_of(st.just(0), st.integers(1, 80), st.integers(500, 1100)),
    count=st.one_of(st.just(1), st.integers(0, 40), st.integers(100, 150)),
    base=st.integers(0, 20).map(lambda n: n * FIRST_STEP),
    kept=st.sampled_from(list(PLAIN)),
    spare=st.integers(0, 70),
)
CODES = st.builds(Part, st.integers(0, 700), st.integers(0, 40), st.just(0), st.sampled_from(list(BITS)))
SINKS = mx.arange(KV_HEADS * GROUPED).astype(mx.float32) / 4


@settings(max_examples=40)
@given(
    parts=st.lists(st.one_of(PARTS, CODES), min_size=1, max_size=9),
    window=st.sampled_from([0, 1, 16, 128, 4096]),
    batch=st.integers(1, 2),
    transposed=st.booleans(),
    threads=st.integers(1, 3),
)
@example(
    parts=[Part(300 * n, 1) for n in range(40)], window=0, batch=1, transposed=False, threads=3
)  # each by its rows
def test_it_is_append_and_attend_to_the_bit(
    parts: list[Part], window: int, batch: int, transposed: bool, threads: int, forced: Any
) -> None:
    forced.set_threads(threads)
    row = fresh(batch, sum(part.count for part in parts), transposed=transposed)
    buffers, wanted, written, first = [], [], [], 0
    for part in parts:
        queries, keys, values = (array[:, :, first : first + part.count] for array in row)
        first += part.count
        none = keys[:, :, :0]
        buffers.append(part.filled(forced, none, none, part.earlier))
        written.append(part.filled(forced, keys, values, part.earlier))
        wanted.append(part.attended(forced, queries, written[-1], SINKS, window))
    places = ([part.count for part in parts], [part.earlier for part in parts], [part.base for part in parts])
    found, after = forced.append_and_attend(*row, SINKS, buffers, *places, SCALE, window)
    np.testing.assert_array_equal(np.array(found), np.array(mx.concatenate(wanted, axis=1)))
    for planes, expected in zip(after, written, strict=True):
        for plane, other in zip(planes, expected, strict=True):
            assert plane.dtype == other.dtype
            np.testing.assert_array_equal(np.array(plane.view(mx.uint16)), np.array(other.view(mx.uint16)))


def test_numbers_beyond_float16_stay_at_its_end(forced: Any) -> None:
    keys = numbers((1, KV_HEADS, 3, WIDTH), 1) * 1e6
    buffers = Part(0, 3, kept="float16").buffers(1)
    queries = mx.zeros((1, KV_HEADS, 3, WIDTH))
    _, [planes] = forced.append_and_attend(queries, keys, keys, mx.zeros(KV_HEADS), [buffers], [3], [0], [0], 1.0, 0)
    np.testing.assert_array_equal(np.array(planes[0]), np.array(plain.cast(keys, mx.float16)))


def test_steps_may_wait_for_one_another(native: Any) -> None:
    """Forty of them are in the graph before the first is computed, and the last one is asked for."""
    parts = [Part(0, 40), Part(0, 40, kept="float16"), Part(0, 40, kept="q8")]
    row = fresh(1, 3 * 40, transposed=False)
    planes, results = [part.buffers(1) for part in parts], []
    for step in range(40):
        own = [mx.concatenate([array[:, :, 40 * n + step, None] for n in range(3)], axis=2) for array in row]
        mixed, planes = native.append_and_attend(*own, SINKS, planes, [1] * 3, [step] * 3, [0] * 3, SCALE, 16)
        results.append(mixed)
    mx.eval(results[-1])
    buffers = [part.buffers(1) for part in parts]
    whole, _ = native.append_and_attend(*row, SINKS, buffers, [40] * 3, [0] * 3, [0] * 3, SCALE, 16)
    steps = mx.stack(results, axis=2).flatten(1, 2)
    np.testing.assert_array_equal(np.array(steps), np.array(whole))


NONE = mx.zeros((1, KV_HEADS, 4, WIDTH))
GOOD: dict[str, Any] = {
    "queries": NONE,
    "keys": NONE,
    "values": NONE,
    "sinks": mx.zeros(KV_HEADS),
    "buffers": [Part(5, 3).buffers(1), Part(5, 1, kept="q8").buffers(1)],
    "counts": [3, 1],
    "starts": [5, 5],
    "firsts": [0, 64],
    "scale": 1.0,
    "window": 0,
}


@pytest.mark.parametrize("damage", [
    {"queries": NONE[0]},
    {"queries": NONE[:, :, :3]},
    {"keys": NONE[..., :16], "values": NONE[..., :16]},
    {"values": NONE[:, :1]},
    {"sinks": mx.zeros(5)},
    {"buffers": GOOD["buffers"][:1]},
    {"buffers": [[], []]},
    {"buffers": [GOOD["buffers"][0], GOOD["buffers"][1][:3]]},
    {"buffers": [GOOD["buffers"][0], [GOOD["buffers"][1][0], *[mx.zeros((1, KV_HEADS, 6, 1))] * 2] * 2]},
    {"buffers": [[NONE.astype(mx.int32)] * 2, GOOD["buffers"][1]]},
    {"buffers": [[mx.zeros((1, KV_HEADS, 9, WIDTH)), mx.zeros((1, KV_HEADS, 8, WIDTH))], GOOD["buffers"][1]]},
    {"buffers": [[mx.zeros((2, KV_HEADS, 9, WIDTH))] * 2, GOOD["buffers"][1]]},
    {"counts": [2, 1]},
    {"counts": [5, -1]},
    {"counts": [4]},
    {"starts": [6, 5]},
    {"starts": [-1, 5]},
    {"starts": [5, 2**62]},
    {"firsts": [0, 63]},
    {"firsts": [0, -64]},
    {"firsts": []},
])  # fmt: skip
def test_it_refuses_what_does_not_fit(damage: dict[str, Any], native: Any) -> None:
    mx.eval(native.append_and_attend(**GOOD)[0])
    with pytest.raises(ValueError, match="expected"):
        native.append_and_attend(**{**GOOD, **damage})


def test_it_refuses_views(native: Any) -> None:
    buffers = [mx.zeros((1, KV_HEADS, 20, WIDTH))[:, :, 2:18] for _ in "kv"]
    with pytest.raises(RuntimeError, match="view of another array"):
        mx.eval(native.append_and_attend(NONE, NONE, NONE, GOOD["sinks"], [buffers], [4], [0], [0], 1.0, 0)[0])


def test_what_is_packed_is_what_codes_stand_for(native: Any) -> None:
    """The planes come back in the order in which they went in."""
    keys, values = numbers((1, KV_HEADS, 4, WIDTH), 1), numbers((1, KV_HEADS, 4, WIDTH), 2)
    buffers = Part(0, 4, kept="q8").buffers(1)
    _, [planes] = native.append_and_attend(NONE, keys, values, GOOD["sinks"], [buffers], [4], [0], [0], 1.0, 0)
    for packed, vectors in ((planes[:3], keys), (planes[3:], values)):
        np.testing.assert_allclose(np.array(plain.dequantize(Codes(*packed), mx.float32)), np.array(vectors), atol=0.03)
