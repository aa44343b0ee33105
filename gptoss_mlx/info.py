"""What a model folder holds and needs, read from its config.json and the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.convert import names, sources

from . import kernels
from .config import FULL, ModelConfig
from .quantization import of_module

PARTS = {
    "embedding": "embed_tokens",
    "attention": "self_attn",
    "router": "router",
    "experts": "experts",
    "output": "lm_head",
}
CONTEXTS = (4096, 32768, 131072)
HEADROOM = 0.15
"""Share of the machine's memory left to activations, MLX's buffers and everything else."""


@dataclass(frozen=True)
class Part:
    """One kind of weight: how its matrices are stored, and all bytes of it."""

    name: str
    storage: str
    bytes: int


@dataclass(frozen=True)
class Context:
    """A context's length in tokens, its key/value bytes, and whether it fits beside the weights.

    The bytes are for what GPTOSS_CACHE names, else for bfloat16.
    """

    tokens: int
    kv_bytes: int
    fits: bool


@dataclass(frozen=True)
class ModelInfo:
    """The answer to `gptoss-mlx info`; sizes in bytes."""

    folder: Path
    layout: str
    config: ModelConfig
    parameters: int
    active_parameters: int
    parts: tuple[Part, ...]
    contexts: tuple[Context, ...]
    device: str
    memory: int
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


def model_info(folder: Path) -> ModelInfo:
    """Describe a folder without loading it.

    Raises:
        ConfigError, CheckpointError: see `gptoss_mlx.weights.load_model`.
        RequestError: GPTOSS_CACHE names no kind of cache.
    """
    weights = sources.checkpoint_folder(folder)
    config = ModelConfig.from_folder(weights)
    _, stored = sources.read_tensors(weights)
    layout, parts = sources.LAYOUTS[sources.layout_of(stored)], _parts(stored, config)
    total, limit = sum(part.bytes for part in parts), kernels.memory_limit()
    contexts = []
    for tokens in (*(c for c in CONTEXTS if c < config.max_position_embeddings), config.max_position_embeddings):
        needed = kv_bytes(config, tokens, kernels.cache_kind() or "bfloat16")
        contexts.append(Context(tokens, needed, total + needed <= limit * (1 - HEADROOM)))
    counts = parameter_counts(config)
    return ModelInfo(
        folder, layout, config, *counts, parts, tuple(contexts),
        kernels.device_name(), limit, kernels.describe(), kernels.native(),
    )  # fmt: skip


def kv_bytes(config: ModelConfig, tokens: int, kv: str = "bfloat16") -> int:
    """Key/value bytes of a context in caches that keep `kv` (see `Model.make_cache`).

    Sliding layers stop growing at their window, and keep activations as they are where full ones keep codes.
    """
    numbers, bits = config.kv_bytes_per_token // 2, kernels.CACHE_BITS.get(kv)
    plain = numbers * kernels.CACHE_DTYPES.get(kv, kernels.compute_dtype()).size
    full = numbers * (bits + 32 // kernels.GROUP) // 8 if bits else plain  # 16 bits each for a group's scale and bias
    return sum(
        tokens * full if kind == FULL else min(tokens, config.sliding_window) * plain for kind in config.layer_types
    )


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
