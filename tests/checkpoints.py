"""Tiny seeded checkpoints in the three source layouts, built without the package and without NumPy's samplers.

The numbers come from PCG64's raw words through exact arithmetic, so the same seed gives the same bytes with
every NumPy release: goldens may pin them by hash. The magnitudes make each rule of the architecture matter:
attention is peaked, sinks take a visible share, gates cross the clamp on both sides, routers separate experts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oracle import decode_mxfp4

Layout = Literal["hf", "original", "bf16"]
Tensors = dict[str, NDArray[Any]]
"""uint16 arrays hold BF16 words, uint8 arrays the codes and scales of MXFP4."""

Words = NDArray[np.uint64]
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Shape:
    """A model small enough for a scalar CPU; the defaults mirror the release's proportions."""

    layers: int = 2
    hidden: int = 64
    intermediate: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    experts: int = 4
    top_k: int = 2
    vocab: int = 128
    window: int = 8
    kinds: tuple[str, ...] = ()
    original_context: int = 4096
    seed: int = 0

    def config(self) -> dict[str, Any]:
        """The root config.json of the release, with these numbers."""
        return {
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": True,
            "attention_dropout": 0.0,
            "eos_token_id": 200002,
            "experts_per_token": self.top_k,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initial_context_length": self.original_context,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_types": list(self.kinds) or [(SLIDING, FULL)[i % 2] for i in range(self.layers)],
            "max_position_embeddings": self.original_context * 32,
            "model_type": "gpt_oss",
            "num_attention_heads": self.heads,
            "num_experts_per_tok": self.top_k,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "num_local_experts": self.experts,
            "output_router_logits": False,
            "pad_token_id": 199999,
            "quantization_config": {
                "modules_to_not_convert": [
                    "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
                ],
                "quant_method": "mxfp4",
            },
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": self.original_context,
                "rope_type": "yarn",
                "truncate": False,
            },
            "rope_theta": 150000,
            "router_aux_loss_coef": 0.9,
            "sliding_window": self.window,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": False,
            "transformers_version": "4.55.0.dev0",
            "use_cache": True,
            "vocab_size": self.vocab,
        }  # fmt: skip

    def original_config(self) -> dict[str, Any]:
        """The same in the words of original/config.json."""
        return {
            "num_hidden_layers": self.layers,
            "num_experts": self.experts,
            "experts_per_token": self.top_k,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "swiglu_limit": 7.0,
            "head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "sliding_window": self.window,
            "initial_context_length": self.original_context,
            "rope_theta": 150000,
            "rope_scaling_factor": 32.0,
            "rope_ntk_alpha": 1,
            "rope_ntk_beta": 32,
        }


class _Source:
    """Random arrays that any NumPy computes alike."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def bf16(self, *shape: int, size: float, centre: float = 0.0) -> NDArray[np.uint16]:
        """BF16 words, uniform with standard deviation `size` about `centre`."""
        raw: Words = self.bits.random_raw(math.prod(shape)) >> np.uint64(40)
        unit = raw.astype(np.float64) / 2.0**23 - 1.0  # [-1, 1), exact
        values = (centre + unit * (size * math.sqrt(3.0))).astype(np.float32)
        return bf16_words(values).reshape(shape)

    def bytes(self, *shape: int, low: int = 0, high: int = 256) -> NDArray[np.uint8]:
        raw: Words = self.bits.random_raw(math.prod(shape)) >> np.uint64(33)
        within: Words = raw % np.uint64(high - low) + np.uint64(low)
        return within.astype(np.uint8).reshape(shape)


def bf16_words(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to BF16, ties to even."""
    words: NDArray[np.uint32] = np.ascontiguousarray(values).view(np.uint32)
    rounded: NDArray[np.uint32] = words + np.uint32(0x7FFF) + (words >> np.uint32(16) & np.uint32(1))
    out: NDArray[np.uint16] = (rounded >> np.uint32(16)).astype(np.uint16)
    return out


