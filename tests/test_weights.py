"""Folders into models: how each module's packing is found, and one line for each thing that can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from checkpoints import Layout, Shape, Tensors, as_bf16, as_original, build, tensors, write_safetensors
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert
from gptoss_mlx.convert.sources import checkpoint_folder, read_tensors
from gptoss_mlx.errors import CheckpointError, ConfigError
from gptoss_mlx.quantization import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES, Quantization, from_entry, from_tensors
from gptoss_mlx.weights import load_model

pytestmark = pytest.mark.usefixtures("exact")

SHAPE = Shape(seed=31)
PATH = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    convert(build(folder / "source", SHAPE), folder / "mlx", dense="q8")
    return folder / "mlx"


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A copy of a converted folder to spoil."""
    return Path(shutil.copytree(converted, tmp_path / "mlx"))


def change_arrays(folder: Path, change: Callable[[dict[str, mx.array]], Any]) -> None:
    file = folder / "model.safetensors"
    arrays: Any = mx.load(str(file))
    mx.eval(arrays)
    change(arrays)
    file.unlink()
    mx.save_safetensors(str(file), arrays, {"format": "mlx"})


def change_entry(folder: Path, path: str, entry: Any) -> None:
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    raw["quantization"][path] = entry
    file.write_text(json.dumps(raw))


def refused(folder: Path, *words: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind) as caught:
        load_model(folder)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


# How a module is packed

packings = st.one_of(
    st.builds(Quantization, st.sampled_from(AFFINE_GROUPS), st.sampled_from(AFFINE_BITS)),
    st.sampled_from([Quantization(group, bits, mode) for mode, (bits, group) in FIXED_MODES.items()]),
)


@given(packings, st.integers(1, 30))
def test_every_packing_is_inferred_from_its_shapes(packing: Quantization, groups: int) -> None:
    inputs = 128 * groups
    found = from_tensors(
        PATH, inputs, packing.words(inputs), inputs // packing.group_size, scales_are_bytes=packing.mode != "affine"
    )
    assert found == packing


@pytest.mark.parametrize("packing", [Quantization(64, 3), Quantization(32, 6), Quantization(32, 4, "mxfp4"),
                                     Quantization(32, 8, "mxfp8"), Quantization(16, 4, "nvfp4")])  # fmt: skip
def test_the_inferred_shapes_are_mlx_s(packing: Quantization) -> None:
    weight = mx.random.normal((8, 192))
    packed = mx.quantize(weight, group_size=packing.group_size, bits=packing.bits, mode=packing.mode)
    words, scales = packed[0], packed[1]
    assert words.shape == (8, packing.words(192))
    assert from_tensors(PATH, 192, words.shape[-1], scales.shape[-1], scales.dtype == mx.uint8) == packing


@given(st.integers(1, 512), st.integers(1, 256), st.integers(0, 64), st.booleans())
def test_other_shapes_are_refused_by_name(inputs: int, words: int, groups: int, floating: bool) -> None:
    try:
        found = from_tensors(PATH, inputs, words, groups, floating)
    except CheckpointError as error:
        line = str(error)
        assert line.startswith(PATH)
        return
    assert found.words(inputs) == words
    assert found.group_size * groups == inputs


