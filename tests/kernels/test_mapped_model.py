"""An MLX folder used in place: the model is the one that reading gives, costs no memory, and outlives its folder."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from checkpoints import Shape, build
from gptoss_mlx import kernels, weights
from gptoss_mlx.convert import convert, sources
from gptoss_mlx.convert.tensorfile import DTYPES, read_header
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.weights import load_model
from regions import regions

pytestmark = pytest.mark.usefixtures("native")

SHAPE = Shape(seed=7)
TOKENS = mx.array([[1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 1, 2, 3, 5, 8, 13, 21, 34]])
PRESETS = ("q8", "q6", "q4", "bf16", "mxfp8")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("mapped")
    build(root / "source", SHAPE)
    for dense in PRESETS:
        convert(root / "source", root / dense, dense=dense)
    return {dense: root / dense for dense in PRESETS}


@pytest.fixture
def folder(converted: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(converted["q8"], tmp_path / "mlx"))


def read(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """The model with its files read instead of mapped."""
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_map", lambda file, _: weights._load(file))
        return load_model(folder)[0]


def logits(model: Any) -> Any:
    return np.array(model(TOKENS))


@pytest.mark.parametrize("dense", PRESETS)
def test_a_mapped_model_is_the_model_bit_for_bit(
    dense: str, converted: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = converted[dense] / "model.safetensors"
    wanted = read(monkeypatch, converted[dense])
    assert regions(file) == []
    model = load_model(converted[dense])[0]
    assert len(regions(file)) == 1
    np.testing.assert_array_equal(logits(model), logits(wanted))


@pytest.mark.parametrize("dense", PRESETS)
def test_the_converter_writes_what_can_be_used_in_place(dense: str, converted: dict[str, Path]) -> None:
    tensors = read_header(converted[dense] / "model.safetensors")[0].values()
    assert min(tensor.start for tensor in tensors) % 64 == 0
    assert all(tensor.start % DTYPES[tensor.dtype].itemsize == 0 for tensor in tensors)


def test_loading_touches_no_matrix(tmp_path: Path) -> None:
    shape = Shape(vocab=100_000)  # matrices of 6.8 MB at both ends of the model
    convert(build(tmp_path / "source", shape), tmp_path / "mlx", dense="q8")
    file = tmp_path / "mlx" / "model.safetensors"
    active = mx.get_active_memory()
    model, _ = load_model(tmp_path / "mlx")
    (region,) = regions(file)
    assert region["Size"] > 12_000
    assert region["Rss"] < 4_000
    assert mx.get_active_memory() - active < 1 << 20
    mx.eval(model(TOKENS))
    (region,) = regions(file)
    assert region["Anonymous"] == 0


def test_a_model_outlives_its_folder_and_takes_its_mapping_along(folder: Path) -> None:
    model: Any = load_model(folder)[0]
    wanted = logits(model)
    file = folder / "model.safetensors"
    shutil.rmtree(folder)
    np.testing.assert_array_equal(logits(model), wanted)
    assert len(regions(file)) == 1
    del model
    gc.collect()
    assert regions(file) == []


def test_loading_again_and_again_leaves_nothing_behind(folder: Path) -> None:
    load_model(folder)
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        load_model(folder)
    gc.collect()
    assert regions(folder / "model.safetensors") == []
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.parametrize("shift", range(5))
def test_files_of_other_writers_load_wherever_their_data_start(
    shift: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = logits(read(monkeypatch, folder))
    file = folder / "model.safetensors"
    arrays: Any = mx.load(str(file))
    mx.eval(arrays)
    file.unlink()
    mx.save_safetensors(str(file), arrays, {"format": "mlx" + shift * " "})
    np.testing.assert_array_equal(logits(load_model(folder)[0]), wanted)


def test_where_nothing_can_be_mapped_a_warning_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = logits(load_model(folder)[0])

    class UnmappableError(RuntimeError):
        pass

    def refuse(path: str) -> None:
        raise UnmappableError("No such device")

    genuine = kernels.extension
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "extension", SimpleNamespace(Mapping=refuse, Unmappable=UnmappableError, page_bytes=int))
        with pytest.warns(UserWarning, match=r"model\.safetensors: read into memory.*No such device"):
            model = load_model(folder)[0]
    assert kernels.extension is genuine
    np.testing.assert_array_equal(logits(model), wanted)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: os.truncate(file, 5000), "truncated, .* bytes expected, 5000 found; fetch it again"),
        (lambda file: os.truncate(file, 0), "truncated to 0 bytes; fetch it again"),
        (lambda file: file.unlink(), "No such file or directory; fetch it again"),
    ],
)
def test_a_file_that_changes_after_its_header_was_read_is_named(
    spoil: Any, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sources.read_tensors(folder)

    def read_then_spoil(_: Path) -> Any:
        spoil(folder / "model.safetensors")
        return found

    monkeypatch.setattr(sources, "read_tensors", read_then_spoil)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_model(folder)
    assert str(caught.value).startswith(str(folder / "model.safetensors"))
    assert "\n" not in str(caught.value)
