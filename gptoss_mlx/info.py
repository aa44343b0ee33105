"""What a model folder holds and needs, read from its config.json and the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gptoss_mlx.convert import names, sources

from . import kernels
from .config import ModelConfig
from .memory import Machine, Need, check_load, kv_bytes
from .quantization import of_module

PARTS = {
    "embedding": "embed_tokens",
    "attention": "self_attn",
    "router": "router",
    "experts": "experts",
    "output": "lm_head",
}
CONTEXTS = (4096, 32768, 131072)


@dataclass(frozen=True)
class Part:
    """One kind of weight: how its matrices are stored, and all bytes of it."""

    name: str
    storage: str
    bytes: int


@dataclass(frozen=True)
class Context:
    """A context's length in tokens, and whether it fits beside the weights.

    `kv_bytes` are those of its keys and values, by what caches could keep (see `kernels.cache_kind`): first what they
    keep here, then codes. `bytes` are those of everything with the first: weights, buffers, activations. `slow` says
    that so much is not to be had, and that weights are read from the disk instead.
    """

    tokens: int
    kv_bytes: dict[str, int]
    bytes: int
    fits: bool
    slow: bool


@dataclass(frozen=True)
class ModelInfo:
    """The answer to `gptoss-mlx info`; sizes in bytes.

    `memory` is what models may take on this machine, `advice` what to know or do about the longest context, often
    nothing.
    """

    folder: Path
    layout: str
    config: ModelConfig
    parameters: int
    active_parameters: int
    parts: tuple[Part, ...]
    contexts: tuple[Context, ...]
    device: str
    memory: int
    advice: str
    kernels: str
    native_kernels: bool

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return sum(part.bytes for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        found = asdict(self) | {"folder": str(self.folder), "config": self.config.to_dict(), "bytes": self.bytes}
        return found | {"parts": [asdict(p) for p in self.parts], "contexts": [asdict(c) for c in self.contexts]}


def model_info(folder: Path, machine: Machine | None = None) -> ModelInfo:
    """Describe a folder without loading it, and say what fits this machine, unless another is given.

    Raises:
        ConfigError, CheckpointError: see `gptoss_mlx.weights.load_model`.
        RequestError: GPTOSS_CACHE names no kind of cache.
    """
    weights = sources.checkpoint_folder(folder)
    config = ModelConfig.from_folder(weights)
    _, stored = sources.read_tensors(weights)
    layout, parts = sources.LAYOUTS[sources.layout_of(stored)], _parts(stored, config)
    machine = machine or Machine.measure()
    need = Need.of_tensors(config, stored.values(), str(folder))
    lengths = (*(c for c in CONTEXTS if c < config.max_position_embeddings), config.max_position_embeddings)
    contexts = tuple(_context(need, machine, tokens) for tokens in lengths)
    counts = parameter_counts(config)
    return ModelInfo(
        folder, layout, config, *counts, parts, contexts, kernels.device_name(), machine.available,
        check_load(need, machine, lengths[-1]).note, kernels.describe(), kernels.native(),
    )  # fmt: skip


def _context(need: Need, machine: Machine, tokens: int) -> Context:
    verdict = check_load(need, machine, tokens)
    everything = verdict.needed + need.on_disk(machine)
    slow = verdict.fits and everything > verdict.available
    kv = {kind: kv_bytes(need.config, tokens, replace(machine, kv=kind).kv_width) for kind in _kinds(need, machine)}
    return Context(tokens, kv, everything, verdict.fits, slow)


def _kinds(need: Need, machine: Machine) -> list[str]:
    """What caches keep here, and the codes that the model's heads can have."""
    codes = () if need.config.head_dim % kernels.GROUP else kernels.CACHE_BITS
    return list(dict.fromkeys((machine.kv, *codes)))


def _parts(stored: Mapping[str, Any], config: ModelConfig) -> tuple[Part, ...]:
    if sources.layout_of(stored) == "original":
        pieces = names.original_tensors(config).items()
        renamed = {whole: parts[0].name for whole, (_, parts) in pieces}
        stored = {renamed.get(name, name): tensor for name, tensor in stored.items()}
    sizes = dict.fromkeys((*PARTS, "norms"), 0)
    storages: dict[str, set[str]] = {part: set() for part in sizes}
    for name, tensor in stored.items():
        part = next((part for part, mark in PARTS.items() if mark in name), "norms")
        sizes[part] += tensor.nbytes
        storage = _storage(name, stored, config)
        if storage is not None and (len(tensor.shape) > 1 or part == "norms"):
            storages[part].add(storage)
    return tuple(Part(part, " + ".join(sorted(storages[part])), size) for part, size in sizes.items())


def _storage(name: str, stored: Mapping[str, Any], config: ModelConfig) -> str | None:
    """How a matrix is stored, or None for what only accompanies one."""
    if name.endswith("_blocks"):
        return "mxfp4"
    path, _, kind = name.rpartition(".")
    if name.endswith(("_scales", "_bias")) or kind in ("scales", "biases", "bias", "sinks"):
        return None
    scales = stored.get(f"{path}.scales")
    if scales is None:
        return str({"BF16": "bfloat16", "F16": "float16", "F32": "float32"}.get(stored[name].dtype, stored[name].dtype))
    entry = (config.quantization or {}).get(path)
    words, groups = stored[name].shape[-1], scales.shape[-1]
    return str(of_module(path, entry, _inputs(path, config), words, groups, scales.dtype == "U8"))


def _inputs(path: str, config: ModelConfig) -> int:
    if path.endswith("o_proj"):
        return config.num_attention_heads * config.head_dim
    return config.intermediate_size if path.endswith("down_proj") else config.hidden_size


def parameter_counts(config: ModelConfig) -> tuple[int, int]:
    """Parameters in all, and those that one token uses (one embedding row, k experts)."""
    total = active = 0
    share = config.num_experts_per_tok / config.num_local_experts
    for name, spec in names.bf16_tensors(config).items():
        count = math.prod(spec.shape)
        total += count
        if "embed_tokens" in name:
            count = config.hidden_size
        active += round(count * share) if ".experts." in name else count
    return total, active
