"""Conversion: every bit where it belongs, from every layout, in mlx-lm's own folder format."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx_lm.utils
import numpy as np
import pytest
from mlx.utils import tree_flatten
from workbench import Array, contents, tensors

from gptoss_mlx.convert import affine, convert, mxfp8, synthesize
from gptoss_mlx.convert.tensorfile import read_header
from gptoss_mlx.errors import CheckpointError, ConversionError, RequestError
from tiny_tokenizer import tiny_tokenizer_json

LAYERS = 3


def _rows(array: Array, offset: int) -> Array:
    return array[:, offset::2]


def _expected_experts(release: dict[str, Array]) -> dict[str, Array]:
    """The experts' tensors of an MLX folder, straight from the definition of the formats."""
    found: dict[str, Array] = {}
    for layer in range(LAYERS):
        path = f"model.layers.{layer}.mlp.experts."
        for part, name in (("blocks", "weight"), ("scales", "scales"), ("bias", "bias")):
            both, down = release[f"{path}gate_up_proj_{part}"], release[f"{path}down_proj_{part}"]
            if part == "blocks":
                both, down = (x.reshape(*x.shape[:2], -1).view("<u4") for x in (both, down))
            found[f"{path}gate_proj.{name}"], found[f"{path}up_proj.{name}"] = _rows(both, 0), _rows(both, 1)
            found[f"{path}down_proj.{name}"] = down
    return found


@pytest.fixture(scope="module")
def release(sources: dict[str, Path]) -> dict[str, Array]:
    return tensors(sources["hf"])


class TestBits:
    @pytest.mark.parametrize("layout", ["hf", "original", "bf16", "mlx"])
    def test_everything_unquantised_is_bit_equal(
        self, layout: str, sources: dict[str, Path], release: dict[str, Array], tmp_path: Path
    ) -> None:
        convert(sources[layout], tmp_path / "out", dense="bf16")
        found = tensors(tmp_path / "out")
        expected = {name: array for name, array in release.items() if ".experts." not in name}
        expected |= _expected_experts(release)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype, name
            assert np.array_equal(found[name], array), name

    @pytest.mark.parametrize("layout", ["original", "bf16", "mlx"])
    @pytest.mark.parametrize("dense", ["q8", "q6", "q4", "mxfp8"])
    def test_every_layout_gives_the_same_weights(
        self, layout: str, dense: str, sources: dict[str, Path], tmp_path: Path
    ) -> None:
        for name in ("hf", layout):
            convert(sources[name], tmp_path / name, dense=dense)
        first, second = tmp_path / "hf", tmp_path / layout
        assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
        index = "model.safetensors.index.json"
        assert (first / index).read_bytes() == (second / index).read_bytes()

    @pytest.mark.parametrize("dense", ["q8", "q6", "q4", "mxfp8"])
    def test_dense_parts_are_the_quantised_source(
        self, dense: str, sources: dict[str, Path], release: dict[str, Array], tmp_path: Path
    ) -> None:
        convert(sources["hf"], tmp_path / "out", dense=dense)
        found = tensors(tmp_path / "out")
        for path in ("lm_head", "model.embed_tokens", "model.layers.2.self_attn.o_proj"):
            weight = release[f"{path}.weight"]
            parts = mxfp8.encode(weight) if dense == "mxfp8" else affine.encode(weight, int(dense[1:]), 64)
            for part, array in zip(("weight", "scales", "biases"), parts, strict=False):
                assert np.array_equal(found[f"{path}.{part}"], array)
        router = "model.layers.1.mlp.router"
        assert np.array_equal(found[f"{router}.weight"], affine.encode(release[f"{router}.weight"], 8, 64)[0])
        assert all(np.array_equal(found[name], array) for name, array in _expected_experts(release).items())

    @pytest.mark.parametrize("experts", ["q4", "q8"])
    def test_affine_experts_are_alike_from_packed_and_unpacked(
        self, experts: str, sources: dict[str, Path], tmp_path: Path
    ) -> None:
        for layout in ("hf", "bf16", "mlx"):
            convert(sources[layout], tmp_path / layout, experts=experts)
        first = tensors(tmp_path / "hf")
        assert first["model.layers.0.mlp.experts.up_proj.biases"].shape == (8, 192, 2)
        for layout in ("bf16", "mlx"):
            other = tensors(tmp_path / layout)
            assert all(np.array_equal(other[name], array) for name, array in first.items())

    def test_output_shards_may_cut_anywhere(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "one")
        for limit in (60_000, 150_000, 500_000):
            convert(sources["hf"], tmp_path / str(limit), shard_bytes=limit)
            count = len(list((tmp_path / str(limit)).glob("model-*.safetensors")))
            assert count > 2
            assert (tmp_path / str(limit) / f"model-{count:05d}-of-{count:05d}.safetensors").exists()
            whole, parts = tensors(tmp_path / "one"), tensors(tmp_path / str(limit))
            assert whole.keys() == parts.keys()
            assert all(np.array_equal(parts[name], array) for name, array in whole.items())

    def test_source_shards_may_cut_anywhere(self, tmp_path: Path) -> None:
        for limit in (1, 30_000, 10**9):
            synthesize(tmp_path / f"s{limit}", layers=2, shard_bytes=limit)
            convert(tmp_path / f"s{limit}", tmp_path / f"m{limit}")
        files = {limit: (tmp_path / f"m{limit}" / "model.safetensors").read_bytes() for limit in (1, 30_000, 10**9)}
        assert len(set(files.values())) == 1

    def test_an_index_is_not_needed(self, damaged: Path, sources: dict[str, Path], tmp_path: Path) -> None:
        (damaged / "model.safetensors.index.json").unlink()
        convert(damaged, tmp_path / "a")
        convert(sources["hf"], tmp_path / "b")
        assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
            tmp_path / "b" / "model.safetensors"
        ).read_bytes()

    def test_rows_that_64_does_not_divide_get_groups_of_32(self, tmp_path: Path) -> None:
        synthesize(tmp_path / "source", layers=2, hidden_size=96, intermediate_size=64)
        convert(tmp_path / "source", tmp_path / "out", dense="q4")
        raw = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
        assert raw["lm_head"] == {"group_size": 32, "bits": 4, "mode": "affine"}
        assert raw["model.layers.0.self_attn.o_proj"]["group_size"] == 64
        mlx_lm.utils.load_model(tmp_path / "out")


