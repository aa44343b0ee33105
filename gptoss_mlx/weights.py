"""A model folder -> a model with its arrays in place.

Four layouts are read: an MLX folder, the released Hugging Face folder, its `original/` files, and a BF16
checkpoint. The last three are rearranged in memory, the experts' MXFP4 bits untouched. Native CPU kernels use an
MLX folder's files where they lie: the model's matrices are the system's file cache.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from gptoss_mlx.convert import names, sources
from gptoss_mlx.convert.mxfp4 import BAD_SCALE
from gptoss_mlx.convert.tensorfile import Stored

from . import kernels, memory
from .config import ModelConfig
from .errors import CheckpointError
from .model import ExpertLinear, Model, PackedEmbedding, PackedLinear
from .quantization import Quantization, of_module

Arrays = dict[str, mx.array]
Progress = Callable[[int, int], None]
"""Called with the bytes loaded so far and the bytes in all."""

MAPPED = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32, "U8": mx.uint8, "U32": mx.uint32}
"""The safetensors dtypes of a model, which are used in place."""


SAMPLE = 1 << 20
"""Bytes at either end of a weights file that tell it from another."""


def identity(folder: Path) -> str:
    """What tells a model from any other, as a digest: configuration, tokenizer, both ends of the weights files."""
    digest = hashlib.sha256((sources.checkpoint_folder(folder) / "config.json").read_bytes())
    digest.update((folder / "tokenizer.json").read_bytes())
    for path in sources.read_tensors(sources.checkpoint_folder(folder))[0]:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE))
            file.seek(max(0, size - SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()


def load_model(
    folder: Path, progress: Progress | None = None, *, context: int = memory.CONTEXT, force: bool = False
) -> tuple[Model, ModelConfig]:
    """Build the model of a folder and load its weights. On a GPU this sets MLX's limits: see `memory.set_limits`.

    Args:
        folder: in any of the four layouts.
        progress: told after each layer.
        context: tokens that must fit in memory beside the weights.
        force: load even what does not fit.

    Raises:
        ConfigError: no config.json of a gpt-oss model is there.
        CheckpointError: a tensor is missing, unexpected, truncated, or of a wrong shape or dtype.
        MemoryLimitError: the model does not fit this machine; the message says what would.
        RequestError: `context` is not positive.
    """
    folder = sources.checkpoint_folder(folder)
    config = ModelConfig.from_folder(folder)
    files, tensors = sources.read_tensors(folder)  # names a damaged file better than MLX does
    machine = memory.Machine.measure()
    if not force:
        need = memory.Need.of_tensors(config, tensors.values(), str(folder))
        memory.check_load(need, machine, context).require()
    memory.set_limits(machine)
    arrays = read_arrays(files, tensors, config)
    model = Model(config)
    pack(model, config, arrays)
    check(model, arrays)
    place(model, arrays, progress)
    model.eval()
    return model, config


def read_arrays(files: Sequence[Path], tensors: Mapping[str, Stored], config: ModelConfig) -> Arrays:
    """What `sources.read_tensors` found, under MLX's names; still on disk until it is evaluated."""
    layout = sources.layout_of(tensors)
    in_place = layout == "mlx" and kernels.native()
    stored: Arrays = {}
    for file in files:
        stored.update(_map(file, [t for t in tensors.values() if t.path == file]) if in_place else _load(file))
    if layout == "mlx":
        return stored
    if layout == "original":
        stored = _from_original(stored, config)
    return {name: array for source in list(stored) for name, array in _from_release(source, stored.pop(source))}


def _load(file: Path) -> Arrays:
    try:
        loaded: Any = mx.load(str(file))
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not readable as safetensors ({error}); fetch it again") from None
    return dict(loaded)


def _map(file: Path, tensors: list[Stored]) -> Arrays:
    """Arrays over the mapped file, for as long as they live; it must not shrink meanwhile (a new file is harmless).

    A tensor that does not start at a multiple of its item size is read instead: our converter aligns them, MLX's own
    writer does not.
    """
    extension: Any = kernels.extension
    try:
        mapping = extension.Mapping(str(file))
        mapped = {
            tensor.name: mapping.array(tensor.start, tensor.shape, dtype)
            for tensor in tensors
            if (dtype := MAPPED.get(tensor.dtype)) is not None and tensor.start % dtype.size == 0
        }
    except extension.Unmappable as error:
        warnings.warn(f"{file}: read into memory, as it cannot be mapped ({error})", stacklevel=2)
        return _load(file)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}; fetch it again") from None
    return mapped if len(mapped) == len(tensors) else _load(file) | mapped


def _from_original(stored: Arrays, config: ModelConfig) -> Arrays:
    renamed: Arrays = {}
    for name, (whole, parts) in names.original_tensors(config).items():
        array = stored.pop(name, None)
        if array is None:
            raise CheckpointError(f"{name}: missing from the checkpoint; fetch the folder again")
        if array.shape != whole.shape:
            raise CheckpointError(f"{name}: shape {whole.shape} expected, {array.shape} found")
        first = 0
        for part in parts:
            renamed[part.name] = array[first : first + part.shape[0]] if len(parts) > 1 else array
            first += part.shape[0]
    renamed.update(stored)  # what no rule knows is reported under its own name
    return renamed


