"""`verify` accepts what a conversion made and notices every kind of damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx_lm.utils
import numpy as np
import pytest
from workbench import Entry, edit

from gptoss_mlx.convert import TensorCheck, convert, synthesize, verify
from gptoss_mlx.errors import CheckpointError


@pytest.fixture(scope="module")
def made(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A default conversion of the random model."""
    folder = tmp_path_factory.mktemp("made") / "out"
    convert(sources["hf"], folder)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def _flip(folder: Path, name: str, bit: int = 0, place: int = 0) -> None:
    """Flip one bit of one byte of a tensor."""

    def flip(entries: dict[str, Entry]) -> None:
        dtype, shape, data = entries[name]
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        entries[name] = dtype, shape, bytes(changed)

    edit(folder, flip, name)


@pytest.mark.parametrize("layout", ["hf", "original", "bf16", "mlx"])
@pytest.mark.parametrize(("dense", "experts"), [("bf16", "mxfp4"), ("q8", "mxfp4"), ("mxfp8", "q8"), ("q4", "q4")])
def test_conversions_hold(layout: str, dense: str, experts: str, sources: dict[str, Path], tmp_path: Path) -> None:
    convert(sources[layout], tmp_path / "out", dense=dense, experts=experts)
    report = verify(sources[layout], tmp_path / "out")
    assert report.ok
    assert report.problems == ()
    assert not any(check.differing for check in report.checks)  # quantised parts too: the same quantiser


def test_every_weight_is_looked_at_once(sources: dict[str, Path], made: Path) -> None:
    report = verify(sources["hf"], made)
    index = json.loads((made / "model.safetensors.index.json").read_text())
    sinks = 3 * 8
    assert sum(check.weights for check in report.checks) == index["metadata"]["total_parameters"] + sinks
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names))
    assert {check.kind for check in report.checks} == {"copied", "dense", "router", "experts"}


def test_errors_are_those_of_the_quantization(sources: dict[str, Path], tmp_path: Path) -> None:
    worst: dict[str, float] = {}
    for dense in ("q8", "q6", "q4", "mxfp8"):
        convert(sources["hf"], tmp_path / dense, dense=dense)
        checks = verify(sources["hf"], tmp_path / dense).checks
        worst[dense] = max(check.relative_rms for check in checks if check.kind == "dense")
        assert all(check.relative_rms == 0 for check in checks if check.kind in ("copied", "experts"))
    assert 0.004 < worst["q8"] < 0.01 < worst["q6"] < 0.03 < worst["q4"] < 0.11
    assert 0.02 < worst["mxfp8"] < 0.035


@pytest.mark.parametrize("dense", ["bf16", "q8", "mxfp8"])
def test_mlx_lm_conversions_hold(dense: str, sources: dict[str, Path], tmp_path: Path) -> None:
    model, config = mlx_lm.utils.load_model(sources["hf"], lazy=True)
    if dense == "mxfp8":
        model, config = mlx_lm.utils.quantize_model(model, config, None, None, mode="mxfp8")
    elif dense == "q8":
        model, config = mlx_lm.utils.quantize_model(model, config, 64, 8)
    mlx_lm.utils.save_model(tmp_path / "out", model)
    mlx_lm.utils.save_config(config, tmp_path / "out" / "config.json")
    assert verify(sources["hf"], tmp_path / "out").ok


def _wrong(source: Path, folder: Path) -> list[TensorCheck]:
    report = verify(source, folder)
    assert not report.ok
    return [check for check in report.checks if not check.ok]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.experts.gate_proj.weight",
        "model.layers.1.mlp.experts.up_proj.scales",
        "model.layers.2.mlp.experts.down_proj.weight",
    ],
)
def test_one_flipped_bit_in_the_experts(name: str, sources: dict[str, Path], copy: Path) -> None:
    _flip(copy, name, place=-1)
    (check,) = _wrong(sources["hf"], copy)
    assert (check.name, check.differing) == (name.rsplit(".", 1)[0], 1)


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "model.layers.1.self_attn.sinks",
        "model.layers.1.self_attn.v_proj.bias",
        "model.layers.2.mlp.experts.up_proj.bias",
    ],
)
def test_one_flipped_bit_in_a_copied_tensor(name: str, sources: dict[str, Path], copy: Path) -> None:
    _flip(copy, name)
    (check,) = _wrong(sources["hf"], copy)
    assert (check.name, check.differing) == (name, 1)


