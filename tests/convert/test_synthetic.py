"""Random checkpoints: the release's files to the byte, one model in every layout, magnitudes that hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from workbench import Array, contents, tensors

from gptoss_mlx.convert import mxfp4, synthesize, synthetic
from gptoss_mlx.convert.names import release_tensors
from gptoss_mlx.convert.tensorfile import read_header, to_float32
from gptoss_mlx.errors import ConfigError, ConversionError, RequestError
from tiny_tokenizer import tiny_tokenizer_json

SIZES_20B = [4792272488, 4798702184, 4170342232]
SIZES_120B = [
    4625017896, 4115586736, 4625017888, 4115586752, 4625017896, 4115586696, 4625017856, 4060267176,
    4625017896, 4170906304, 4625017896, 4115586752, 4064660808, 4625017896, 4115586736,
]  # fmt: skip
SIZES_ORIGINAL_120B = [
    10544040680, 10488721680, 10488721688, 10488721672, 10488721680, 10433402600, 2316539800,
]  # fmt: skip


def _plan(size: str, layout: str) -> Any:
    return synthetic.plan(synthetic.SIZES[size], layout)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class TestReleasePlan:
    def test_20b_files_have_the_released_sizes(self) -> None:
        plan = _plan("20b", "hf")
        assert [file.size for file in plan.files] == SIZES_20B
        assert [file.name for file in plan.files] == [f"model-0000{k}-of-00002.safetensors" for k in range(3)]
        assert plan.total_size == 13_761_264_768
        assert len(plan.order) == 459

    def test_120b_files_have_the_released_sizes(self) -> None:
        plan = _plan("120b", "hf")
        assert [file.size for file in plan.files] == SIZES_120B
        assert plan.total_size == 65_248_815_744
        assert len(plan.order) == 687

    def test_index_files_are_the_released_ones(self) -> None:
        assert _sha256(_plan("120b", "hf").index()).startswith("ede2655fdc05008561983b6e0829c600")
        assert _sha256(_plan("20b", "hf").index()).startswith("0e085b977c4c9942f85938828e8c989e")

    def test_original_files_have_the_released_sizes(self) -> None:
        (single,) = _plan("20b", "original").files
        assert (single.name, single.size) == ("model.safetensors", 13_761_300_984)
        split = _plan("120b", "original").files
        assert [file.size for file in split] == SIZES_ORIGINAL_120B
        assert split[0].name == "model--00001-of-00007.safetensors"

    def test_layers_straddle_files(self) -> None:
        where = json.loads(_plan("20b", "hf").index())["weight_map"]
        experts = "model.layers.6.mlp.experts.gate_up_proj"
        assert where[f"{experts}_bias"] != where[f"{experts}_blocks"]
        attention = "model.layers.18.self_attn.k_proj"
        assert where[f"{attention}.bias"] != where[f"{attention}.weight"]

    @pytest.mark.parametrize(("size", "start"), [("20b", "3a2a26ded679375b"), ("120b", "933aeb666a3fd851")])
    def test_config_is_the_released_one(self, size: str, start: str, tmp_path: Path) -> None:
        raw = synthetic.release_config(synthetic.SIZES[size])
        text = json.dumps(raw, indent=2, sort_keys=True) + "\n"
        assert _sha256(text).startswith(start)

    def test_generation_config_is_the_released_one(self, sources: dict[str, Path]) -> None:
        text = (sources["hf"] / "generation_config.json").read_text()
        assert _sha256(text).startswith("f9970ada892d2d1f")


class TestFiles:
    def test_release_files_have_no_metadata_and_bf16_first(self, sources: dict[str, Path]) -> None:
        paths = sorted(sources["hf"].glob("*.safetensors"))
        assert len(paths) > 2
        for path in paths:
            stored, metadata = read_header(path)
            assert metadata == {}
            order = sorted(stored, key=lambda name: stored[name].start)
            assert order == sorted(stored, key=lambda name: (stored[name].dtype != "BF16", name))

    def test_the_safetensors_package_reads_them(self, sources: dict[str, Path]) -> None:
        from safetensors import safe_open

        ours = tensors(sources["hf"])
        for path in sources["hf"].glob("*.safetensors"):
            with safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118
                    assert file.get_slice(name).get_shape() == list(ours[name].shape)
                    if ours[name].dtype == np.uint8:
                        assert np.array_equal(file.get_tensor(name), ours[name])

    def test_original_side_files(self, sources: dict[str, Path]) -> None:
        folder = sources["original"] / "original"
        dtypes = json.loads((folder / "dtypes.json").read_text())
        assert set(dtypes) == set(tensors(folder))
        assert dtypes["block.0.mlp.mlp1_weight.blocks"] == "FP4"
        assert dtypes["block.0.mlp.mlp1_weight.scales"] == "UE8"
        assert dtypes["block.0.attn.sinks"] == "BF16"
        assert json.loads((folder / "config.json").read_text())["num_experts"] == 8

    def test_same_seed_same_bytes_other_seed_other_bytes(self, tmp_path: Path) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            synthesize(tmp_path / name, layers=1, seed=seed)
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
        first, other = tensors(tmp_path / "a"), tensors(tmp_path / "c")
        assert not any(np.array_equal(first[name], other[name]) for name in first)

    def test_tokenizer_files_come_along(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer").mkdir()
        (tmp_path / "tokenizer" / "tokenizer.json").write_text(tiny_tokenizer_json())
        folder = synthesize(tmp_path / "out", layers=1, tokenizer=tmp_path / "tokenizer")
        assert (folder / "tokenizer.json").read_text() == tiny_tokenizer_json()
        added = {t["content"]: t["id"] for t in json.loads(tiny_tokenizer_json())["added_tokens"]}
        stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        assert stops == [added["<|return|>"], added["<|endoftext|>"], added["<|call|>"]]
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == added["<|return|>"]

    def test_progress_ends_at_the_total(self, tmp_path: Path) -> None:
        calls: list[tuple[int, int]] = []
        synthesize(tmp_path / "out", layers=1, progress=lambda done, total: calls.append((done, total)))
        assert calls[-1][0] == calls[-1][1]
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)


class TestLayouts:
    def test_original_holds_the_same_model(self, sources: dict[str, Path]) -> None:
        ours, theirs = tensors(sources["hf"]), tensors(sources["original"] / "original")
        layer, block = "model.layers.1.", "block.1."
        fused = np.concatenate([ours[f"{layer}self_attn.{x}_proj.weight"] for x in "qkv"])
        assert np.array_equal(theirs[block + "attn.qkv.weight"], fused)
        assert np.array_equal(theirs["unembedding.weight"], ours["lm_head.weight"])
        for part in ("blocks", "scales"):
            packed = ours[f"{layer}mlp.experts.down_proj_{part}"]
            assert np.array_equal(theirs[f"{block}mlp.mlp2_weight.{part}"], packed)

    def test_bf16_holds_the_dequantised_values(self, sources: dict[str, Path]) -> None:
        ours, theirs = tensors(sources["hf"]), tensors(sources["bf16"])
        for layer in range(3):
            for name in ("gate_up_proj", "down_proj"):
                path = f"model.layers.{layer}.mlp.experts.{name}"
                blocks = ours[f"{path}_blocks"]
                values = mxfp4.decode(blocks.reshape(*blocks.shape[:2], -1), ours[f"{path}_scales"])
                assert np.array_equal(theirs[path], values.swapaxes(1, 2))
        raw = json.loads((sources["bf16"] / "config.json").read_text())
        assert "quantization_config" not in raw

    def test_largest_code_of_each_block_is_a_4_or_a_6(self, sources: dict[str, Path]) -> None:
        blocks = tensors(sources["hf"])["model.layers.0.mlp.experts.gate_up_proj_blocks"]
        assert set(np.unique(np.maximum(blocks & 7, blocks >> 4 & 7).max(axis=-1))) <= {6, 7}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Array:
    """An lm_head large enough to be cut out of the pool."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    synthesize(folder, layers=1, experts=4, hidden_size=512, vocab_size=1024)
    found = tensors(folder)["lm_head.weight"]
    assert found.size > 1 << 18
    return found


