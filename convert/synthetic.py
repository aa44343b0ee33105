"""Random checkpoints in exactly the layouts of the release: same names, shapes, order, files and sizes.

They stand in for the real weights wherever those cannot be had: in tests (tiny), and for measuring conversion and
speed at full size (20b, 120b). Nothing larger than a few tens of MB is held in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import ConversionError, RequestError

from .names import bf16_tensors, original_tensors, release_tensors
from .random_weights import RandomWeights
from .tensorfile import Array, TensorSpec, as_bytes, header, shards

LAYOUTS = ("hf", "original", "bf16")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_SHARD = 4_800_000_000  # bytes per file of the release
_ORIGINAL_SHARD = 10 << 30
_READ_ORDER_120B = (4, 3, 6, 2, 1, 7, 5)  # the order in which the release read the files of original/

TINY = ModelConfig(
    num_hidden_layers=4,
    hidden_size=128,
    intermediate_size=192,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=32,
    num_local_experts=8,
    vocab_size=512,
    sliding_window=16,
)
SIZES: Mapping[str, ModelConfig] = {
    "tiny": TINY,
    "20b": ModelConfig(),
    "120b": ModelConfig(num_hidden_layers=36, num_local_experts=128),
}


class Progress(Protocol):
    """Called with bytes done and bytes in all."""

    def __call__(self, done: int, total: int, /) -> None: ...


@dataclass(frozen=True)
class FilePlan:
    """One safetensors file: its name and its tensors in the order of their data."""

    name: str
    specs: tuple[TensorSpec, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file, header included."""
        return len(header(self.specs)) + sum(spec.nbytes for spec in self.specs)


@dataclass(frozen=True)
class CheckpointPlan:
    """The tensor files of a checkpoint and the tensors in the order in which the index lists them."""

    files: tuple[FilePlan, ...]
    index_name: str | None
    order: tuple[str, ...]

    @property
    def total_size(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for file in self.files for spec in file.specs)

    def index(self) -> str:
        """The index file's text: one line, the weight map in traversal order."""
        where = {spec.name: file.name for file in self.files for spec in file.specs}
        weight_map = {name: where[name] for name in self.order}
        return json.dumps({"metadata": {"total_size": self.total_size}, "weight_map": weight_map})


def plan(config: ModelConfig, layout: str, shard_bytes: int | None = None) -> CheckpointPlan:
    """Which tensor goes into which file, by the release's rules.

    `shard_bytes` replaces the release's limit per file (4.8e9 bytes; 10 GiB in original/).
    """
    if layout == "original":
        return _plan_original(config, shard_bytes or _ORIGINAL_SHARD)
    names = _traversal(config, layout)
    specs = release_tensors(config) if layout == "hf" else bf16_tensors(config)
    cut = shards([specs[name] for name in names], shard_bytes or _SHARD)
    last = len(cut) - 1
    files = tuple(FilePlan(f"model-{i:05d}-of-{last:05d}.safetensors", _file_order(s)) for i, s in enumerate(cut))
    return CheckpointPlan(files, "model.safetensors.index.json", tuple(names))


