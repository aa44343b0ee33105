"""The store of prompt states: found states against fresh runs, bytes against a count of arrays, eviction."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import chain
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered import ROW, Run, arrays

import gptoss_mlx
from gptoss_mlx import GptOss, kernels
from gptoss_mlx.cache import Cache
from gptoss_mlx.engine import prefill
from gptoss_mlx.engine.prefix import PrefixStore

LARGE = 1 << 30
A, B, C = [1] * 90, [2] * 3, [3] * 260
WORDS = st.lists(st.sampled_from([A, B, C]), max_size=4).map(lambda words: [*chain(*words)])


pytestmark = pytest.mark.usefixtures("form")


def held(store: PrefixStore) -> dict[tuple[int, ...], list[Cache]]:
    """All states of a store by their tokens."""
    return {
        tuple(branch.tokens[:position].tolist()): caches
        for branch in store.branches()
        for position, caches in branch.states.items()
    }


def count(states: Any) -> int:
    """The bytes of all arrays behind some states."""
    return sum({id(array): array.nbytes for caches in states for array in arrays(caches)}.values())


def check(store: PrefixStore) -> None:
    """Hold a store against itself: its states against fresh runs, its figures against a count."""
    states = held(store)
    for tokens, caches in states.items():
        Run(tokens, caches).check()
    leaves = {tuple(branch.tokens.tolist()): branch.states[len(branch.tokens)][1] for branch in store.branches()}
    for tokens, caches in states.items():
        below = [leaf._storage for end, leaf in leaves.items() if end[: len(tokens)] == tokens]
        assert caches[1]._storage in below  # its full layer is that of a leaf
        assert tokens not in leaves or len(below) == 1
    stats = store.stats
    assert (stats.bytes, stats.states) == (count(states.values()), len(states))
    assert stats.bytes <= store.budget


def longest(states: Any, tokens: Sequence[int], limit: int) -> int:
    """What a search should find."""
    known = [len(state) for state in states if len(state) <= limit and tuple(tokens[: len(state)]) == state]
    return max(known, default=0)


Kinds = st.sampled_from(["feed", "feed", "add", "add", "add", "ask", "ask", "swap", "rewind"])
Steps = st.lists(st.tuples(Kinds, WORDS, st.integers(0, 400)), min_size=8, max_size=30)


@given(Steps, st.sampled_from([LARGE, LARGE, 900 * ROW, 2500 * ROW, 5000 * ROW, 100]))
def test_found_states_are_those_of_fresh_runs(steps: Any, budget: int) -> None:
    """Several runs that begin alike feed a store and go on from what they find there."""
    store, runs, added = PrefixStore(budget), [Run()], set()
    for kind, tokens, number in steps:
        run = runs[-1]
        if kind == "feed":
            run.feed(tokens)
        elif kind == "add" and run.tokens:
            store.add(run.tokens, run.caches)
            added.add(tuple(run.tokens))
        elif kind == "ask":
            states, limit = held(store), len(tokens) - number % 3
            found = store.find(tokens, limit)
            position, caches = found or (0, None)
            assert position == longest(states, tokens, limit)
            runs.append(Run(tokens[:position], caches))
            runs[-1].check()
            runs[-1].feed(tokens[position:])
        elif kind == "swap":
            runs.insert(0, runs.pop())
        else:
            mx.eval([cache.state for cache in run.caches])
            position = max(0, len(run.tokens) - number)
            if all(cache.can_rewind(position) for cache in run.caches):
                for cache in run.caches:
                    cache.rewind(position)
                del run.tokens[position:]
        check(store)
    for run in runs:
        run.check()
    if budget == LARGE:
        assert set(held(store)) == added


def grown(store: PrefixStore, tokens: Sequence[int], *boundaries: int) -> Run:
    """A run of some tokens that adds its state at each of these positions."""
    run = Run()
    for first, last in zip((0, *boundaries), boundaries, strict=False):
        run.feed(tokens[first:last])
        store.add(run.tokens, run.caches)
    check(store)
    return run


def found(store: PrefixStore, tokens: Sequence[int], limit: int = LARGE) -> int:
    """How many tokens need not run again."""
    state = store.find(tokens, limit)
    return state[0] if state is not None else 0


LINE = [n % 50 for n in range(3000)]


def test_a_diverging_prompt_gets_the_last_common_boundary() -> None:
    store = PrefixStore(LARGE)
    grown(store, LINE, 100, 1000, 2000)
    assert found(store, [*LINE[:1500], 99]) == 1000
    assert found(store, LINE, 1999) == 1000
    assert found(store, LINE, 2000) == 2000
    assert found(store, [*LINE[:99], 99]) == found(store, []) == found(store, LINE, -1) == 0
    stats = store.stats
    assert (stats.hits, stats.misses, stats.reused_tokens) == (3, 3, 4000)


def test_states_of_a_path_share_the_full_layers() -> None:
    store = PrefixStore(LARGE)
    grown(store, LINE, 500, 1000, 2500)
    assert count([[caches[1]] for caches in held(store).values()]) <= ROW * (2500 * 3 // 2 + 256)
    shallow = PrefixStore(LARGE)  # the same where the deep one comes first
    for position in (2500, 1000, 500):
        shallow.add(LINE[:position], Run(LINE[:position]).caches)
    check(shallow)
    assert count([[caches[1]] for caches in held(shallow).values()]) <= ROW * (2500 * 3 // 2 + 256)


def test_the_least_recently_used_makes_room() -> None:
    store = PrefixStore(LARGE)
    for first in range(4):
        grown(store, [first, *LINE], 600)
    assert found(store, [0, *LINE]) == 600
    store.budget = store.stats.bytes
    grown(store, [9, *LINE], 600)
    assert [found(store, [first, *LINE]) for first in (0, 1, 2, 3, 9)] == [600, 0, 600, 600, 600]


def test_what_the_deepest_state_leaves_is_cut_to_size() -> None:
    store = PrefixStore(LARGE)
    grown(store, LINE, 300, 500, 2500)
    found(store, LINE, 300)
    found(store, LINE, 500)
    store.budget = 2000 * ROW
    grown(store, [77], 1)
    assert [len(tokens) for tokens in held(store)] == [300, 500, 1]
    assert store.stats.bytes < ROW * (500 + 2 * (83 + 191) + 3 * 256)


def test_another_branch_takes_over_what_a_dropped_one_shared() -> None:
    store = PrefixStore(LARGE)
    grown(store, LINE, 300, 500, 2000)
    grown(store, LINE[:500] + [88] * 1000, 500, 1500)
    for limit in (300, 500, 2000):
        found(store, LINE, limit)
    before = store.stats.bytes
    store.budget = before - 1
    grown(store, [77], 1)
    assert sorted(len(tokens) for tokens in held(store)) == [1, 300, 500, 2000]
    assert store.stats.bytes < before - 1000 * ROW


def test_what_fits_alone_is_stored_without_its_unused_room() -> None:
    run = Run(LINE[:1000])
    needed = sum(plane.nbytes for cache in run.caches for plane in cache.planes())
    store = PrefixStore(needed)
    store.add(run.tokens, run.caches)
    check(store)
    assert (store.stats.states, store.stats.bytes) == (1, needed)
    run.feed(LINE[1000:1001])
    store.add(run.tokens, run.caches)
    assert found(store, LINE) == 1000  # the larger one drove nobody out


def test_nothing_but_its_buffers_stays_in_memory() -> None:
    store, run = PrefixStore(LARGE), Run()
    before = mx.get_active_memory()
    for first in range(0, 2700, 900):
        run.feed(LINE[first : first + 900])
        mx.eval([cache.state for cache in run.caches])
        store.add(run.tokens, run.caches)
    del run
    gc.collect()
    assert mx.get_active_memory() - before <= store.stats.bytes + 20_000
    store.clear()
    assert mx.get_active_memory() - before <= 20_000


def test_adding_again_makes_recent_and_no_more() -> None:
    store = PrefixStore(LARGE)
    grown(store, [1, *LINE], 600)
    grown(store, [2, *LINE], 600)
    before = store.stats
    grown(store, [1, *LINE], 600)
    assert store.stats == before
    store.budget = before.bytes
    grown(store, [3, *LINE], 600)
    assert [found(store, [first, *LINE]) for first in (1, 2, 3)] == [600, 0, 600]


def test_clearing_forgets_the_states() -> None:
    store = PrefixStore(LARGE)
    grown(store, LINE, 500, 600)
    found(store, LINE)
    store.clear()
    check(store)
    assert found(store, LINE) == 0
    assert (store.stats.bytes, store.stats.hits, store.stats.misses) == (0, 1, 1)
    grown(store, LINE, 500)
    assert found(store, LINE) == 500


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3]])
def test_caches_that_stand_elsewhere(tokens: list[int]) -> None:
    caches = Run([1, 2]).caches if tokens else Run().caches
    with pytest.raises(ValueError, match="one token or more"):
        PrefixStore(LARGE).add(tokens, caches)


@pytest.fixture(scope="module")
def demo() -> GptOss:
    return gptoss_mlx.load("demo")


@pytest.mark.parametrize("form", ["native"], indirect=True)
def test_logits_after_a_found_state_are_those_of_a_fresh_run(demo: GptOss, form: None) -> None:
    """Bit for bit with native kernels; MLX's own products round by their shape."""
    model, store = demo.model, PrefixStore(LARGE)
    prompt = np.random.default_rng(3).integers(0, demo.tokenizer.size, 900).tolist()
    other = prompt[:700] + prompt[:150]
    with kernels.rounding("prompt"):
        caches, done = model.make_cache(), 0
        for boundary in (130, 555, 640, 900):
            prefill(model, prompt[done:boundary], caches, chunk=128)
            store.add(prompt[:boundary], caches)
            done = boundary
        prefill(model, other[:100], caches)  # goes on in the store's buffers
        for tokens, limit, position in ((other, 849, 640), (prompt, 899, 640), (prompt, 600, 555), (prompt, 200, 130)):
            state = store.find(tokens, limit)
            assert state is not None
            assert state[0] == position
            warm = np.array(prefill(model, tokens[position:], state[1]))
            cold = np.array(prefill(model, tokens, model.make_cache()))
            assert (warm == cold).all()