def _mlx_lm_folder(source: Path, destination: Path, **options: Any) -> None:
    model, config = mlx_lm.utils.load_model(source, lazy=True)
    if options:
        model, config = mlx_lm.utils.quantize_model(model, config, **options)
    mlx_lm.utils.save_model(destination, model)
    mlx_lm.utils.save_config(config, destination / "config.json")


class _Limit(int):
    """Bytes where mlx-lm expects GB: it shifts its argument."""

    def __lshift__(self, by: int) -> int:
        return int(self)


MLX_LM_OPTIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "q8": {"group_size": 64, "bits": 8},
    "q6": {"group_size": 64, "bits": 6},
    "q4": {"group_size": 64, "bits": 4},
    "mxfp8": {"group_size": None, "bits": None, "mode": "mxfp8"},
}


class TestFolderFormat:
    @pytest.mark.parametrize("dense", list(MLX_LM_OPTIONS))
    def test_is_what_mlx_lm_writes(self, dense: str, sources: dict[str, Path], tmp_path: Path) -> None:
        """config.json and the index to the byte; every tensor and the file's metadata."""
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        convert(sources["hf"], ours, dense=dense)
        _mlx_lm_folder(sources["hf"], theirs, **MLX_LM_OPTIONS[dense])
        for name in ("config.json", "model.safetensors.index.json"):
            assert (ours / name).read_text() == (theirs / name).read_text()
        assert read_header(ours / "model.safetensors")[1] == read_header(theirs / "model.safetensors")[1]
        found, wanted = tensors(ours), tensors(theirs)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], array) for name, array in wanted.items())

    def test_shards_are_cut_where_mlx_lm_cuts_them(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "out", shard_bytes=3 << 17)
        model: Any = mlx_lm.utils.load_model(tmp_path / "out")[0]
        weights: dict[str, Any] = dict(tree_flatten(model.parameters()))
        cut = mlx_lm.utils.make_shards(weights, _Limit(3 << 17))
        files = sorted((tmp_path / "out").glob("model-*.safetensors"))
        assert [set(read_header(file)[0]) for file in files] == [set(shard) for shard in cut]

    @pytest.mark.parametrize(("dense", "experts"), [("bf16", "mxfp4"), ("q8", "mxfp4"), ("mxfp8", "q8"), ("q4", "q4")])
    def test_mlx_lm_loads_it_unchanged(
        self, dense: str, experts: str, sources: dict[str, Path], tmp_path: Path
    ) -> None:
        convert(sources["hf"], tmp_path / "out", dense=dense, experts=experts)
        model, config = mlx_lm.utils.load_model(tmp_path / "out", strict=True)
        kind = model.model.layers[0].mlp.experts.gate_proj
        assert (kind.mode, kind.bits) == (("mxfp4", 4) if experts == "mxfp4" else ("affine", int(experts[1:])))
        assert config["quantization"] == config["quantization_config"]

    def test_original_config_becomes_the_release_dialect(self, sources: dict[str, Path], tmp_path: Path) -> None:
        for layout in ("hf", "original"):
            convert(sources[layout], tmp_path / layout)
        assert (tmp_path / "hf" / "config.json").read_text() == (tmp_path / "original" / "config.json").read_text()

    def test_original_may_be_named_itself(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["original"], tmp_path / "a")
        convert(sources["original"] / "original", tmp_path / "b")
        assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
            tmp_path / "b" / "model.safetensors"
        ).read_bytes()


