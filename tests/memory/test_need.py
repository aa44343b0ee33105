"""The arithmetic, against the published sizes and against what real caches, weights and passes take."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import Shape, build
from gptoss_mlx import kernels
from gptoss_mlx.cache import Cache, FullCache, make_caches
from gptoss_mlx.config import FULL, ModelConfig
from gptoss_mlx.convert import convert, sources
from gptoss_mlx.convert.presets import DENSE, Preset
from gptoss_mlx.convert.tensorfile import TensorSpec
from gptoss_mlx.engine import PREFILL_CHUNK, prefill
from gptoss_mlx.memory import CHUNK, KvWidth, Machine, Need, activation_bytes, cache_bytes, kv_bytes
from gptoss_mlx.weights import load_model

B20 = ModelConfig()
B120 = ModelConfig(num_hidden_layers=36, num_local_experts=128)
THIN = ModelConfig(num_hidden_layers=4, num_key_value_heads=1, num_attention_heads=1, head_dim=2)
"""Layers like the release's, with keys of two numbers."""
GPU = Machine("metal", 1 << 40, 1 << 40)
FLOAT32 = KvWidth(4, 4)
NARROW = ModelConfig(num_hidden_layers=8, num_key_value_heads=1, num_attention_heads=1, head_dim=32)
"""The same with keys that have codes."""
KINDS = (*kernels.CACHE_DTYPES, *kernels.CACHE_BITS)