class TestMagnitudes:
    def test_activations_neither_vanish_nor_explode_over_36_layers(self, tmp_path: Path) -> None:
        synthesize(tmp_path / "deep", layers=36, experts=4, hidden_size=64, intermediate_size=64, vocab_size=64)
        model: Any = load_model(tmp_path / "deep")[0]
        model.set_dtype(mx.float32)
        tokens = mx.arange(24)[None]
        states = model.model.embed_tokens(tokens)
        spread = [states.std().item()]
        for layer in model.model.layers:
            states = layer(states, "causal", None)
            spread.append(states.std().item())
        assert all(0.5 < value < 10 for value in spread)
        assert 1 < model(tokens).std().item() < 4

    def test_large_tensors_have_the_deviation_of_small_ones(self, wide: Array) -> None:
        values = to_float32(wide)  # the pool is scaled by powers of two only
        assert 0.7 < values.std() * 512**0.5 / 2 < 1.5
        assert abs(values.mean()) < 0.01 * values.std()
        assert np.abs(values).max() < 10 * values.std()

    def test_no_two_rows_repeat_each_other(self, wide: Array) -> None:
        assert len(np.unique(wide[:, :64], axis=0)) == len(wide)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"size": "7b"}, RequestError, "size must be one of"),
            ({"layout": "gguf"}, RequestError, "layout must be one of"),
            ({"hiden_size": 64}, RequestError, "no field 'hiden_size'"),
            ({"hidden_size": 100}, ConfigError, "multiple of 32"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
        with pytest.raises(error, match=words):
            synthesize(tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def test_a_full_folder_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ConversionError, match="not an empty folder"):
            synthesize(tmp_path)

    def test_a_small_disk_is_refused_with_numbers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
        with pytest.raises(ConversionError, match=r"13\.8 GB needed, 1\.0 GB free"):
            synthesize(tmp_path / "out", "20b")


def test_released_tensor_counts() -> None:
    assert len(release_tensors(synthetic.SIZES["20b"])) == 3 + 19 * 24