def _from_release(name: str, array: mx.array) -> Iterator[tuple[str, mx.array]]:
    found = re.fullmatch(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)(_blocks|_scales|_bias|)", name)
    if found is None:
        yield name, array
        return
    experts, matrix, part = found.groups()
    match part:
        case "_blocks":
            array, kind = array.view(mx.uint32).flatten(-2), "weight"  # (E, out, in/32, 16) -> (E, out, in/8)
        case "_scales":
            _check_scales(name, array)
            kind = "scales"
        case "_bias":
            kind = "bias"
        case _:
            array, kind = array.swapaxes(-1, -2), "weight"  # (E, in, out) -> (E, out, in)
    if matrix == "down_proj":
        yield f"{experts}.down_proj.{kind}", array
        return
    for side, first in (("gate_proj", 0), ("up_proj", 1)):  # interleaved row by row
        half = array[:, first::2]
        yield f"{experts}.{side}.{kind}", mx.contiguous(half)


def _check_scales(name: str, scales: mx.array) -> None:
    """The converter refuses the same: 2**127 overflows, and readers disagree about byte 255."""
    largest: Any = mx.max(scales).item()
    if largest >= BAD_SCALE:
        raise CheckpointError(
            f"{name}: scale bytes up to {BAD_SCALE - 1} expected, {largest} found; the file is damaged"
        )


def pack(model: Model, config: ModelConfig, arrays: Mapping[str, mx.array]) -> None:
    """Replace every module whose weight is packed by its packed form, all arrays still empty."""
    replaced = []
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding, ExpertLinear)):
            continue
        quantization = find_quantization(path, module, config, arrays)
        if quantization is not None:
            replaced.append((path, _packed(module, quantization)))
    model.update_modules(tree_unflatten(replaced))


def find_quantization(
    path: str, module: Any, config: ModelConfig, arrays: Mapping[str, mx.array]
) -> Quantization | None:
    """How a module's weight is packed: by its own entry in config.json, else by its tensors.

    Raises:
        CheckpointError: config.json and tensors contradict each other, or no packing has such shapes.
        ConfigError: the entry is incomplete.
    """
    entry = (config.quantization or {}).get(path)
    scales, weight = arrays.get(f"{path}.scales"), arrays.get(f"{path}.weight")
    if scales is None or weight is None:
        if isinstance(entry, Mapping):
            raise CheckpointError(f"{path}.scales: missing, but config.json says that the module is quantized")
        if scales is None and weight is not None and weight.dtype == mx.uint32:
            raise CheckpointError(f"{path}.scales: missing, but the weight is packed; fetch the folder again")
        return None
    inputs = module.weight.shape[-1]
    return of_module(path, entry, inputs, weight.shape[-1], scales.shape[-1], scales.dtype == mx.uint8)


def _packed(module: Any, quantization: Quantization) -> Any:
    *rows, inputs = module.weight.shape
    packed: Any = module
    if isinstance(module, nn.Linear):
        packed = PackedLinear(
            inputs, rows[0], "bias" in module, quantization.group_size, quantization.bits, quantization.mode
        )
    elif isinstance(module, nn.Embedding):
        packed = PackedEmbedding(quantization)
    else:
        packed.quantization = quantization
    packed.weight = mx.zeros((*rows, quantization.words(inputs)), mx.uint32)
    groups = (*rows, inputs // quantization.group_size)
    packed.scales = mx.zeros(groups, mx.float32 if quantization.mode == "affine" else mx.uint8)
    if quantization.mode == "affine":
        packed.biases = mx.zeros(groups)
    return packed


def check(model: Model, arrays: Mapping[str, mx.array]) -> None:
    """Hold the arrays against the model's parameters.

    Raises:
        CheckpointError: the first array that is missing, unexpected or of a wrong shape or dtype.
    """
    wanted: dict[str, mx.array] = _named(model.parameters())
    for name, parameter in wanted.items():
        if name not in arrays:
            raise CheckpointError(f"{name}: missing from the checkpoint; fetch or convert the folder again")
        if arrays[name].shape != parameter.shape:
            raise CheckpointError(
                f"{name}: shape {parameter.shape} expected from config.json, {arrays[name].shape} found"
            )
        if not _fits(parameter.dtype, arrays[name].dtype):
            kind = "floating-point numbers" if mx.issubdtype(parameter.dtype, mx.floating) else _plain(parameter.dtype)
            raise CheckpointError(f"{name}: {kind} expected, {_plain(arrays[name].dtype)} found")
    for name in arrays:
        if name not in wanted:
            raise CheckpointError(f"{name}: unexpected tensor; is this a checkpoint of another architecture?")


def _fits(wanted: mx.Dtype, found: mx.Dtype) -> bool:
    return found == wanted or (mx.issubdtype(wanted, mx.floating) and mx.issubdtype(found, mx.floating))


def _plain(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def place(model: Model, arrays: Arrays, progress: Progress | None = None) -> None:
    """Put the arrays into the model and read them from disk, one layer after the other."""
    total, done = sum(array.nbytes for array in arrays.values()), 0
    model.update(tree_unflatten([(name, _prepared(name, arrays.pop(name))) for name in list(arrays)]))
    for part in (model.model.embed_tokens, *model.layers, model.model.norm, model.lm_head):
        mx.eval(part.parameters())
        done += sum(array.nbytes for array in _named(part.parameters()).values())
        if progress is not None:
            progress(min(done, total), total)


def _named(tree: Any) -> dict[str, mx.array]:
    leaves: Any = tree_flatten(tree)
    return dict(leaves)


def _prepared(name: str, array: mx.array) -> mx.array:
    """Norms in float32, other vectors in the activations' dtype, matrices as stored (float16 has no place)."""
    dtype = kernels.compute_dtype()
    if name.endswith("norm.weight"):
        return array.astype(mx.float32)
    if name.endswith((".bias", ".sinks")) or array.dtype == mx.float16:
        return array.astype(dtype)
    return array
