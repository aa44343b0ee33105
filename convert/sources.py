"""Checkpoints to convert from, whatever their layout, as one description: matrices and vectors on disk.

Four layouts are read: the Hugging Face release, `original/`, a BF16 checkpoint (experts transposed and unpacked)
and an MLX folder. Opening one reads headers only and checks that every tensor is there, with its shape and dtype,
and nothing else; `check_scales` then reads the scale bytes of the experts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptoss_mlx.config import ModelConfig, read_json
from gptoss_mlx.errors import CheckpointError, ConfigError
from gptoss_mlx.quantization import Quantization, from_tensors

from . import mxfp4
from .names import (
    Module,
    bf16_tensors,
    layer_prefix,
    matrix_tensors,
    mlx_entries,
    original_tensors,
    release_tensors,
)
from .presets import MXFP4
from .tensorfile import Stored, TensorSpec, read, read_header

LAYOUTS = {
    "hf": "Hugging Face release",
    "original": "original release",
    "bf16": "BF16 checkpoint",
    "mlx": "MLX folder",
}
INDEX = "model.safetensors.index.json"
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Matrix:
    """A matrix on disk and the MLX modules it is for: one, or two whose rows alternate (gate and up).

    `parts` are what `quantization.parts` names (one part, the weight, where that is None), alike in their first
    axis: rows, or experts. `transposed` says that the last two axes are (in, out).
    """

    modules: tuple[str, ...]
    quantization: Quantization | None
    parts: tuple[Stored, ...]
    transposed: bool = False

    @property
    def rows(self) -> int:
        """Length of the first axis, along which it is read in slices."""
        return self.parts[0].shape[0]

    @property
    def inputs(self) -> int:
        """Weights that a row of the (out, in) matrix has."""
        width = self.parts[0].shape[1 if self.transposed else -1]
        return width * 32 // self.quantization.bits if self.quantization else width


@dataclass(frozen=True)
class Vector:
    """A tensor that is copied: to one name, or to two (its columns alternate)."""

    names: tuple[str, ...]
    stored: Stored


@dataclass(frozen=True)
class Source:
    """A checkpoint whose headers have been read and found complete."""

    folder: Path
    layout: str
    config: ModelConfig
    raw_config: Mapping[str, Any]
    files: tuple[Path, ...]
    matrices: tuple[Matrix, ...]
    vectors: tuple[Vector, ...]

    @property
    def side_folder(self) -> Path:
        """Where tokenizer and licence lie: beside original/, else in the folder itself."""
        beside = self.layout == "original" and not (self.folder / "tokenizer.json").exists()
        return self.folder.parent if beside and (self.folder.parent / "tokenizer.json").exists() else self.folder

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        stored = [part for matrix in self.matrices for part in matrix.parts]
        return sum(x.nbytes for x in stored) + sum(vector.stored.nbytes for vector in self.vectors)

    def fingerprint(self) -> str:
        """Changes when the configuration, a file's header, size or time of change does."""
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in self.files:
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                digest.update(file.read(length))
        return digest.hexdigest()

    def check_scales(self) -> None:
        """Read every MXFP scale byte.

        Raises:
            CheckpointError: one is 254 or 255.
        """
        for matrix in self.matrices:
            if matrix.quantization and matrix.quantization.mode != "affine":
                _check_scales(matrix.parts[1])


def _check_scales(scales: Stored) -> None:
    with scales.path.open("rb") as file:
        for part in slices(scales, _CHUNK):
            largest = int(read(file.fileno(), part).max(initial=0))
            if largest >= mxfp4.BAD_SCALE:
                raise CheckpointError(
                    f"{scales.label}: scale bytes up to 253 expected, {largest} found; the file is damaged"
                )