def _plan_original(config: ModelConfig, limit: int) -> CheckpointPlan:
    specs = [whole for _, (whole, _) in sorted(original_tensors(config).items())]
    cut = shards(specs, limit)
    if config.num_local_experts == 32 and limit == _ORIGINAL_SHARD:
        cut = [specs]  # the 20b release is a single file, whatever its size
    count = len(cut)
    if count == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model--{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    files = tuple(FilePlan(name, _file_order(s)) for name, s in zip(names, cut, strict=True))
    index = None if count == 1 else "model.safetensors.index.json"
    return CheckpointPlan(files, index, tuple(spec.name for spec in specs))


def _traversal(config: ModelConfig, layout: str) -> list[str]:
    """Release names in the order of the shards: alphabetical by original/ name, file by file."""
    originals = original_tensors(config)
    cut = shards([whole for _, (whole, _) in sorted(originals.items())], _ORIGINAL_SHARD)
    if len(cut) == len(_READ_ORDER_120B):
        cut = [cut[i - 1] for i in _READ_ORDER_120B]
    names = [piece.name for file in cut for spec in file for piece in originals[spec.name][1]]
    if layout == "hf":
        return names
    return [n.removesuffix("_blocks") for n in names if not n.endswith("_scales")]


def _file_order(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Wider types first, each group by name: how the safetensors package lays out a file."""
    return tuple(sorted(specs, key=lambda spec: (spec.dtype != "BF16", spec.name)))


def synthesize(
    destination: Path | str,
    size: str = "tiny",
    layers: int | None = None,
    experts: int | None = None,
    seed: int = 0,
    layout: str = "hf",
    *,
    tokenizer: Path | str | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Path:
    """Write a random checkpoint and return its folder.

    The same seed and shapes give the same model in every layout; `bf16` holds the dequantised values exactly.

    Args:
        destination: a folder that does not exist yet, or is empty.
        size: "tiny", "20b" or "120b"; the last two have exactly the shapes, files and bytes of the release.
        layers, experts: other numbers of layers and of experts per layer.
        seed: of all values.
        layout: "hf" (root of the release), "original" (written to `destination/original`) or "bf16".
        tokenizer: a folder whose tokenizer files are copied, and whose control tokens are named in the configs.
        shard_bytes: limit per file; a tiny checkpoint is cut in three or four by default.
        progress: called with (bytes done, bytes in all).
        overrides: fields of `ModelConfig`.

    Raises:
        RequestError: an unknown size, layout or field.
        ConfigError: shapes that do not fit together.
        ConversionError: the destination exists and is not empty, or the disk is too small.
    """
    config = _configuration(size, layers, experts, overrides)
    if layout not in LAYOUTS:
        raise RequestError(f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}")
    root = Path(destination)
    files = plan(config, layout, shard_bytes or _default_limit(size, config))
    _check_destination(root, files.total_size)
    folder = root / "original" if layout == "original" else root
    folder.mkdir(parents=True, exist_ok=True)
    _write_side_files(root, folder, config, layout, files, Path(tokenizer) if tokenizer else None)
    _write_tensors(folder, files, RandomWeights(config, seed), layout, progress)
    return root


def _configuration(size: str, layers: int | None, experts: int | None, overrides: Mapping[str, Any]) -> ModelConfig:
    if size not in SIZES:
        raise RequestError(f"size must be one of {', '.join(SIZES)}, found {size!r}")
    changes = dict(overrides)
    if layers is not None:
        changes["num_hidden_layers"] = layers
    if experts is not None:
        changes["num_local_experts"] = experts
    unknown = sorted(set(changes) - set(ModelConfig.__dataclass_fields__))
    if unknown:
        raise RequestError(f"ModelConfig has no field {unknown[0]!r}")
    if "num_hidden_layers" in changes:
        changes.setdefault("layer_types", ())
    return replace(SIZES[size], **changes)


def _default_limit(size: str, config: ModelConfig) -> int | None:
    if size != "tiny":
        return None
    return 2 * sum(spec.nbytes for spec in release_tensors(config).values()) // 5


def _check_destination(root: Path, size: int) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConversionError(f"{root}: exists and is not an empty folder; choose another place or remove it")
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < size + (64 << 20):
        raise ConversionError(f"{root}: {size / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on this disk")


def _write_side_files(
    root: Path, folder: Path, config: ModelConfig, layout: str, files: CheckpointPlan, tokenizer: Path | None
) -> None:
    tokens = _control_tokens(tokenizer)
    if layout == "original":
        _write(folder / "config.json", json.dumps(_original_config(config), indent=2) + "\n")
        _write(folder / "dtypes.json", json.dumps(_original_dtypes(config), indent=2) + "\n")
    else:
        _write(root / "config.json", _sorted_json(release_config(config, tokens, packed=layout == "hf")))
        _write(root / "generation_config.json", _sorted_json(_generation_config(tokens)))
    if files.index_name:
        _write(folder / files.index_name, files.index())
    for name in TOKENIZER_FILES:
        if tokenizer and (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, root / name)


RELEASED_TOKENS = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|call|>": 200012,
}


def _control_tokens(tokenizer: Path | None) -> dict[str, int]:
    """The ids of the control tokens that the configs name; the release's where no tokenizer is given."""
    if tokenizer is None:
        return RELEASED_TOKENS
    added = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    found = {token["content"]: int(token["id"]) for token in added}
    missing = [name for name in RELEASED_TOKENS if name not in found]
    if missing:
        raise RequestError(f"{tokenizer / 'tokenizer.json'}: lacks the harmony token {missing[0]}")
    return {name: found[name] for name in RELEASED_TOKENS}


def release_config(
    config: ModelConfig, tokens: Mapping[str, int] = RELEASED_TOKENS, *, packed: bool = True
) -> dict[str, Any]:
    """The root config.json of a release; `packed` says whether the experts are MXFP4."""
    raw = config.to_dict() | {"transformers_version": "4.55.0.dev0"}
    raw |= {"eos_token_id": tokens["<|return|>"], "pad_token_id": tokens["<|endoftext|>"]}
    if packed:
        kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        raw["quantization_config"] = {"modules_to_not_convert": kept, "quant_method": "mxfp4"}
    else:
        raw["torch_dtype"] = "bfloat16"
    return raw


def _generation_config(tokens: Mapping[str, int]) -> dict[str, Any]:
    return {
        "bos_token_id": tokens["<|startoftext|>"],
        "do_sample": True,
        "eos_token_id": [tokens["<|return|>"], tokens["<|endoftext|>"], tokens["<|call|>"]],
        "pad_token_id": tokens["<|endoftext|>"],
        "transformers_version": "4.55.0.dev0",
    }


def _original_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.num_hidden_layers,
        "num_experts": config.num_local_experts,
        "experts_per_token": config.num_experts_per_tok,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": config.rope_original_context,
        "rope_theta": config.rope_theta,
        "rope_scaling_factor": config.rope_factor,
        "rope_ntk_alpha": config.rope_beta_slow,
        "rope_ntk_beta": config.rope_beta_fast,
    }


def _original_dtypes(config: ModelConfig) -> dict[str, str]:
    kinds = {".blocks": "FP4", ".scales": "UE8"}
    return {name: kinds.get(name[name.rfind(".") :], "BF16") for name in original_tensors(config)}


def _sorted_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_tensors(
    folder: Path, files: CheckpointPlan, weights: RandomWeights, layout: str, progress: Progress | None
) -> None:
    total, done = files.total_size, 0
    parts = original_tensors(weights.config) if layout == "original" else {}
    for file in files.files:
        with (folder / file.name).open("wb", buffering=0) as out:
            out.write(header(file.specs))
            for spec in file.specs:
                names = [piece.name for piece in parts[spec.name][1]] if parts else [spec.name]
                for piece in (piece for name in names for piece in _values(weights, name)):
                    _write_all(out, as_bytes(piece))
                    done += piece.nbytes
                    if progress:
                        progress(done, total)


def _values(weights: RandomWeights, name: str) -> Iterator[Array]:
    if name in weights.specs:
        yield from weights.pieces(name)
        return
    for expert in range(weights.config.num_local_experts):  # [E, in, out]: transposed and unpacked
        yield weights.expert(name, expert).T


def _write_all(out: Any, data: memoryview) -> None:
    while data:
        data = data[out.write(data) :]