class TestSideFiles:
    def test_stop_tokens_are_all_three(self, damaged: Path, tmp_path: Path) -> None:
        (damaged / "generation_config.json").write_text('{"eos_token_id": 200002, "temperature": 0.5}')
        convert(damaged, tmp_path / "out")
        generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert generation == {"eos_token_id": [200002, 199999, 200012], "temperature": 0.5}
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["eos_token_id"] == [200002, 199999, 200012]

    def test_a_complete_generation_config_is_copied(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "out")
        name = "generation_config.json"
        assert (tmp_path / "out" / name).read_bytes() == (sources["hf"] / name).read_bytes()

    def test_other_tokenizers_keep_their_ids(self, damaged: Path, tmp_path: Path) -> None:
        (damaged / "tokenizer.json").write_text(tiny_tokenizer_json())
        ids = {t["content"]: t["id"] for t in json.loads(tiny_tokenizer_json())["added_tokens"]}
        (damaged / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids["<|return|>"]]}))
        convert(damaged, tmp_path / "out")
        stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
        assert stops == [ids["<|return|>"], ids["<|endoftext|>"], ids["<|call|>"]]

    def test_tokenizer_files_are_copied_verbatim(self, damaged: Path, tmp_path: Path) -> None:
        texts = {
            "tokenizer.json": tiny_tokenizer_json(),
            "tokenizer_config.json": '{ "odd":  "spacing" }\n',
            "special_tokens_map.json": "{}",
            "chat_template.jinja": "{# template #}",
            "LICENSE": "licence",
        }
        for name, text in texts.items():
            (damaged / name).write_text(text)
        (damaged / "README.md").write_text("the source's own card")
        convert(damaged, tmp_path / "out")
        for name, text in texts.items():
            assert (tmp_path / "out" / name).read_text() == text

    def test_tokenizer_beside_original_is_found(self, sources: dict[str, Path], tmp_path: Path) -> None:
        source = Path(shutil.copytree(sources["original"], tmp_path / "source"))
        (source / "tokenizer.json").write_text(tiny_tokenizer_json())
        convert(source, tmp_path / "out")
        assert (tmp_path / "out" / "tokenizer.json").read_text() == tiny_tokenizer_json()

    def test_a_foreign_tokenizer_is_refused(self, damaged: Path, tmp_path: Path) -> None:
        (damaged / "tokenizer.json").write_text('{"added_tokens": [{"id": 1, "content": "<s>"}]}')
        with pytest.raises(CheckpointError, match="lacks the harmony token"):
            convert(damaged, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.partial").exists()

    def test_model_card_states_source_preset_sizes_and_command(self, sources: dict[str, Path], tmp_path: Path) -> None:
        report = convert(sources["hf"], tmp_path / "my-model", dense="q6")
        card = (tmp_path / "my-model" / "README.md").read_text()
        assert "gptoss-mlx convert hf my-model --dense q6 --experts mxfp4" in card
        assert "affine 6-bit" in card
        assert f"{report.parameters:,}" in card
        assert f"{report.bytes_read:,} bytes" in card

    def test_model_card_names_the_hub_repository(self, sources: dict[str, Path], tmp_path: Path) -> None:
        snapshot = tmp_path / "models--openai--gpt-oss-20b" / "snapshots" / "abc"
        shutil.copytree(sources["hf"], snapshot)
        convert(snapshot, tmp_path / "out")
        assert "base_model: openai/gpt-oss-20b" in (tmp_path / "out" / "README.md").read_text()


class TestChangeOfPreset:
    def test_experts_keep_their_bits_and_the_loss_is_told(
        self, sources: dict[str, Path], release: dict[str, Array], tmp_path: Path
    ) -> None:
        convert(sources["hf"], tmp_path / "q8")
        report = convert(tmp_path / "q8", tmp_path / "q4", dense="q4")
        found = tensors(tmp_path / "q4")
        assert all(np.array_equal(found[name], array) for name, array in _expected_experts(release).items())
        assert "already affine 8-bit" in report.notes[0]
        assert "already affine 8-bit" in (tmp_path / "q4" / "README.md").read_text()

    def test_the_same_preset_changes_nothing(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "a", dense="mxfp8")
        report = convert(tmp_path / "a", tmp_path / "b", dense="mxfp8")
        assert report.notes == ()
        assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
            tmp_path / "b" / "model.safetensors"
        ).read_bytes()

    def test_affine_experts_are_not_rounded_again(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "q4", experts="q4")
        for experts in ("mxfp4", "q8"):
            with pytest.raises(ConversionError, match="second rounding"):
                convert(tmp_path / "q4", tmp_path / "out", experts=experts)
        assert not (tmp_path / "out").exists()


