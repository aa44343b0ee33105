"""What `info` says, against the published figures of both sizes and against folders of every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from mlx.utils import tree_flatten

from checkpoints import Shape, build
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert
from gptoss_mlx.info import kv_bytes, model_info, parameter_counts
from gptoss_mlx.weights import load_model

B20 = ModelConfig()
B120 = ModelConfig(num_hidden_layers=36, num_local_experts=128)


def test_parameters_of_the_release() -> None:
    assert parameter_counts(B20) == (20_914_757_184, 3_608_310_144)
    assert parameter_counts(B120) == (116_829_156_672, 5_132_852_352)


def test_key_value_bytes_of_the_release() -> None:
    assert kv_bytes(B20, 4096) == 24_576 * 4096 + 3_145_728
    assert kv_bytes(B120, 131072) == 36_864 * 131072 + 4_718_592
    assert kv_bytes(B20, 100) == 24 * 2048 * 100


def test_key_value_bytes_of_other_caches() -> None:
    windows = 12 * 128 * 4096  # sliding layers stay in float32
    assert kv_bytes(B20, 4096, "float32") == 12 * 4096 * 4096 + windows
    assert kv_bytes(B20, 4096, "q8") == 12 * 1152 * 4096 + windows
    assert kv_bytes(B20, 4096, "q4") == 12 * 640 * 4096 + windows


@pytest.mark.parametrize("layout", ["hf", "original", "bf16"])
def test_every_layout_counts_its_bytes(layout: Literal["hf", "original", "bf16"], tmp_path: Path) -> None:
    folder = build(tmp_path / "source", Shape(), layout)
    found = model_info(folder)
    if layout == "bf16":
        leaves: Any = tree_flatten(load_model(folder)[0].parameters())
        assert found.parameters == sum(array.size for _, array in leaves)
    assert found.bytes <= sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    storage = {part.name: part.storage for part in found.parts}
    assert storage == dict.fromkeys(storage, "bfloat16") | ({} if layout == "bf16" else {"experts": "mxfp4"})
    assert all(context.fits for context in found.contexts)


def test_a_converted_folder_names_its_packing(tmp_path: Path) -> None:
    source = build(tmp_path / "source", Shape())
    convert(source, tmp_path / "q4", dense="q4", experts="q8")
    storage = {part.name: part.storage for part in model_info(tmp_path / "q4").parts}
    assert storage["attention"] == storage["embedding"] == storage["output"] == "affine 4-bit g64"
    assert storage["router"] == "affine 8-bit g64"
    assert storage["experts"].startswith("affine 8-bit")
    assert storage["norms"] == "bfloat16"


def test_contexts_are_measured_in_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(tmp_path / "m", Shape(head_dim=32))
    sizes = []
    for kind in ("float16", "q8", "q4"):
        monkeypatch.setenv("GPTOSS_CACHE", kind)
        sizes.append(model_info(folder).contexts[-1].kv_bytes)
    assert sizes[0] > 1.7 * sizes[1] > 2.9 * sizes[2]


def test_what_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_mlx.kernels.memory_limit", lambda: 18_000_000)
    fits = {context.tokens: context.fits for context in model_info(build(tmp_path / "m", Shape())).contexts}
    assert fits == {4096: True, 32768: True, 131072: False}
