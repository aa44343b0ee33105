"""What `info` says, against the published figures of both sizes and against folders of every layout."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from mlx.utils import tree_flatten
from rich.console import Console

from checkpoints import Shape, build
from gptoss_mlx.cli.tables import print_info
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert
from gptoss_mlx.info import Context, model_info, parameter_counts
from gptoss_mlx.memory import Machine, kv_bytes
from gptoss_mlx.weights import load_model

B20 = ModelConfig()
B120 = ModelConfig(num_hidden_layers=36, num_local_experts=128)


def test_parameters_of_the_release() -> None:
    assert parameter_counts(B20) == (20_914_757_184, 3_608_310_144)
    assert parameter_counts(B120) == (116_829_156_672, 5_132_852_352)


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


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", Shape())
    found = model_info(folder, Machine("metal", 10**9, 22_000_000))
    assert {c.tokens: c.fits for c in found.contexts} == {4096: True, 32768: True, 131072: False}
    assert found.memory == 22_000_000
    assert "a context of 90,112 tokens" in found.advice
    assert not any(c.slow for c in found.contexts)
    for context in found.contexts:
        assert context.kv_bytes == {"bfloat16": kv_bytes(found.config, context.tokens)}  # heads of 16: no codes
        assert context.bytes > found.bytes + context.kv_bytes["bfloat16"]


@pytest.mark.parametrize(
    ("machine", "kinds"),
    [
        (Machine("cpu", 1 << 40, 1 << 40, native=True, kv="float32"), ["float32", "q8", "q4"]),
        (Machine("metal", 1 << 40, 1 << 40), ["bfloat16", "q8", "q4"]),
        (Machine("cpu", 1 << 40, 1 << 40, kv="q4"), ["q4", "q8"]),
    ],
)
def test_what_codes_would_take_stands_beside_what_is_kept(machine: Machine, kinds: list[str], tmp_path: Path) -> None:
    folder = build(tmp_path / "m", Shape(head_dim=32))
    found = model_info(folder, machine)
    layer = 2 * 2 * 32 * 131072
    kept = found.contexts[-1].kv_bytes
    assert list(kept) == kinds
    assert 1.125 * layer < kept["q8"] < 1.126 * layer
    assert 0.625 * layer < kept["q4"] < 0.626 * layer
    assert found.contexts[-1].bytes > kept[machine.kv]


def test_the_tables_of_the_largest_model_fit_a_terminal(tmp_path: Path) -> None:
    info = model_info(build(tmp_path / "m", Shape(head_dim=32)), Machine("cpu", 1 << 40, 1 << 40))
    large = replace(info, folder=Path("m"), config=B120, contexts=(Context(131072, dict.fromkeys(
        ("bfloat16", "q8", "q4"), 999_994_000_000), 999_994_000_000, fits=True, slow=True),))  # fmt: skip
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_info(large, console)
    table = console.file.getvalue().partition("context: keys and values")[2]  # type: ignore[attr-defined]
    rows = [line for line in table.splitlines() if line[:1] in "┏┃│└"]
    assert "q8" in rows[1]
    assert max(map(len, rows)) <= 80


def test_what_runs_from_the_disk_is_said_to_be_slow(tmp_path: Path) -> None:
    convert(build(tmp_path / "source", Shape(vocab=200_000)), tmp_path / "m", dense="bf16")
    found = model_info(tmp_path / "m", Machine("cpu", 10**9, (256 << 20) + 50_000_000, native=True, kv="float32"))
    assert {c.tokens: (c.fits, c.slow) for c in found.contexts} == {
        4096: (True, True), 32768: (True, True), 131072: (False, False),
    }  # fmt: skip
    assert model_info(tmp_path / "m", Machine("cpu", 10**10, 10**10, native=True)).advice == ""