@pytest.fixture(params=["native", "plain"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This one, with native kernels and without."""
    if request.param == "native":
        request.getfixturevalue("native")
    else:
        monkeypatch.setattr(kernels, "extension", None)
    return Machine.measure()


def held() -> int:
    """Bytes of all arrays."""
    return int(mx.get_active_memory()) + kernels.room_bytes()


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was held each time that a plane of a cache had been made."""
    found: list[int] = []
    room = kernels.room

    def watched(*shape: Any) -> mx.array:
        plane = room(*shape)
        mx.eval(plane)
        found.append(held())
        return plane

    monkeypatch.setattr(kernels, "room", watched)
    return found


def caches(config: ModelConfig) -> list[Cache]:
    return make_caches(config, "float32")


def filled(config: ModelConfig, kind: str, tokens: int) -> list[Cache]:
    """Caches of some tokens that came in chunks, the last ones one by one."""
    layers = make_caches(config, kind)
    for count in (*[CHUNK] * (tokens // CHUNK - 1), *[1] * (CHUNK + tokens % CHUNK)):
        zeros = mx.zeros((1, config.num_key_value_heads, count, config.head_dim))
        for cache in layers:
            cache._add(zeros, zeros)
        mx.eval([cache.state for cache in layers])
    return layers


def append(cache: Cache, count: int, config: ModelConfig = THIN) -> None:
    zeros = mx.zeros((1, config.num_key_value_heads, count, config.head_dim))
    cache._add(zeros, zeros)
    mx.eval(cache.state)


@pytest.mark.parametrize(
    ("config", "tokens", "expected"),
    [
        (B20, 4096, 104e6),
        (B20, 32768, 808e6),
        (B20, 131072, 3.224e9),
        (B120, 4096, 156e6),
        (B120, 32768, 1213e6),
        (B120, 131072, 4.837e9),
    ],
)
def test_keys_and_values_of_the_release(config: ModelConfig, tokens: int, expected: float) -> None:
    assert kv_bytes(config, tokens) == pytest.approx(expected, rel=0.004)
    assert kv_bytes(config, tokens, FLOAT32) == 2 * kv_bytes(config, tokens)
    assert kv_bytes(config, 100) == config.num_hidden_layers * 2048 * 100


@pytest.mark.parametrize(("kind", "tokens"), [*product(KINDS, [131072]), ("float32", 128000)])
def test_memory_at_the_longest_context_is_what_is_said(kind: str, tokens: int, moments: list[int]) -> None:
    """In chunks, and at last token by token."""
    width = replace(Machine.measure(), kv=kind).kv_width
    gc.collect()
    before = held()
    layers = filled(NARROW, kind, tokens)
    wanted, most = kv_bytes(NARROW, tokens, width), cache_bytes(NARROW, tokens, width)
    assert {cache.offset for cache in layers} == {tokens}
    assert wanted < held() - before < 1.05 * wanted
    assert max(moments) - before < most + 8 * CHUNK * NARROW.head_dim


RESIDENT = """
import sys
import mlx.core as mx
mx.set_default_device(mx.Device(mx.cpu))
from test_need import filled
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.machine import peak_memory, resident_memory
layers, heads, width, tokens = map(int, sys.argv[1:])
freed = [mx.zeros(30 << 18), mx.zeros(30 << 18)]
mx.eval(freed)
del freed  # from now on glibc keeps blocks of that size
before = resident_memory()
shape = dict(num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads, head_dim=width)
caches = filled(ModelConfig(**shape), "float16", tokens)
print(resident_memory() - before, peak_memory() - before, sum(cache.nbytes for cache in caches))
"""


@pytest.mark.parametrize("shape", [(8, 1, 128, 131072), (24, 2, 64, 40000)])
def test_the_system_counts_no_more(shape: tuple[int, ...]) -> None:
    """Pages of a process of its own, while buffers grow and in the end.

    There are few large planes, or many that are small enough for glibc to keep them when they are freed.
    """
    search = os.pathsep.join(str(folder) for folder in (*Path(__file__).parents[:2], Path(__file__).parents[2]))
    command = [sys.executable, "-c", RESIDENT, *map(str, shape)]
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": search})
    resident, peak, held = map(int, done.stdout.split())
    assert 0.95 * held < resident < 1.1 * held
    assert peak < (1.15 + 1 / shape[0]) * held
    layers, heads, width, tokens = shape
    wanted = layers // 2 * (tokens + 128) * 2 * heads * width * 2
    assert tokens < 131072 or resident < 1.05 * wanted


def test_while_buffers_grow_one_plane_is_there_twice(moments: list[int]) -> None:
    layers = [layer for layer in make_caches(NARROW, "float32") if isinstance(layer, FullCache)]
    for cache in layers:
        append(cache, 50000, NARROW)
    before, start = sum(cache.nbytes for cache in layers), held()
    plane = layers[0].nbytes / 2
    moments.clear()
    for cache in layers:
        append(cache, 300, NARROW)
    after = sum(cache.nbytes for cache in layers)
    assert after > 1.1 * before
    assert max(moments) - start < after - before + 1.01 * plane


@given(st.lists(st.tuples(st.integers(1, CHUNK), st.sampled_from(["go on", "copy", "back"])), min_size=1, max_size=12))
def test_no_way_to_a_context_takes_more(steps: list[tuple[int, str]]) -> None:
    layers = caches(THIN)
    reached = 0
    for count, way in steps:
        if way == "copy":
            layers = [copy.copy(cache) for cache in layers]
        for cache in layers:
            if way == "back" and cache.can_rewind(cache.offset - 30):
                cache.rewind(cache.offset - 30)
            append(cache, count)
        reached = max(reached, layers[1].offset)
        held = [cache.nbytes for cache in layers]
        assert sum(held) + max(held) / 2 <= cache_bytes(THIN, reached, FLOAT32)


def test_the_bound_is_reached() -> None:
    cache = FullCache()
    append(cache, 1024)
    append(cache, 1)
    config = replace(THIN, num_hidden_layers=1, layer_types=(FULL,))
    assert 1.5 * cache.nbytes == cache_bytes(config, 1025, FLOAT32)


def test_the_chunk_is_the_engines() -> None:
    assert CHUNK == PREFILL_CHUNK


@pytest.mark.parametrize(
    ("config", "dense", "expected"),
    [
        (B20, "bf16", 13.76e9),
        (B20, "q8", 12.08e9),
        (B20, "q4", 11.18e9),
        (B120, "bf16", 65.25e9),
        (B120, "q8", 63.25e9),
        (B120, "q4", 62.20e9),
    ],
)
def test_presets_of_the_release(config: ModelConfig, dense: str, expected: float) -> None:
    need = Need.of_preset(config, Preset(dense))
    assert need.weights(GPU) == need.resident(GPU) == pytest.approx(expected, rel=1e-3)
    assert need.mappable == need.kept
    assert need.resident(Machine("cpu", 1, 1, native=True)) == 4 * need.cast


@pytest.mark.parametrize("dense", DENSE)
def test_presets_are_what_the_converter_writes(dense: str, sources: dict[str, Path], tmp_path: Path) -> None:
    convert(sources["hf"], tmp_path / "out", dense=dense)
    found = Need.of_folder(tmp_path / "out")
    assert found == replace(Need.of_preset(found.config, Preset(dense)), name=str(tmp_path / "out"))


@pytest.mark.parametrize("layout", ["hf", "original", "bf16", "mlx"])
def test_loaded_weights_take_what_was_said(layout: str, sources: dict[str, Path], machine: Machine) -> None:
    need = Need.of_folder(sources[layout])
    assert (need.mappable > 0) == (layout == "mlx")
    assert (need.moved > 0) == (layout != "mlx")
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_model(sources[layout])
    assert mx.get_active_memory() - before == pytest.approx(need.resident(machine), rel=0.01, abs=4096)
    if layout != "bf16" or machine.native:
        assert mx.get_peak_memory() - before <= 1.05 * (need.resident(machine) + need.moved)
    del model


def test_tensors_that_cannot_be_mapped_must_be_in_memory(sources_mlx: list[Any]) -> None:
    whole = Need.of_tensors(B20, sources_mlx)
    shifted = Need.of_tensors(B20, [replace(tensor, start=tensor.start + 1) for tensor in sources_mlx])
    bytes_only = sum(tensor.nbytes for tensor in sources_mlx if tensor.dtype == "U8")
    assert whole.mappable == whole.kept
    assert shifted.mappable == bytes_only < shifted.kept


@pytest.fixture
def sources_mlx(sources: dict[str, Path]) -> list[Any]:
    return list(read_tensors(sources["mlx"])[1].values())


read_tensors = sources.read_tensors


def test_float16_becomes_what_activations_are() -> None:
    need = Need.of_tensors(B20, [TensorSpec("lm_head.weight", "F16", (10, 20)), TensorSpec("x.weight", "F32", (3,))])
    assert (need.cast, need.kept) == (200, 12)
    assert need.weights(GPU) == 412
    assert need.weights(Machine("cpu", 1, 1)) == 812


@pytest.mark.parametrize("tokens", [1, 100, 512, 900])
def test_a_pass_takes_no_more_than_said(tokens: int, machine: Machine, tmp_path: Path) -> None:
    shape = Shape(
        layers=2, hidden=256, intermediate=256, heads=16, kv_heads=2, head_dim=32, experts=8, top_k=4, vocab=2000,
        window=128,
    )  # fmt: skip
    model, config = load_model(build(tmp_path / "m", shape))
    need, cache = Need.of_folder(tmp_path / "m"), model.make_cache()
    mx.eval(model(mx.array([[1]])))  # makes the table of rotations
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(prefill(model, [i % 100 for i in range(tokens)], cache))
    peak = mx.get_peak_memory() - before
    assert peak <= need.caches(machine, tokens) + need.work(machine, tokens)
    assert tokens < 500 or activation_bytes(config, tokens, machine) <= 2 * peak


@pytest.mark.parametrize("layers", [1, 3, 10])
def test_moving_all_layers_takes_no_more_than_said(layers: int, machine: Machine, tmp_path: Path) -> None:
    small = Shape(layers=layers, hidden=64, heads=2, head_dim=32, vocab=200, window=128, kinds=(FULL,) * layers)
    model, config = load_model(build(tmp_path / "m", small))
    mx.eval(model(mx.array([[1]])))
    gc.collect()
    before = mx.get_active_memory()
    filled, tokens = model.make_cache(), 8192
    for cache in filled:
        append(cache, tokens, config)
    held = sum(cache.nbytes for cache in filled)
    mx.reset_peak_memory()
    mx.eval(model(mx.array([[1]]), filled), [cache.state for cache in filled])
    peak = mx.get_peak_memory() - before
    assert sum(cache.nbytes for cache in filled) > 1.1 * held
    assert peak <= cache_bytes(config, tokens + 1, FLOAT32) + activation_bytes(config, tokens + 1, machine)
