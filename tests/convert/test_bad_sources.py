"""Each kind of damage gives one clear line and leaves no output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from workbench import Entry, edit

from gptoss_mlx.convert import convert, synthesize
from gptoss_mlx.errors import CheckpointError, ConfigError, GptOssError

Change = Callable[[dict[str, Entry]], None]
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
SCALES = "model.layers.1.mlp.experts.down_proj_scales"
LM_HEAD = "lm_head.weight"


def _refused(source: Path, *words: str, error: type[GptOssError] = CheckpointError, dense: str = "q8") -> None:
    """Converting fails with one line that holds all the words, and nothing is left beside the source."""
    before = sorted(path.name for path in source.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(source, source.parent / "out", dense=dense)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert sorted(path.name for path in source.parent.iterdir()) == before


def _change(name: str, to: Callable[[Entry], Entry]) -> Change:
    def change(entries: dict[str, Entry]) -> None:
        entries[name] = to(entries[name])

    return change


def _poke(name: str, place: int, value: int, dtype: str) -> Change:
    """Set one item of a tensor."""

    def poke(entry: Entry) -> Entry:
        array = np.frombuffer(entry[2], dtype).copy()
        array[place] = value
        return entry[0], entry[1], array.tobytes()

    return _change(name, poke)


def _config(folder: Path, **fields: object) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | fields))


class TestTensors:
    def test_wrong_dtype(self, damaged: Path) -> None:
        edit(damaged, _change(Q_PROJ, lambda e: ("F16", e[1], e[2])), Q_PROJ)
        _refused(damaged, Q_PROJ, "BF16 expected, F16 found")

    def test_dtype_of_another_width(self, damaged: Path) -> None:
        edit(damaged, _change(Q_PROJ, lambda e: ("F8_E4M3", (*e[1], 2), e[2])), Q_PROJ)
        _refused(damaged, Q_PROJ, "BF16 expected, F8_E4M3 found")

    def test_wrong_shape(self, damaged: Path) -> None:
        edit(damaged, _change(Q_PROJ, lambda e: (e[0], e[1][::-1], e[2])), Q_PROJ)
        _refused(damaged, Q_PROJ, "shape [256, 128] expected, [128, 256] found")

    def test_missing(self, damaged: Path) -> None:
        edit(damaged, lambda entries: entries.pop(Q_PROJ) and None, Q_PROJ)
        _refused(damaged, Q_PROJ, "missing")

    def test_missing_without_an_index(self, damaged: Path) -> None:
        (damaged / "model.safetensors.index.json").unlink()
        edit(damaged, lambda entries: entries.pop(Q_PROJ) and None, Q_PROJ)
        _refused(damaged, Q_PROJ, "missing")

    def test_unexpected(self, damaged: Path) -> None:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        edit(damaged, lambda entries: entries.update({name: ("F32", (1,), b"1234")}))
        _refused(damaged, name, "unexpected")

    def test_more_layers_than_the_config_says(self, damaged: Path) -> None:
        _config(damaged, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
        _refused(damaged, "model.layers.2.", "unexpected")

    def test_fewer_layers_than_the_config_says(self, damaged: Path) -> None:
        _config(damaged, num_hidden_layers=4, layer_types=[])
        _refused(damaged, "model.layers.3.", "missing")

    def test_twice(self, damaged: Path) -> None:
        files = sorted(damaged.glob("model*.safetensors"))
        (damaged / "model-copy.safetensors").write_bytes(files[0].read_bytes())
        (damaged / "model.safetensors.index.json").unlink()
        _refused(damaged, "expected once")


class TestFiles:
    def test_truncated(self, damaged: Path) -> None:
        path = sorted(damaged.glob("model*.safetensors"))[1]
        path.write_bytes(path.read_bytes()[:-1])
        _refused(damaged, path.name, "truncated")

    @pytest.mark.parametrize("length", [0, 7, 8, 100])
    def test_truncated_in_the_header(self, length: int, damaged: Path) -> None:
        path = sorted(damaged.glob("model*.safetensors"))[1]
        path.write_bytes(path.read_bytes()[:length])
        _refused(damaged, path.name, "truncated or not a safetensors file")

    def test_something_else(self, damaged: Path) -> None:
        path = sorted(damaged.glob("model*.safetensors"))[1]
        path.write_bytes((20).to_bytes(8, "little") + b"no JSON here, sorry!" * 9)
        _refused(damaged, path.name, "not readable as safetensors")

    @pytest.mark.parametrize(
        "header",
        [
            b"[]",
            b'{"a": 1}',
            b'{"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 4]}}',
            b'{"a": {}}',
            b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}',
        ],
    )
    def test_headers_that_make_no_sense(self, header: bytes, damaged: Path) -> None:
        path = sorted(damaged.glob("model*.safetensors"))[1]
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        _refused(damaged, path.name, "not readable as safetensors")

    def test_a_shard_that_the_index_names_is_missing(self, damaged: Path) -> None:
        path = sorted(damaged.glob("model*.safetensors"))[1]
        path.unlink()
        _refused(damaged, path.name, "not found")

    def test_no_weights(self, damaged: Path) -> None:
        for path in damaged.glob("model*"):
            path.unlink()
        _refused(damaged, "no model*.safetensors here")

    def test_no_folder(self, tmp_path: Path) -> None:
        _refused(tmp_path / "nowhere", "not a folder", error=ConfigError)

    @pytest.mark.parametrize("weight_map", [{LM_HEAD: "../other/model.safetensors"}, {LM_HEAD: 3}, [LM_HEAD]])
    def test_an_index_that_leads_elsewhere(self, weight_map: object, damaged: Path) -> None:
        index = damaged / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        _refused(damaged, "weight_map must map tensors to file names")


class TestConfig:
    def test_missing(self, damaged: Path) -> None:
        (damaged / "config.json").unlink()
        _refused(damaged, "config.json: not found", error=ConfigError)

    def test_unknown_architecture(self, damaged: Path) -> None:
        _config(damaged, model_type="llama")
        _refused(damaged, "unknown architecture 'llama'", error=ConfigError)

    def test_other_vocabulary(self, damaged: Path) -> None:
        _config(damaged, vocab_size=513)
        _refused(damaged, "model.embed_tokens.weight", "[513, 128] expected, [512, 128] found")


class TestValues:
    @pytest.mark.parametrize("value", [254, 255])
    def test_scales_of_254_and_255(self, value: int, damaged: Path) -> None:
        edit(damaged, _poke(SCALES, 77, value, "u1"), SCALES)
        _refused(damaged, SCALES, f"up to 253 expected, {value} found")

    @pytest.mark.parametrize("value", [0, 253])
    def test_the_other_scales_are_fine(self, value: int, damaged: Path, tmp_path: Path) -> None:
        edit(damaged, _poke(SCALES, 77, value, "u1"), SCALES)
        convert(damaged, tmp_path / "out")
        assert (tmp_path / "out").exists()

    @pytest.mark.parametrize("value", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
    @pytest.mark.parametrize("name", [LM_HEAD, "model.norm.weight", "model.layers.2.mlp.experts.down_proj_bias"])
    @pytest.mark.parametrize("dense", ["q8", "bf16"])
    def test_infinities_and_nans(self, value: int, name: str, dense: str, damaged: Path) -> None:
        edit(damaged, _poke(name, -1, value, "<u2"), name)
        _refused(damaged, name, "finite values expected", dense=dense)

    def test_weights_beyond_any_sense(self, damaged: Path, tmp_path: Path) -> None:
        edit(damaged, _poke(LM_HEAD, 5, 0x7180, "<u2"), LM_HEAD)
        _refused(damaged, LM_HEAD, "weights below 2^100 expected")
        convert(damaged, tmp_path / "out", dense="bf16")

    def test_an_infinite_expert_of_a_bf16_checkpoint(self, tmp_path: Path) -> None:
        synthesize(tmp_path / "source", layers=2, layout="bf16")
        name = "model.layers.1.mlp.experts.gate_up_proj"
        edit(tmp_path / "source", _poke(name, 1234, 0x7F80, "<u2"), name)
        _refused(tmp_path / "source", name, "finite values expected")


class TestMlxFolders:
    @pytest.fixture
    def folder(self, damaged: Path, tmp_path: Path) -> Path:
        convert(damaged, tmp_path / "mlx")
        return tmp_path / "mlx"

    def test_scales(self, folder: Path) -> None:
        name = "model.layers.1.mlp.experts.up_proj.scales"
        edit(folder, _poke(name, 3, 255, "u1"), name)
        _refused(folder, name, "255 found")

    def test_a_scale_that_is_no_number(self, folder: Path) -> None:
        name = "model.layers.0.self_attn.q_proj.scales"
        edit(folder, _poke(name, 3, 0x7FC0, "<u2"), name)
        _refused(folder, name, "finite values expected")

    def test_missing_biases(self, folder: Path) -> None:
        edit(folder, lambda entries: entries.pop("lm_head.biases") and None)
        _refused(folder, "lm_head.biases", "missing")

    def test_an_unknown_packing(self, folder: Path) -> None:
        def halve(entries: dict[str, Entry]) -> None:
            dtype, shape, data = entries["lm_head.weight"]
            entries["lm_head.weight"] = (dtype, (shape[0], shape[1] // 4), data[: len(data) // 4])

        edit(folder, halve)
        _refused(folder, "lm_head", "2-bit")
