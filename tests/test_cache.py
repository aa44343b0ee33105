"""The caches by themselves: what they keep, how they grow, and that what they have shown never changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_rows import WIDTH, numbered, positions, random_arrays
from gptoss_mlx import kernels
from gptoss_mlx.buffers import STEP
from gptoss_mlx.cache import GROWTH, SLACK, Cache, FullCache, QuantizedCache, Segments, SlidingCache
from gptoss_mlx.errors import MemoryLimitError
from gptoss_mlx.kernels import FIRST_STEP, Codes, plain

MAKE: dict[str, Callable[[], Any]] = {
    "full": FullCache,
    "sliding": lambda: SlidingCache(20),
    "q8": lambda: QuantizedCache(8, WIDTH),
    "q4": lambda: QuantizedCache(4, WIDTH),
}


pytestmark = pytest.mark.usefixtures("form")


def kept(cache: Cache) -> mx.array:
    """The keys of its state."""
    state = cache.state
    return plain.dequantize(Codes(*state[:3]), mx.float32) if isinstance(cache, QuantizedCache) else state[0]


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
    assert copied < (GROWTH + 1) * held
    assert held <= (1 + 1 / GROWTH) * cache.offset * 2 * 2 * 4 * WIDTH + STEP * 16 * WIDTH


@given(st.integers(1, 9), st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_sliding_holds_the_window_and_what_is_new(window: int, lengths: list[int]) -> None:
    cache, offset = SlidingCache(window), 0
    for length in lengths:
        keys, values = cache.update_and_fetch(numbered(offset, length), -numbered(offset, length))
        first = max(0, offset - window + 1)
        offset += length
        assert positions(keys) == positions(-values) == list(range(first, offset))
        assert cache.kept == min(offset, window - 1)
        assert [array.shape[2] for array in cache.state] == [cache.kept] * 2


def test_sliding_moves_seldom_and_stays_small() -> None:
    cache, seen = SlidingCache(128), set()
    for _ in range(2000):
        cache.update_and_fetch(numbered(0, 1), numbered(0, 1))
        seen.add(cache.offset - cache.base)
        assert cache.nbytes <= 2 * 2 * 4 * WIDTH * (127 + 2 * STEP)
    assert len(seen) > STEP


def test_the_window_counts_the_current_token() -> None:
    mask = np.array(plain.window_mask(130, 130, 128))
    assert mask[129].sum() == 128
    assert mask[129, 2]
    assert not mask[129, 1]


@pytest.mark.parametrize("kind", MAKE)
def test_views_keep_what_they_showed(kind: str) -> None:
    """However late they are evaluated, and whatever has been appended since."""
    cache: Cache = MAKE[kind]()
    shown, offset = [], 0
    for length in (3, 1, 200, 1, 1, 90, 1, 300, 1):
        shown.append(cache.update_and_fetch(numbered(offset, length), -numbered(offset, length)))
        offset += length
    for n, (keys, values) in enumerate(shown):
        end = [3, 4, 204, 205, 206, 296, 297, 597, 598][n]
        assert positions(keys) == positions(-values) == list(range(end - keys.shape[2], end))


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_part_ways(kind: str, copied: Any) -> None:
    cache: Cache = MAKE[kind]()
    cache.update_and_fetch(numbered(0, 30), numbered(0, 30))
    twin, third = copied(cache), copied(cache)
    ours, _ = cache.update_and_fetch(numbered(30, 1), numbered(30, 1))
    theirs, _ = twin.update_and_fetch(numbered(70, 1), numbered(70, 1))
    assert positions(ours)[-2:] == [29, 30]
    assert positions(theirs)[-2:] == [29, 70]
    assert positions(kept(third))[-1] == 29
    assert positions(third.update_and_fetch(numbered(80, 1), numbered(80, 1))[0])[-2:] == [29, 80]
    assert positions(ours)[-1] == 30
    assert cache.offset == twin.offset == 31


def test_a_cache_keeps_its_dtype() -> None:
    cache = FullCache()
    cache.update_and_fetch(numbered(0, 2).astype(mx.float16), numbered(0, 2).astype(mx.float16))
    keys, values = cache.update_and_fetch(numbered(2, 1), numbered(2, 1))
    assert keys.dtype == values.dtype == mx.float16
    assert positions(keys) == [0, 1, 2]


Steps = st.lists(st.tuples(st.sampled_from(["add", "add", "rewind", "copy", "swap", "snapshot"]), st.integers(1, 300)))


@pytest.mark.parametrize(("window", "bits"), [(0, 0), (1, 0), (20, 0), (128, 0), (0, 8), (0, 4)])
@given(Steps)
def test_rewinds_copies_and_snapshots_show_what_a_fresh_cache_would(window: int, bits: int, steps: Any) -> None:
    """Several caches that share buffers, each rewound and continued on its own, against plain lists.

    With each goes the position from which on rewinds are certain: `SLACK` before the furthest that it has been at.
    """
    first: Any = SlidingCache(window) if window else QuantizedCache(bits, WIDTH) if bits else FullCache()
    caches: list[tuple[Any, list[int], int]] = [(first, [], 0)]
    fresh = 0
    for kind, number in steps:
        cache, tokens, certain = caches[-1]
        if kind == "add":
            mx.eval(cache.state)
            seen = cache.update_and_fetch(numbered(fresh, number), -numbered(fresh, number))
            tokens += range(fresh, fresh + number)
            fresh = (fresh + number) % 1700
            caches[-1] = cache, tokens, max(certain, len(tokens) - SLACK)
            count = len(tokens) if not window else min(len(tokens), window - 1 + number)
            assert positions(seen[0]) == positions(-seen[1]) == tokens[len(tokens) - count :]
        elif kind == "rewind":
            wanted = max(0, len(tokens) - number)
            mx.eval(cache.state)
            if cache.can_rewind(wanted):
                cache.rewind(wanted)
                del tokens[wanted:]
            else:
                assert window
                assert wanted < certain
                with pytest.raises(ValueError, match="no exact state"):
                    cache.rewind(wanted)
        elif kind == "swap":
            caches.insert(0, caches.pop())
        else:
            snapshot = window and kind == "snapshot"
            twin, certain = (cache.snapshot(), len(tokens)) if snapshot else (copy.copy(cache), certain)
            caches.insert(0, (twin, list(tokens), certain))
        assert [cache.offset for cache, *_ in caches] == [len(tokens) for _, tokens, _ in caches]
    for cache, tokens, _ in caches:
        if tokens:
            last = (window - 1 if window else len(tokens)) or None
            assert positions(kept(cache)) == (tokens[-last:] if last else [])


def test_a_sliding_cache_can_always_be_rewound_by_its_slack() -> None:
    cache = SlidingCache(128)
    for length in (1, 700, 1, 1, 300, *[1] * 500):
        cache.update_and_fetch(numbered(0, length), numbered(0, length))
        assert cache.can_rewind(max(0, cache.offset - SLACK))


def test_a_snapshot_holds_little() -> None:
    cache = SlidingCache(128)
    cache.update_and_fetch(numbered(0, 5000), numbered(0, 5000))
    assert cache.snapshot().nbytes <= 2 * 2 * 4 * WIDTH * (127 + FIRST_STEP)


@pytest.mark.parametrize("length", [1, 5, 400])
def test_a_snapshot_goes_on(length: int) -> None:
    """Though it holds nothing before its window to move along."""
    cache = SlidingCache(128)
    cache.update_and_fetch(numbered(0, 1000), numbered(0, 1000))
    seen, _ = cache.snapshot().update_and_fetch(numbered(1000, length), numbered(1000, length))
    assert positions(seen) == list(range(1000 - 127, 1000 + length))


def test_a_sliding_cache_goes_on_from_the_earliest_position_it_can_be_rewound_to() -> None:
    cache = SlidingCache(128)
    for first in range(0, 1200, 300):
        cache.update_and_fetch(numbered(first, 300), numbered(first, 300))
    mx.eval(cache.state)
    cache.rewind(min(offset for offset in range(1200) if cache.can_rewind(offset)))
    before = cache.offset
    seen, _ = cache.update_and_fetch(numbered(before, 600), numbered(before, 600))
    assert positions(seen) == list(range(max(0, before - 127), before + 600))


def test_a_rewound_copy_leaves_the_tokens_of_one_that_went_on() -> None:
    ahead = FullCache()
    ahead.update_and_fetch(numbered(0, 10), numbered(0, 10))
    behind = copy.copy(ahead)
    ahead.update_and_fetch(numbered(10, 5), numbered(10, 5))
    mx.eval(ahead.state)
    third = copy.copy(behind)
    behind.rewind(5)
    seen, _ = third.update_and_fetch(numbered(70, 3), numbered(70, 3))
    assert positions(seen) == [*range(10), 70, 71, 72]
    assert positions(ahead.state[0]) == list(range(15))


def test_tokens_that_were_lost_while_buffers_grew_are_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FullCache()
    cache.update_and_fetch(numbered(0, STEP), numbered(0, STEP))
    mx.eval(cache.state)
    twin = copy.copy(cache)

    def full(*arrays: mx.array) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(mx, "eval", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.update_and_fetch(numbered(STEP, 1), numbered(STEP, 1))
    monkeypatch.undo()
    with pytest.raises(MemoryLimitError, match=f"its {STEP} tokens were lost"):
        cache.update_and_fetch(numbered(STEP, 1), numbered(STEP, 1))
    seen, _ = twin.update_and_fetch(numbered(STEP, 1), numbered(STEP, 1))
    assert positions(seen) == list(range(STEP + 1))


@pytest.mark.parametrize("heads", [1, 2])
def test_a_snapshot_of_all_that_a_buffer_holds_keeps_what_it_showed(heads: int) -> None:
    """MLX may let it lie in the same memory, which the cache must then not write to again."""
    cache = SlidingCache(STEP)
    for position in range(STEP):
        cache.update_and_fetch(numbered(position, 1)[:, :heads], numbered(position, 1)[:, :heads])
    snapshot = cache.snapshot()
    mx.eval(snapshot.state, cache.state)
    cache.rewind(STEP - 10)
    seen, _ = cache.update_and_fetch(numbered(900, 5)[:, :heads], numbered(900, 5)[:, :heads])
    assert positions(seen)[-6:] == [STEP - 11, *range(900, 905)]
    assert positions(snapshot.state[0]) == list(range(1, STEP))


# Several sequences


@pytest.mark.parametrize("kind", MAKE)
@settings(max_examples=15)
@given(steps=st.lists(st.lists(st.integers(1, 90), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_pass_of_several_is_that_of_each(kind: str, steps: list[list[int]]) -> None:
    """Through several steps that are computed at the end; the last two go on from one state, in buffers they share."""
    caches = [MAKE[kind](), MAKE[kind]()]
    for cache in caches:
        cache.update_and_fetch(numbered(0, 70) / 70, numbered(0, 70) / 70)
    caches.append(copy.copy(caches[1]))
    apart = [cache.snapshot() for cache in caches]
    how: dict[str, Any] = {"scale": 0.2, "sinks": mx.zeros(8), "window": 20 if kind == "sliding" else 0}
    found, wanted = [], []
    for number, lengths in enumerate(steps):
        arrays = random_arrays(sum(lengths), number)
        ends = np.cumsum([0, *lengths]).tolist()
        found.append(Segments(caches, lengths).attend(*arrays, **how))
        for cache, first, end in zip(apart, ends, ends[1:], strict=False):
            wanted.append(cache.attend(*(array[:, :, first:end] for array in arrays), **how))
    one, other = (np.array(mx.concatenate(parts, axis=1)) for parts in (found, wanted))
    np.testing.assert_allclose(one, other, atol=1e-5)
    if kernels.native():
        np.testing.assert_array_equal(one, other)
    for cache, single in zip(caches, apart, strict=True):
        assert cache.offset == single.offset
        np.testing.assert_array_equal(np.array(kept(cache)), np.array(kept(single)))


# What a continuation needs


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("length", [1, 19, 300])
def test_planes_let_another_cache_go_on(kind: str, length: int, tmp_path: Path) -> None:
    first, second = MAKE[kind](), MAKE[kind]()
    first.update_and_fetch(numbered(0, length), -numbered(0, length))
    mx.save_safetensors(str(tmp_path / "planes"), {str(n): plane for n, plane in enumerate(first.planes())})
    saved = mx.load(str(tmp_path / "planes.safetensors"))
    assert isinstance(saved, dict)
    second.restore([saved[str(n)] for n in range(len(saved))], length)
    assert second.offset == length
    assert second.nbytes <= first.nbytes
    for count in (1, 1, 70):
        ours, theirs = (
            cache.update_and_fetch(numbered(cache.offset, count), -numbered(cache.offset, count))
            for cache in (first, second)
        )
        assert [positions(array) for array in ours] == [positions(array) for array in theirs]
        assert positions(ours[0])[-1] == first.offset - 1


@pytest.mark.parametrize("kind", MAKE)
def test_planes_stay_as_they_are(kind: str) -> None:
    cache = MAKE[kind]()
    cache.update_and_fetch(numbered(0, 30), numbered(0, 30))
    planes = cache.planes()
    before = [np.array(plane) for plane in planes]
    mx.eval(cache.state)
    cache.rewind(25)
    cache.update_and_fetch(numbered(70, 5), numbered(70, 5))
    mx.eval(cache.state)
    for plane, wanted in zip(planes, before, strict=True):
        np.testing.assert_array_equal(np.array(plane), wanted)


@pytest.mark.parametrize("kind", MAKE)
def test_an_empty_cache_has_nothing_to_give(kind: str) -> None:
    assert MAKE[kind]().planes() == []


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("damage", [
    lambda planes: planes[1:],
    lambda planes: [],
    lambda planes: [plane[:, :, 1:] for plane in planes],
    lambda planes: [plane[0] for plane in planes],
    lambda planes: [planes[0].astype(mx.int8), *planes[1:]],
    lambda planes: [planes[0][:, :1], *planes[1:]],
])  # fmt: skip
def test_planes_that_are_not_its_own_are_refused(kind: str, damage: Callable[[Any], Any]) -> None:
    cache = MAKE[kind]()
    cache.update_and_fetch(numbered(0, 30), numbered(0, 30))
    with pytest.raises(ValueError, match=r"^restore: an empty cache and its planes"):
        MAKE[kind]().restore(damage(cache.planes()), 30)
    with pytest.raises(ValueError, match="found 30 tokens"):
        cache.restore(cache.planes(), 30)


KNOWN: dict[str, Callable[[], Any]] = {
    "full": lambda: FullCache(heads=2, width=WIDTH),
    "float16": lambda: FullCache(mx.float16, heads=2, width=WIDTH),
    "sliding": lambda: SlidingCache(20, heads=2, width=WIDTH),
    "q8": lambda: QuantizedCache(8, WIDTH, heads=2),
    "q4": lambda: QuantizedCache(4, WIDTH, heads=2),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_planes_of_other_layers_are_refused(kind: str) -> None:
    good = KNOWN[kind]()
    good.update_and_fetch(numbered(0, 100), numbered(0, 100))
    KNOWN[kind]().restore(good.planes(), 100)
    for other in KNOWN.keys() - {kind}:
        with pytest.raises(ValueError, match=r"^restore: "):
            KNOWN[other]().restore(good.planes(), 100)
    for damage in (
        lambda plane: plane[:, :1],
        lambda plane: mx.concatenate([plane, plane], axis=1),
        lambda plane: mx.concatenate([plane, plane], axis=3),
        lambda plane: plane.astype(mx.bfloat16),
    ):
        with pytest.raises(ValueError, match=r"^restore: "):
            KNOWN[kind]().restore([damage(plane) for plane in good.planes()], 100)