def test_last_bits_of_quantised_weights_may_differ_and_are_told(sources: dict[str, Path], copy: Path) -> None:
    _flip(copy, "lm_head.weight", bit=0)
    report = verify(sources["hf"], copy)
    assert report.ok
    assert [check.name for check in report.checks if check.differing] == ["lm_head"]


def test_higher_bits_of_quantised_weights_may_not(sources: dict[str, Path], copy: Path) -> None:
    _flip(copy, "lm_head.weight", bit=6)
    (check,) = _wrong(sources["hf"], copy)
    assert (check.name, check.beyond) == ("lm_head", 1)


def test_gate_and_up_swapped(sources: dict[str, Path], copy: Path) -> None:
    def swap(entries: dict[str, Entry]) -> None:
        for part in ("weight", "scales", "bias"):
            gate, up = (f"model.layers.0.mlp.experts.{x}_proj.{part}" for x in ("gate", "up"))
            entries[gate], entries[up] = entries[up], entries[gate]

    edit(copy, swap)
    assert len(_wrong(sources["hf"], copy)) == 4


def test_another_model(made: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", layers=3, seed=6)
    assert len(_wrong(tmp_path / "other", made)) == len(verify(tmp_path / "other", made).checks)


def test_not_a_number_in_a_scale(sources: dict[str, Path], copy: Path) -> None:
    def poison(entries: dict[str, Entry]) -> None:
        dtype, shape, data = entries["lm_head.scales"]
        array = np.frombuffer(data, "<u2").copy()
        array[0] = 0x7FC0
        entries["lm_head.scales"] = dtype, shape, array.tobytes()

    edit(copy, poison)
    (check,) = _wrong(sources["hf"], copy)
    assert check.beyond == 64


class TestConsistency:
    def _problems(self, source: Path, folder: Path) -> str:
        report = verify(source, folder)
        assert not report.ok
        return "\n".join(report.problems)

    def test_quantization_and_its_copy(self, sources: dict[str, Path], copy: Path) -> None:
        raw = json.loads((copy / "config.json").read_text())
        raw["quantization_config"] = {}
        (copy / "config.json").write_text(json.dumps(raw))
        assert "not a copy" in self._problems(sources["hf"], copy)

    def test_quantization_that_says_something_else(self, sources: dict[str, Path], copy: Path) -> None:
        raw = json.loads((copy / "config.json").read_text())
        raw["quantization"]["lm_head"]["bits"] = 4
        raw["quantization_config"] = raw["quantization"]
        (copy / "config.json").write_text(json.dumps(raw))
        assert "lm_head is affine 8-bit g64, quantization says affine 4-bit g64" in self._problems(sources["hf"], copy)

    def test_total_size(self, sources: dict[str, Path], copy: Path) -> None:
        path = copy / "model.safetensors.index.json"
        raw = json.loads(path.read_text())
        raw["metadata"]["total_size"] += 1
        path.write_text(json.dumps(raw))
        assert "total_size" in self._problems(sources["hf"], copy)

    def test_index_that_leaves_a_tensor_out(self, sources: dict[str, Path], copy: Path) -> None:
        path = copy / "model.safetensors.index.json"
        raw = json.loads(path.read_text())
        del raw["weight_map"]["model.norm.weight"]
        path.write_text(json.dumps(raw))
        assert "model.norm.weight" in self._problems(sources["hf"], copy)

    def test_stop_tokens(self, sources: dict[str, Path], copy: Path) -> None:
        raw = json.loads((copy / "config.json").read_text())
        raw["eos_token_id"] = [200002]
        (copy / "config.json").write_text(json.dumps(raw))
        assert "lacks [199999, 200012]" in self._problems(sources["hf"], copy)

    def test_other_architecture_numbers(self, sources: dict[str, Path], copy: Path) -> None:
        raw = json.loads((copy / "config.json").read_text())
        raw["sliding_window"] = 64
        (copy / "config.json").write_text(json.dumps(raw))
        assert "another model" in self._problems(sources["hf"], copy)


def test_only_mlx_folders_are_verified(sources: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="an MLX folder expected"):
        verify(sources["hf"], sources["original"])