@pytest.mark.parametrize(
    ("entry", "packing"),
    [
        ({"group_size": 64, "bits": 8}, Quantization(64, 8)),
        ({"group_size": 32, "bits": 4, "mode": "affine", "x": 1}, Quantization(32, 4)),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, Quantization(32, 4, "mxfp4")),
        ({"mode": "mxfp8"}, Quantization(32, 8, "mxfp8")),
    ],
)
def test_entries_are_read(entry: dict[str, Any], packing: Quantization) -> None:
    assert from_entry(PATH, entry) == packing


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"bits": 8}, PATH),
        ({"group_size": 64}, PATH),
        ({"group_size": "64", "bits": 4}, PATH),
        ({"group_size": 64, "bits": 7}, "7 bits"),
        ({"group_size": 16, "bits": 4}, "groups of 16"),
        ({"group_size": 64, "bits": 4, "mode": "mxfp4"}, "mxfp4"),
        ({"group_size": 64, "bits": 4, "mode": "gguf"}, "'gguf'"),
        ({"group_size": 64, "bits": 4, "mode": ["affine"]}, "affine"),
    ],
)
def test_entries_that_make_no_sense_are_refused(entry: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        from_entry(PATH, entry)


def test_bits_per_weight_count_scales_and_offsets() -> None:
    assert Quantization(64, 8).bits_per_weight == 8.5
    assert Quantization(32, 4).bits_per_weight == 5.0
    assert Quantization(32, 4, "mxfp4").bits_per_weight == 4.25
    assert Quantization(16, 4, "nvfp4").bits_per_weight == 4.5


# What loads


def test_a_model_is_told_how_far_it_is(converted: Path) -> None:
    seen: list[tuple[int, int]] = []
    model: Any
    model, config = load_model(converted, lambda done, total: seen.append((done, total)))
    assert config == ModelConfig.from_dict(SHAPE.config())
    done, totals = zip(*seen, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert seen[-1][0] > 0.9 * seen[-1][1]
    parameters: Any = model.parameters()
    kinds = {array.dtype for array in dict(tree_flatten(parameters)).values()}
    assert kinds == {mx.float32, mx.bfloat16, mx.uint8, mx.uint32}


def test_packed_bits_are_those_of_the_file(tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE)
    model, _ = load_model(folder)
    parts = tensors(SHAPE)
    for n, layer in enumerate(model.layers):
        name = f"model.layers.{n}.mlp.experts"
        for side, first in (("gate_proj", 0), ("up_proj", 1)):
            matrix = getattr(layer.mlp.experts, side)
            blocks = parts[f"{name}.gate_up_proj_blocks"][:, first::2]
            words = np.ascontiguousarray(blocks).reshape(*blocks.shape[:2], -1).view("<u4")
            np.testing.assert_array_equal(np.array(matrix.weight), words)
            np.testing.assert_array_equal(np.array(matrix.scales), parts[f"{name}.gate_up_proj_scales"][:, first::2])


def test_float32_and_float16_checkpoints_load(folder: Path) -> None:
    wanted = load_model(folder)[0](mx.array([[1, 2, 3]]))

    def widen(arrays: dict[str, mx.array]) -> None:
        arrays.update({name: a.astype(mx.float32) for name, a in arrays.items() if a.dtype == mx.bfloat16})

    change_arrays(folder, widen)
    np.testing.assert_allclose(load_model(folder)[0](mx.array([[1, 2, 3]])), wanted, rtol=1e-5, atol=1e-5)

    def narrow(arrays: dict[str, mx.array]) -> None:
        arrays.update({name: a.astype(mx.float16) for name, a in arrays.items() if a.dtype == mx.float32})

    change_arrays(folder, narrow)
    np.testing.assert_allclose(load_model(folder)[0](mx.array([[1, 2, 3]])), wanted, rtol=0.02, atol=0.02)


def test_the_root_layout_is_preferred_to_original(tmp_path: Path) -> None:
    build(tmp_path / "original", SHAPE, "original")
    assert checkpoint_folder(tmp_path) == tmp_path / "original"
    build(tmp_path, SHAPE)
    assert checkpoint_folder(tmp_path) == tmp_path
    assert {file.parent for file in read_tensors(tmp_path)[0]} == {tmp_path}


def test_shards_are_found_with_and_without_an_index(tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE, shards=3)
    assert [file.name for file in read_tensors(folder)[0]] == [f"model-0000{i}-of-00002.safetensors" for i in range(3)]
    (folder / "model.safetensors.index.json").unlink()
    assert len(read_tensors(folder)[0]) == 3
    (folder / "consolidated.safetensors").write_bytes(b"")
    assert len(read_tensors(folder)[0]) == 3


# What is refused

LAYOUTS: dict[Layout, Callable[[Tensors], Tensors]] = {"hf": dict, "original": as_original, "bf16": as_bf16}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_missing_tensor_is_named(layout: Layout, tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE, layout, shards=1)
    parts = LAYOUTS[layout](tensors(SHAPE))
    for name in parts:
        if ".1." in name:
            continue  # the second layer is like the first
        write_safetensors(folder / "model.safetensors", {key: part for key, part in parts.items() if key != name})
        stem = name.rsplit(".", 1)[0] if layout != "original" else name
        refused(folder, "missing", stem.replace("model.layers.0", "layers.0"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unexpected_tensor_is_named(layout: Layout, tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE, layout, shards=1)
    parts = LAYOUTS[layout](tensors(SHAPE)) | {"rotary.inv_freq": np.zeros(4, np.uint16)}
    write_safetensors(folder / "model.safetensors", parts)
    refused(folder, "rotary.inv_freq", "unexpected")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_that_contradict_the_configuration_are_named(layout: Layout, tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE, layout, shards=1)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"vocab_size": 129}))
    refused(folder, "embed", "(129, 64)", "(128, 64)")
    (folder / "config.json").write_text(json.dumps(raw | {"intermediate_size": 96}))
    refused(folder, "mlp", "found" if layout != "hf" else "config.json")


@pytest.mark.parametrize("dtype", [mx.uint8, mx.int32, mx.bool_])
def test_a_wrong_dtype_is_named(dtype: mx.Dtype, folder: Path) -> None:
    name = "model.layers.1.self_attn.sinks"
    change_arrays(folder, lambda arrays: arrays.update({name: arrays[name].astype(dtype)}))
    refused(folder, name, str(dtype).removeprefix("mlx.core."))


def test_packed_words_must_be_words(folder: Path) -> None:
    name = "model.layers.0.mlp.experts.up_proj.weight"
    change_arrays(folder, lambda arrays: arrays.update({name: arrays[name].astype(mx.float32)}))
    refused(folder, name, "float32")


def test_byte_scales_must_be_bytes(folder: Path) -> None:
    name = "model.layers.0.mlp.experts.up_proj.scales"
    change_arrays(folder, lambda arrays: arrays.update({name: arrays[name].astype(mx.float32)}))
    refused(folder, "model.layers.0.mlp.experts.up_proj")


def test_an_entry_that_contradicts_the_tensors_is_named(folder: Path) -> None:
    change_entry(folder, "lm_head", {"group_size": 64, "bits": 4})
    refused(folder, "lm_head")
    change_entry(folder, "lm_head", {"group_size": 64, "bits": 9})
    refused(folder, "9 bits", kind=ConfigError)
    change_entry(folder, "lm_head", {"group_size": 64, "bits": 8})
    load_model(folder)


def test_an_entry_without_scales_is_named(folder: Path) -> None:
    change_arrays(folder, lambda arrays: arrays.pop("lm_head.scales"))
    refused(folder, "lm_head.scales", "missing", "index")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "lm_head.scales", "missing", "config.json")
    (folder / "config.json").write_text(json.dumps(SHAPE.config()))
    refused(folder, "lm_head.scales", "missing", "packed")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    refused(tmp_path, "config.json", "not found", kind=ConfigError)
    folder = build(tmp_path / "release", SHAPE, shards=3)
    file = folder / "model-00001-of-00002.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:5], whole[:100], whole[:-1], b"<html>" + whole):
        file.write_bytes(damaged)
        refused(folder, file.name)
    file.unlink()
    refused(folder, file.name, "not found", "index")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    refused(folder, "weight_map")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "missing")
    for rest in folder.glob("*.safetensors"):
        rest.unlink()
    refused(folder, "no model*.safetensors")


def test_a_tensor_in_two_files_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE)
    (folder / "model.safetensors.index.json").unlink()
    shutil.copy(folder / "model-00000-of-00001.safetensors", folder / "model-00002.safetensors")
    refused(folder, "also in", "expected once")


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_scales_that_overflow_are_named(layout: Layout, tmp_path: Path) -> None:
    parts = tensors(Shape())
    name = "model.layers.1.mlp.experts.down_proj_scales"
    parts[name] = parts[name].copy()
    parts[name][-1, -1, -1] = 254
    folder = build(tmp_path, Shape(), layout, parts=parts)
    with pytest.raises(CheckpointError, match=r"layers\.1.*scales.*253 expected, 254 found"):
        load_model(folder)
