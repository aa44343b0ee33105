"""The caches by themselves: what they keep, how they grow, and that what they have shown never changes."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx import kernels
from gptoss_mlx.cache import SLACK, STEP, Cache, FullCache, SlidingCache
from gptoss_mlx.kernels import FIRST_STEP, plain


@pytest.fixture(autouse=True, params=["native", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appending in place, and MLX's own way."""
    if request.param == "native":
        request.getfixturevalue("native")
    else:
        monkeypatch.setattr(kernels, "extension", None)


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
        assert cache.nbytes <= 2 * 2 * 4 * 4 * (127 + 2 * STEP)
    assert len(seen) > STEP


def test_the_window_counts_the_current_token() -> None:
    mask = np.array(plain.window_mask(130, 130, 128))
    assert mask[129].sum() == 128
    assert mask[129, 2]
    assert not mask[129, 1]


@pytest.mark.parametrize("make", [FullCache, lambda: SlidingCache(20)])
def test_views_keep_what_they_showed(make: Any) -> None:
    """However late they are evaluated, and whatever has been appended since."""
    cache: Cache = make()
    shown, offset = [], 0
    for length in (3, 1, 200, 1, 1, 90, 1, 300, 1):
        shown.append(cache.update_and_fetch(numbered(offset, length), -numbered(offset, length)))
        offset += length
    for n, (keys, values) in enumerate(shown):
        end = [3, 4, 204, 205, 206, 296, 297, 597, 598][n]
        assert positions(keys) == positions(-values) == list(range(end - keys.shape[2], end))


@pytest.mark.parametrize("make", [FullCache, lambda: SlidingCache(20)])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_part_ways(make: Any, copied: Any) -> None:
    cache: Cache = make()
    cache.update_and_fetch(numbered(0, 30), numbered(0, 30))
    twin, third = copied(cache), copied(cache)
    ours, _ = cache.update_and_fetch(numbered(30, 1), numbered(30, 1))
    theirs, _ = twin.update_and_fetch(numbered(70, 1), numbered(70, 1))
    assert positions(ours)[-2:] == [29, 30]
    assert positions(theirs)[-2:] == [29, 70]
    assert positions(third.state[0])[-1] == 29
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


@pytest.mark.parametrize("window", [0, 1, 20, 128])
@given(Steps)
def test_rewinds_copies_and_snapshots_show_what_a_fresh_cache_would(window: int, steps: Any) -> None:
    """Several caches that share buffers, each rewound and continued on its own, against plain lists.

    With each goes the position from which on rewinds are certain: `SLACK` before the furthest that it has been at.
    """
    first: Any = SlidingCache(window) if window else FullCache()
    caches: list[tuple[Any, list[int], int]] = [(first, [], 0)]
    fresh = 0
    for kind, number in steps:
        cache, tokens, certain = caches[-1]
        if kind == "add":
            mx.eval(cache.state)
            seen = cache.update_and_fetch(numbered(fresh, number), -numbered(fresh, number))
            tokens += range(fresh, fresh + number)
            fresh += number
            caches[-1] = cache, tokens, max(certain, len(tokens) - SLACK)
            kept = len(tokens) if not window else min(len(tokens), window - 1 + number)
            assert positions(seen[0]) == positions(-seen[1]) == tokens[len(tokens) - kept :]
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
            assert positions(cache.state[0]) == (tokens[-last:] if last else [])


def test_a_sliding_cache_can_always_be_rewound_by_its_slack() -> None:
    cache = SlidingCache(128)
    for length in (1, 700, 1, 1, 300, *[1] * 500):
        cache.update_and_fetch(numbered(0, length), numbered(0, length))
        assert cache.can_rewind(max(0, cache.offset - SLACK))


def test_a_snapshot_holds_little() -> None:
    cache = SlidingCache(128)
    cache.update_and_fetch(numbered(0, 5000), numbered(0, 5000))
    assert cache.snapshot().nbytes <= 2 * 2 * 4 * 4 * (127 + FIRST_STEP)


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
