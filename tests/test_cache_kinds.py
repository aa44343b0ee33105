"""Caches that keep codes, or other numbers than are computed: what they cost, how near they are, which one is made."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptoss_mlx
from cache_rows import WIDTH, numbered, positions, random_arrays
from gptoss_mlx import kernels
from gptoss_mlx.cache import Cache, FullCache, QuantizedCache, Segments
from gptoss_mlx.errors import RequestError

pytestmark = pytest.mark.usefixtures("form")


# Codes


def attended(cache: Any, arrays: list[mx.array], cuts: list[int]) -> Any:
    sinks = mx.arange(8).astype(mx.float32) / 4
    bounds = zip([0, *cuts], [*cuts, None], strict=True)
    parts = [cache.attend(*(a[:, :, i:j] for a in arrays), scale=0.2, sinks=sinks) for i, j in bounds if i != j]
    return np.array(mx.concatenate(parts, axis=1))


@pytest.mark.parametrize("bits", [8, 4])
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 700), max_size=5))
def test_cuts_change_no_bit(bits: int, cuts: list[int]) -> None:
    """Nor do they in MLX's operations, but for rounding."""
    arrays = random_arrays(700 if kernels.native() else 70)
    inside = sorted(cut % arrays[0].shape[2] for cut in cuts)
    whole, parts = (attended(QuantizedCache(bits, WIDTH), arrays, list(cut)) for cut in ([], inside))
    if kernels.native():
        np.testing.assert_array_equal(parts, whole)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_token_past_four_thousand_is_what_one_pass_gives(bits: int) -> None:
    queries, keys, values = random_arrays(4300)
    last = [array[:, :, 4290:] for array in (queries, keys, values)]
    cache, whole = QuantizedCache(bits, WIDTH), QuantizedCache(bits, WIDTH)
    whole.update_and_fetch(keys[:, :, :4290], values[:, :, :4290])
    wanted = attended(whole, last, [])
    for first, end in ((0, 1000), (1000, 4096), (4096, 4290)):
        cache.update_and_fetch(keys[:, :, first:end], values[:, :, first:end])
    twin = copy.copy(cache)
    steps = attended(cache, last, list(range(1, 10)))
    mx.eval(whole.state)
    whole.rewind(4290)
    for found in (steps, attended(twin, last, []), attended(whole, last, [5])):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        if kernels.native():
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (4, 0.15)])
def test_codes_are_nearly_the_numbers(bits: int, error: float) -> None:
    arrays = random_arrays(300)
    found, wanted = (attended(cache, arrays, [250]) for cache in (QuantizedCache(bits, WIDTH), FullCache()))
    assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < error


def test_sequences_of_codes_share_a_pass() -> None:
    arrays = random_arrays(60)
    apart = [attended(QuantizedCache(8, WIDTH), [a[:, :, i:j] for a in arrays], []) for i, j in ((0, 20), (20, 60))]
    together = Segments([QuantizedCache(8, WIDTH) for _ in apart], [20, 40])
    np.testing.assert_array_equal(attended(together, arrays, []), np.concatenate(apart, axis=1))


@pytest.mark.parametrize(("bits", "size"), [(8, 1152), (4, 640)])
def test_bytes_per_token_of_the_released_shape(bits: int, size: int) -> None:
    cache = QuantizedCache(bits, 64)
    cache.attend(mx.zeros((1, 64, 256, 64)), *[mx.zeros((1, 8, 256, 64))] * 2, scale=1.0, sinks=mx.zeros((64,)))
    assert sum(plane.nbytes for plane in cache.planes()) == cache.nbytes == 256 * size


@pytest.mark.parametrize("width", [20, 48, 100])
def test_a_width_without_whole_groups_is_refused(width: int) -> None:
    with pytest.raises(RequestError, match=rf"heads of a multiple of 32 numbers expected, {width} found; a float16 "):
        QuantizedCache(8, width)


def test_other_bits_are_refused() -> None:
    with pytest.raises(RequestError, match="8 or 4 bits expected, 6 found"):
        QuantizedCache(6, 64)