def slices(stored: Stored, limit: int) -> Iterator[Stored]:
    """Consecutive rows of a tensor, at most `limit` bytes at a time (but at least one row)."""
    rows = max(1, limit // max(stored.nbytes // stored.shape[0], 1))
    for first in range(0, stored.shape[0], rows):
        yield stored.rows(first, min(first + rows, stored.shape[0]))


def open_source(path: Path | str) -> Source:
    """Open a checkpoint folder of any layout; a repository's root with only `original/` in it will do.

    Raises:
        ConfigError: no config.json, or another architecture.
        CheckpointError: files or tensors missing, unexpected, truncated, or of a wrong shape or dtype.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: not a folder; expected one with config.json and model*.safetensors")
    folder = checkpoint_folder(folder)
    raw = read_json(folder / "config.json")
    config = ModelConfig.from_dict(raw)
    files, tensors = read_tensors(folder)
    layout = layout_of(tensors)
    matrices, vectors = _READERS[layout](folder, config, tensors)
    return Source(folder, layout, config, raw, files, tuple(matrices), tuple(vectors))


def checkpoint_folder(folder: Path) -> Path:
    """The folder itself, or its `original/` where only that holds a checkpoint."""
    original = folder / "original"
    if not any(folder.glob("model*.safetensors")) and (original / "config.json").is_file():
        return original
    return folder


def hub_id(folder: Path) -> str | None:
    """The id of the repository whose snapshot in the Hugging Face cache holds a folder; None elsewhere."""
    for parent in (folder, *folder.parents):
        if parent.name.startswith("models--"):
            return parent.name.removeprefix("models--").replace("--", "/")
    return None


def read_tensors(folder: Path) -> tuple[tuple[Path, ...], dict[str, Stored]]:
    """The files of a checkpoint and where each of its tensors lies; the index, if there is one, says which files.

    Raises:
        CheckpointError: a file or tensor that the index names is missing, a file is truncated, a tensor is doubled.
    """
    weight_map = _weight_map(folder / INDEX)
    names = sorted(set(weight_map.values()))
    files = tuple(folder / name for name in names) if names else tuple(sorted(folder.glob("model*.safetensors")))
    if not files:
        raise CheckpointError(f"{folder}: no model*.safetensors here; expected a folder with the weights")
    tensors: dict[str, Stored] = {}
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file}: not found, but the index names it; fetch the missing file")
        for name, stored in read_header(file)[0].items():
            if name in tensors:
                raise CheckpointError(f"{stored.label}: also in {tensors[name].path.name}; expected once")
            tensors[name] = stored
    for name, file_name in weight_map.items():
        if name not in tensors or tensors[name].path.name != file_name:
            raise CheckpointError(f"{folder / file_name}: tensor {name} is missing, though the index names it")
    return files, tensors


def _weight_map(index: Path) -> Mapping[str, str]:
    if not index.is_file():
        return {}
    found = read_json(index).get("weight_map")
    if not isinstance(found, Mapping) or not all(isinstance(n, str) and os.sep not in n for n in found.values()):
        raise CheckpointError(f"{index}: weight_map must map tensors to file names; fetch it again")
    return found


def layout_of(tensors: Iterable[str]) -> str:
    """Which layout has tensors of these names: a key of `LAYOUTS`."""
    tensors = tuple(tensors)
    if any(name.startswith("block.") for name in tensors):
        return "original"
    if any(name.endswith("experts.gate_proj.weight") for name in tensors):
        return "mlx"
    if any(name.endswith("experts.gate_up_proj") for name in tensors):
        return "bf16"
    return "hf"


def _expect(folder: Path, tensors: Mapping[str, Stored], expected: Mapping[str, TensorSpec]) -> None:
    """Check names, dtypes and shapes."""
    for name, spec in expected.items():
        found = tensors.get(name)
        if found is None:
            raise CheckpointError(f"{folder}: tensor {name} is missing; fetch the checkpoint again")
        if found.dtype != spec.dtype:
            raise CheckpointError(f"{found.label}: {spec.dtype} expected, {found.dtype} found")
        if found.shape != spec.shape:
            raise CheckpointError(f"{found.label}: shape {list(spec.shape)} expected, {list(found.shape)} found")
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{tensors[name].label}: unexpected; gpt-oss has no such tensor")


Parts = tuple[list[Matrix], list[Vector]]


def _read_release(folder: Path, config: ModelConfig, tensors: Mapping[str, Stored]) -> Parts:
    _expect(folder, tensors, release_tensors(config))
    return _assemble(config, tensors)


def _read_bf16(folder: Path, config: ModelConfig, tensors: Mapping[str, Stored]) -> Parts:
    _expect(folder, tensors, bf16_tensors(config))
    return _assemble(config, tensors)


def _read_original(folder: Path, config: ModelConfig, tensors: Mapping[str, Stored]) -> Parts:
    originals = original_tensors(config)
    _expect(folder, tensors, {name: whole for name, (whole, _) in originals.items()})
    renamed = {}
    for name, (_, pieces) in originals.items():
        first = 0
        for piece in pieces:
            renamed[piece.name] = tensors[name].rows(first, first + piece.shape[0])
            first += piece.shape[0]
    return _assemble(config, renamed)


def _assemble(config: ModelConfig, tensors: Mapping[str, Stored]) -> Parts:
    """Matrices and vectors out of tensors with the names of the release or of a BF16 checkpoint."""
    matrices, vectors = [], []
    for entry in mlx_entries(config):
        if isinstance(entry, TensorSpec):
            vectors.append(Vector((entry.name,), tensors[entry.name]))
        elif ".experts." not in entry.path:
            matrices.append(Matrix((entry.path,), None, (tensors[f"{entry.path}.weight"],)))
            vectors.extend(Vector((bias.name,), tensors[bias.name]) for bias in entry.bias_tensors())
    for layer in range(config.num_hidden_layers):
        experts = layer_prefix(layer) + "mlp.experts."
        for name, outputs in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            modules = tuple(experts + output for output in outputs)
            matrices.append(_experts(modules, experts + name, tensors))
            vectors.append(Vector(tuple(f"{m}.bias" for m in modules), tensors[f"{experts}{name}_bias"]))
    return matrices, vectors


def _experts(modules: tuple[str, ...], name: str, tensors: Mapping[str, Stored]) -> Matrix:
    if name in tensors:
        return Matrix(modules, None, (tensors[name],), transposed=True)
    blocks = tensors[f"{name}_blocks"]  # 16 bytes of codes are four of MLX's words
    experts, rows, groups, _ = blocks.shape
    words = replace(blocks, dtype="U32", shape=(experts, rows, groups * 4))
    return Matrix(modules, MXFP4, (words, tensors[f"{name}_scales"]))


def _read_mlx(folder: Path, config: ModelConfig, tensors: Mapping[str, Stored]) -> Parts:
    entries = list(mlx_entries(config))
    modules = [(entry, _quantization(entry, tensors)) for entry in entries if isinstance(entry, Module)]
    plain = [entry for entry in entries if isinstance(entry, TensorSpec)]
    specs = plain + [spec for module, kind in modules for spec in module.tensors(kind)]
    _expect(folder, tensors, {spec.name: spec for spec in specs})
    matrices = []
    for module, kind in modules:
        parts = tuple(tensors[spec.name] for spec in matrix_tensors(module.path, module.shape, kind))
        matrices.append(Matrix((module.path,), kind, parts))
        plain += module.bias_tensors()
    return matrices, [Vector((spec.name,), tensors[spec.name]) for spec in plain]


def _quantization(module: Module, tensors: Mapping[str, Stored]) -> Quantization | None:
    """How an MLX folder stores a module, from its tensors: what config.json says is not needed for that."""
    weight, scales = tensors.get(f"{module.path}.weight"), tensors.get(f"{module.path}.scales")
    if weight is None or scales is None or not weight.shape or not scales.shape:
        return None
    inputs, words, groups = module.shape[-1], weight.shape[-1], scales.shape[-1]
    found = from_tensors(module.path, inputs, words, groups, scales.dtype == "U8")
    if found.mode not in ("affine", "mxfp4", "mxfp8") or (found.mode == "affine" and found.bits not in (4, 6, 8)):
        raise CheckpointError(
            f"{weight.label}: {found} is no quantization that the converter reads (affine 4, 6, 8; mxfp4; mxfp8); "
            "convert from the release"
        )
    return found


_READERS = {"hf": _read_release, "original": _read_original, "bf16": _read_bf16, "mlx": _read_mlx}


def read_index(folder: Path) -> Mapping[str, Any]:
    """The index of a folder.

    Raises:
        CheckpointError: it is missing or not JSON.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / INDEX}: not readable ({error})") from None
    return index if isinstance(index, dict) else {}