def tensors(shape: Shape) -> Tensors:
    """Every tensor of the Hugging Face layout, in the release's dtypes."""
    s, source = shape, _Source(shape.seed)
    out: Tensors = {"model.embed_tokens.weight": source.bf16(s.vocab, s.hidden, size=1.0)}
    for n in range(s.layers):
        attn, mlp = f"model.layers.{n}.self_attn", f"model.layers.{n}.mlp"
        out[f"model.layers.{n}.input_layernorm.weight"] = source.bf16(s.hidden, size=0.2, centre=1.0)
        for part, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
            size = (1.0 if part == "v" else 1.2) / math.sqrt(s.hidden)
            out[f"{attn}.{part}_proj.weight"] = source.bf16(heads * s.head_dim, s.hidden, size=size)
            out[f"{attn}.{part}_proj.bias"] = source.bf16(heads * s.head_dim, size=0.3)
        out[f"{attn}.o_proj.weight"] = source.bf16(
            s.hidden, s.heads * s.head_dim, size=1.0 / math.sqrt(s.heads * s.head_dim)
        )
        out[f"{attn}.o_proj.bias"] = source.bf16(s.hidden, size=0.1)
        out[f"{attn}.sinks"] = source.bf16(s.heads, size=1.5, centre=1.0)
        out[f"model.layers.{n}.post_attention_layernorm.weight"] = source.bf16(s.hidden, size=0.2, centre=1.0)
        out[f"{mlp}.router.weight"] = source.bf16(s.experts, s.hidden, size=1.5 / math.sqrt(s.hidden))
        out[f"{mlp}.router.bias"] = source.bf16(s.experts, size=0.5)
        out |= _experts(f"{mlp}.experts.gate_up_proj", source, s.experts, 2 * s.intermediate, s.hidden, 3.0)
        out |= _experts(f"{mlp}.experts.down_proj", source, s.experts, s.hidden, s.intermediate, 0.15)
    out["model.norm.weight"] = source.bf16(s.hidden, size=0.2, centre=1.0)
    out["lm_head.weight"] = source.bf16(s.vocab, s.hidden, size=2.0 / math.sqrt(s.hidden))
    return out


def _experts(name: str, source: _Source, experts: int, rows: int, width: int, size: float) -> Tensors:
    """One packed matrix per expert whose products with unit inputs have about the given standard deviation."""
    middle = 127 + round(math.log2(size / (3.0 * math.sqrt(width))))  # codes alone deviate by about 3
    return {
        f"{name}_blocks": source.bytes(experts, rows, width // 32, 16),
        f"{name}_scales": source.bytes(experts, rows, width // 32, low=middle - 1, high=middle + 2),
        f"{name}_bias": source.bf16(experts, rows, size=0.3),
    }


def digest(parts: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names and bytes, in order of name."""
    sha = hashlib.sha256()
    for name in sorted(parts):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(parts[name]).tobytes())
    return sha.hexdigest()


_ORIGINAL = {
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "self_attn.sinks": "attn.sinks",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def as_original(parts: Tensors) -> Tensors:
    """The names of the original/ layout, with q, k and v fused."""
    layers = sum(name.endswith("sinks") for name in parts)
    out: Tensors = {
        "embedding.weight": parts["model.embed_tokens.weight"],
        "norm.scale": parts["model.norm.weight"],
        "unembedding.weight": parts["lm_head.weight"],
    }
    for n in range(layers):
        for ours, theirs in _ORIGINAL.items():
            out[f"block.{n}.{theirs}"] = parts[f"model.layers.{n}.{ours}"]
        for kind in ("weight", "bias"):
            split = [parts[f"model.layers.{n}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            out[f"block.{n}.attn.qkv.{kind}"] = np.concatenate(split)
    return out


def as_bf16(parts: Tensors) -> Tensors:
    """The layout of BF16 fine-tunes: experts expanded and transposed to (E, in, out)."""
    out = {name: part for name, part in parts.items() if not name.endswith(("_blocks", "_scales"))}
    for name in parts:
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            values = decode_mxfp4(parts[name], parts[f"{stem}_scales"]).astype(np.float32)
            out[stem] = bf16_words(np.ascontiguousarray(values.swapaxes(-1, -2)))
    return out


def write_safetensors(path: Path, parts: Mapping[str, NDArray[Any]]) -> None:
    """A safetensors file as the release writes it: no `__metadata__`, header padded to 8 bytes."""
    header, start = {}, 0
    for name, part in parts.items():
        dtype = "BF16" if part.dtype == np.uint16 else "U8"
        header[name] = {
            "dtype": dtype, "shape": list(part.shape), "data_offsets": [start, start + part.nbytes],
        }  # fmt: skip
        start += part.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(p.tobytes() for p in parts.values()))


def _shards(parts: Tensors, count: int) -> Iterator[Tensors]:
    names = sorted(parts)
    for i in range(count):
        yield {name: parts[name] for name in names[len(names) * i // count : len(names) * (i + 1) // count]}


def build(folder: Path, shape: Shape, layout: Layout = "hf", shards: int = 2, parts: Tensors | None = None) -> Path:
    """Write a checkpoint, of `parts` where they are given, and return its folder.

    Shards are numbered from 0 to the last index, as in the release. Cutting the sorted names makes matrices straddle
    files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, config = parts or tensors(shape), shape.config()
    if layout == "original":
        parts, config = as_original(parts), shape.original_config()
        shards = 1
    elif layout == "bf16":
        parts = as_bf16(parts)
        del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if shards == 1:
        write_safetensors(folder / "model.safetensors", {name: parts[name] for name in sorted(parts)})
        return folder
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(_shards(parts, shards)):
        file = f"model-{i:05d}-of-{shards - 1:05d}.safetensors"
        write_safetensors(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(part.nbytes for part in parts.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