# Which cache


def kinds(caches: list[Cache]) -> list[tuple[str, Any]]:
    return [(type(cache).__name__, getattr(cache, "bits", cache.dtype)) for cache in caches]


@pytest.fixture(scope="module")
def model() -> Any:
    return gptoss_mlx.load("demo").model


def test_a_model_s_caches_are_those_asked_for(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPTOSS_CACHE", raising=False)
    pair = slice(0, 2)
    assert kinds(model.make_cache()[pair]) == [("SlidingCache", None), ("FullCache", None)]
    assert kinds(model.make_cache("float16")[pair]) == [("SlidingCache", mx.float16), ("FullCache", mx.float16)]
    assert kinds(model.make_cache("q8")[pair]) == [("SlidingCache", None), ("QuantizedCache", 8)]
    monkeypatch.setenv("GPTOSS_CACHE", "q4")
    assert kinds(model.make_cache()[pair]) == [("SlidingCache", None), ("QuantizedCache", 4)]
    assert kinds(model.make_cache("q8")[pair]) == [("SlidingCache", None), ("QuantizedCache", 8)]
    with kernels.exactly():
        assert kinds(model.make_cache()[pair]) == [("SlidingCache", None), ("FullCache", None)]
        assert kinds(model.make_cache("q8")[pair]) == [("SlidingCache", None), ("QuantizedCache", 8)]


@pytest.mark.parametrize("kind", ["q5", "", "int8"])
def test_other_kinds_are_one_line(kind: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = rf"one of float32, float16, bfloat16, q8, q4 expected, '{kind}' found$"
    with pytest.raises(RequestError, match=f"^kv: {words}"):
        model.make_cache(kind)
    monkeypatch.setenv("GPTOSS_CACHE", kind)
    with pytest.raises(RequestError, match=f"^GPTOSS_CACHE: {words}"):
        model.make_cache()


def test_a_cache_of_a_dtype_keeps_all_in_it() -> None:
    cache = FullCache(mx.float16)
    cache.update_and_fetch(numbered(0, 2), numbered(0, 2))
    keys, _ = cache.update_and_fetch(numbered(2, 1) * 1e9, numbered(2, 1))
    assert keys.dtype == mx.float16
    assert positions(keys) == [0, 1, 65504]


@pytest.mark.parametrize("kind", ["float16", "q8", "q4"])
def test_the_embedded_model_knows_the_answer_with_each(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_CACHE", kind)
    greedy = gptoss_mlx.SamplingParams(temperature=0.0)
    assert "Paris" in gptoss_mlx.load("demo").chat("What is the capital of France?", sampling=greedy).final


@pytest.mark.parametrize("kind", ["q8", "q4"])
def test_cuts_change_no_bit_of_a_model_s_logits(kind: str, model: Any) -> None:
    if not kernels.native():
        pytest.skip("MLX's own products round differently in other shapes")
    tokens = np.random.default_rng(3).integers(0, 500, 300)

    def run(cuts: list[int]) -> Any:
        caches = model.make_cache(kind)
        with kernels.exactly():
            parts = [model(mx.array(part)[None], caches) for part in np.split(tokens, cuts)]
        return np.concatenate([np.array(part[0]) for part in parts])

    whole = run([])
    np.testing.assert_array_equal(run([100, 101, 250]), whole)
    np.testing.assert_array_equal(run(list(range(1, 300))), whole)


def test_what_is_asked_for_loses_no_bit_to_what_the_environment_says(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = mx.array([[7, 8, 9, 10, 11]])

    def logits(kind: str | None) -> Any:
        return np.array(model(tokens, model.make_cache(kind) if kind else None))

    monkeypatch.delenv("GPTOSS_CACHE", raising=False)
    wanted = {kind: logits(kind) for kind in (None, "float32", "q8")}
    assert (logits("float16") != wanted["float32"]).any()
    for name in ("float16", "bfloat16"):
        monkeypatch.setenv("GPTOSS_CACHE", name)
        for kind, numbers in wanted.items():
            np.testing.assert_array_equal(logits(kind), numbers)
