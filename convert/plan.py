"""What a conversion will do, before it does it: steps from source to output tensors, and their place on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gptoss_mlx.errors import CheckpointError, ConversionError
from gptoss_mlx.quantization import Quantization

from . import affine, mxfp4, mxfp8
from .names import Module, matrix_tensors, mlx_entries
from .presets import Preset
from .sources import Matrix, Source, Vector
from .tensorfile import Array, Stored, TensorSpec, header, shards

SHARD = 5 << 30  # bytes of tensors per file, as in mlx-lm
METADATA = {"format": "mlx"}


@dataclass(frozen=True)
class Step:
    """One matrix or vector on its way: slices of `inputs` in, slices of `outputs` out, alike in their first axis."""

    item: Matrix | Vector
    target: Quantization | None
    outputs: tuple[TensorSpec, ...]

    @property
    def inputs(self) -> tuple[Stored, ...]:
        return self.item.parts if isinstance(self.item, Matrix) else (self.item.stored,)

    @property
    def untouched(self) -> bool:
        """Whether the bits arrive as they are (rearranged at most)."""
        item = self.item
        return isinstance(item, Vector) or (item.quantization == self.target and not item.transposed)

    def run(self, arrays: list[Array]) -> list[Array]:
        """Slices of the inputs -> slices of the outputs.

        Raises:
            CheckpointError: a bfloat16 value is not finite, or too large to be quantised.
        """
        for array, stored in zip(arrays, self.inputs, strict=True):
            if stored.dtype == "BF16":
                check_finite(array, stored)
        if not self.untouched and isinstance(self.item, Matrix):
            weights = decode(self.item, arrays)
            if self.target:
                check_range(weights, self.inputs[0])
            arrays = encode(weights, self.target)
        return alternate(arrays, self.ways)

    def slices(self, limit: int = 8 << 20) -> Iterator[tuple[int, int]]:
        """Consecutive rows [first, last) of the inputs, about `limit` bytes of all of them at a time."""
        total = self.inputs[0].shape[0]
        rows = max(1, limit * total // max(sum(stored.nbytes for stored in self.inputs), 1))
        yield from ((first, min(first + rows, total)) for first in range(0, total, rows))

    @property
    def ways(self) -> int:
        """How many modules the rows (or a vector's columns) go to in turn."""
        return len(self.item.modules if isinstance(self.item, Matrix) else self.item.names)


def alternate(arrays: list[Array], ways: int) -> list[Array]:
    """Split along axis 1: all parts of the first module, then all of the second."""
    if ways == 1:
        return arrays
    return [array[:, way::ways] for way in range(ways) for array in arrays]


def check_finite(bits: Array, stored: Stored) -> None:
    """Raise a CheckpointError where bfloat16 bits hold an infinity or a NaN."""
    if _largest(bits) >= 0x7F80:
        raise CheckpointError(f"{stored.label}: finite values expected, an infinity or NaN found")


def check_range(bits: Array, stored: Stored) -> None:
    """Raise a CheckpointError where a weight is 2^100 or more: the steps of such a group leave float32."""
    if _largest(bits) >= 0x7180:
        raise CheckpointError(f"{stored.label}: weights below 2^100 expected, a larger one cannot be quantised")


def _largest(bits: Array) -> int:
    """The bits of the largest magnitude among bfloat16 values, looked for block by block in the cache."""
    flat, block = bits.reshape(-1), 1 << 17
    starts = range(0, flat.size, block)
    return max((int((flat[i : i + block] & np.uint16(0x7FFF)).max()) for i in starts), default=0)


def decode(matrix: Matrix, arrays: list[Array]) -> Array:
    """Slices of a matrix' parts -> bfloat16 bits (..., out, in)."""
    kind = matrix.quantization
    if kind is None:
        return np.ascontiguousarray(arrays[0].swapaxes(1, 2)) if matrix.transposed else arrays[0]
    if kind.mode == "affine":
        return affine.decode(arrays[0], arrays[1], arrays[2], kind.bits, kind.group_size)
    if kind.mode == "mxfp4":
        return mxfp4.decode(arrays[0].view(np.uint8), arrays[1])
    return mxfp8.decode(arrays[0], arrays[1])


def encode(weights: Array, kind: Quantization | None) -> list[Array]:
    """Bfloat16 bits (..., out, in) -> the parts of a quantised matrix."""
    if kind is None:
        return [weights]
    if kind.mode == "affine":
        return affine.encode(weights, kind.bits, kind.group_size)
    return mxfp4.encode(weights) if kind.mode == "mxfp4" else mxfp8.encode(weights)


@dataclass(frozen=True)
class Shard:
    """One output file: its name and its tensors in the order of their data."""

    name: str
    specs: tuple[TensorSpec, ...]

    @cached_property
    def header(self) -> bytes:
        return header(self.specs, METADATA, align=64)  # tensors can be used where they lie

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.nbytes

    def offsets(self) -> dict[str, int]:
        """Where in the file each tensor starts."""
        place, start = {}, len(self.header)
        for spec in self.specs:
            place[spec.name] = start
            start += spec.nbytes
        return place


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that a conversion of `source` under `preset` will write."""

    source: Source
    preset: Preset
    steps: tuple[Step, ...]
    shards: tuple[Shard, ...]
    quantization: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def size(self) -> int:
        """Bytes of all output shards."""
        return sum(shard.size for shard in self.shards)

    @property
    def parameters(self) -> int:
        """Logical weights, counted as mlx-lm does: the attention sinks are left out."""
        count = 0
        for entry in mlx_entries(self.source.config):
            if isinstance(entry, Module):
                count += math.prod(entry.shape) + (math.prod(entry.bias) if entry.bias else 0)
            elif not entry.name.endswith(".sinks"):
                count += math.prod(entry.shape)
        return count

    def index(self) -> dict[str, Any]:
        """The content of model.safetensors.index.json."""
        where = {spec.name: shard.name for shard in self.shards for spec in shard.specs}
        metadata = {"total_size": self.nbytes, "total_parameters": self.parameters}
        return {"metadata": metadata, "weight_map": dict(sorted(where.items()))}


def make_plan(source: Source, preset: Preset, shard_bytes: int = SHARD) -> ConversionPlan:
    """Lay out the conversion of a source.

    Raises:
        ConversionError: the experts cannot be turned into what the preset asks for without a second rounding.
    """
    shapes = {e.path: e.shape for e in mlx_entries(source.config) if isinstance(e, Module)}
    steps = [_vector_step(vector) for vector in source.vectors]
    steps += [_matrix_step(source, matrix, preset, shapes) for matrix in source.matrices]
    specs = {spec.name: spec for step in steps for spec in step.outputs}
    targets = {m: step.target for step in steps if isinstance(step.item, Matrix) for m in step.item.modules}
    ordered = [specs[name] for name in _output_names(source, targets)]
    cut = shards(ordered, shard_bytes)
    count = len(cut)
    pattern = "model-{:05d}-of-{:05d}.safetensors" if count > 1 else "model.safetensors"
    files = tuple(Shard(pattern.format(i + 1, count), tuple(part)) for i, part in enumerate(cut))
    steps.sort(key=lambda step: (str(step.inputs[0].path), step.inputs[0].start))
    notes = tuple(_notes(steps))
    return ConversionPlan(source, preset, tuple(steps), files, _quantization_block(targets), notes)


def _vector_step(vector: Vector) -> Step:
    *lead, columns = vector.stored.shape
    shape = (*lead, columns // len(vector.names))
    return Step(vector, None, tuple(TensorSpec(name, vector.stored.dtype, shape) for name in vector.names))


def _matrix_step(source: Source, matrix: Matrix, preset: Preset, shapes: dict[str, tuple[int, ...]]) -> Step:
    target = preset.of(matrix.modules[0], matrix.inputs)
    kind = matrix.quantization
    if ".experts." in matrix.modules[0] and kind and kind.mode == "affine" and kind != target:
        raise ConversionError(
            f"{source.folder}: its experts are {kind} and cannot become {target} without a second rounding; "
            "convert from the released weights"
        )
    outputs = [spec for path in matrix.modules for spec in matrix_tensors(path, shapes[path], target)]
    return Step(matrix, target, tuple(outputs))


def _output_names(source: Source, targets: dict[str, Quantization | None]) -> Iterator[str]:
    for entry in mlx_entries(source.config):
        if isinstance(entry, Module):
            yield from (spec.name for spec in entry.tensors(targets[entry.path]))
        else:
            yield entry.name


def _quantization_block(targets: dict[str, Quantization | None]) -> dict[str, Any]:
    """The `quantization` of config.json: the experts' at the top, one entry per other quantised module."""
    experts = next(kind for path, kind in targets.items() if ".experts." in path and kind)
    block = experts.to_dict()
    for path in sorted(targets, key=_module_order):
        kind = targets[path]
        if kind is None or ".experts." in path:
            continue
        entry = kind.to_dict()
        if path.endswith(".router"):
            del entry["mode"]  # as mlx-lm writes it; affine is understood
        block[path] = entry
    return block


def _module_order(path: str) -> tuple[int, int, int]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "router")
    pieces = path.split(".")
    if "layers" in pieces:
        return 1, int(pieces[2]), names.index(pieces[-1]) if pieces[-1] in names else -1
    return (2 if path == "lm_head" else 0), 0, 0


def _notes(steps: list[Step]) -> Iterator[str]:
    """What a user should know about rounding: quantised tensors of an MLX folder that are rounded again."""
    again: dict[tuple[str, str], int] = {}
    for step in steps:
        item = step.item
        if isinstance(item, Matrix) and not step.untouched and item.quantization:
            if ".experts." in item.modules[0]:
                continue
            target = str(step.target) if step.target else "bfloat16"
            key = (str(item.quantization), target)
            again[key] = again.get(key, 0) + 1
    for (old, new), count in sorted(again.items()):
        yield f"{count} matrices that were already {old} became {new}: what the first rounding lost stays lost"