class TestDestination:
    def test_is_not_overwritten_unasked(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "out")
        before = contents(tmp_path / "out")
        with pytest.raises(ConversionError, match="--overwrite"):
            convert(sources["hf"], tmp_path / "out", dense="q4")
        assert contents(tmp_path / "out") == before

    def test_is_replaced_when_asked(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "out")
        convert(sources["hf"], tmp_path / "out", dense="q4", overwrite=True)
        convert(sources["hf"], tmp_path / "fresh", dense="q4")
        ours, fresh = contents(tmp_path / "out"), contents(tmp_path / "fresh")
        assert ours.pop("README.md") != fresh.pop("README.md")  # they name the folder
        assert ours == fresh
        assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]

    def test_old_output_stays_until_the_new_one_is_complete(self, sources: dict[str, Path], tmp_path: Path) -> None:
        convert(sources["hf"], tmp_path / "out")
        before = contents(tmp_path / "out")

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert(sources["hf"], tmp_path / "out", dense="q4", overwrite=True, progress=stop)
        assert contents(tmp_path / "out") == before

    def test_what_is_no_model_is_never_replaced(self, sources: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(ConversionError, match="not a model folder"):
            convert(sources["hf"], tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / "thesis.tex").exists()

    def test_an_empty_folder_is_used(self, sources: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        convert(sources["hf"], tmp_path / "out")
        assert (tmp_path / "out" / "config.json").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_the_source_is_never_the_destination(self, damaged: Path) -> None:
        for place in (damaged, damaged.parent):
            with pytest.raises(ConversionError, match="holds the source"):
                convert(damaged, place, overwrite=True)
        assert (damaged / "config.json").exists()

    def test_a_small_disk_is_refused_with_numbers(
        self, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000_000}))
        with pytest.raises(ConversionError, match=r"0\.07 GB needed, 0\.01 GB free"):
            convert(sources["hf"], tmp_path / "out")
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize(("dense", "experts"), [("q5", "mxfp4"), ("q8", "bf16")])
    def test_unknown_presets_are_refused(
        self, dense: str, experts: str, sources: dict[str, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(RequestError, match="must be one of"):
            convert(sources["hf"], tmp_path / "out", dense=dense, experts=experts)
        assert not any(tmp_path.iterdir())


def test_progress_counts_every_byte(sources: dict[str, Path], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = convert(sources["hf"], tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    assert (
        calls[-1][0]
        == calls[-1][1]
        == json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    )
    assert report.bytes_written == (tmp_path / "out" / "model.safetensors").stat().st_size


PEAK = """
import resource
from gptoss_mlx.convert import convert
convert({source!r}, {out!r}, shard_bytes=50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peaks = []
    for layers in (2, 18):
        source, out = tmp_path / f"source{layers}", tmp_path / f"out{layers}"
        synthesize(source, layers=layers, experts=16, hidden_size=512, intermediate_size=512)
        script = PEAK.format(source=str(source), out=str(out))
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) * (1 if sys.platform == "darwin" else 1024))
    size = sum(path.stat().st_size for path in (tmp_path / "out18").iterdir())
    assert size > 120_000_000
    assert peaks[1] - peaks[0] < 30_000_000
