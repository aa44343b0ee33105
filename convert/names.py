"""The tensors of a gpt-oss checkpoint: names, dtypes and shapes in each source layout, as data.

`original/` is a rename of the Hugging Face release plus a fused qkv (rows of q, k, v in that order); a BF16
checkpoint holds the experts transposed and unpacked; an MLX folder splits gate and up and has modules (a path, a
matrix, perhaps a bias) whose matrix may be quantised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.quantization import Quantization

from .tensorfile import TensorSpec

Row = tuple[str, str, str, tuple[str, ...]]

# Hugging Face name, original/ name, dtype, shape (letters are explained in `_dimensions`)
TOP: tuple[Row, ...] = (
    ("model.embed_tokens.weight", "embedding.weight", "BF16", ("V", "H")),
    ("model.norm.weight", "norm.scale", "BF16", ("H",)),
    ("lm_head.weight", "unembedding.weight", "BF16", ("V", "H")),
)
LAYER: tuple[Row, ...] = (
    ("input_layernorm.weight", "attn.norm.scale", "BF16", ("H",)),
    ("self_attn.q_proj.weight", "attn.qkv.weight", "BF16", ("Q", "H")),
    ("self_attn.k_proj.weight", "attn.qkv.weight", "BF16", ("K", "H")),
    ("self_attn.v_proj.weight", "attn.qkv.weight", "BF16", ("K", "H")),
    ("self_attn.q_proj.bias", "attn.qkv.bias", "BF16", ("Q",)),
    ("self_attn.k_proj.bias", "attn.qkv.bias", "BF16", ("K",)),
    ("self_attn.v_proj.bias", "attn.qkv.bias", "BF16", ("K",)),
    ("self_attn.sinks", "attn.sinks", "BF16", ("A",)),
    ("self_attn.o_proj.weight", "attn.out.weight", "BF16", ("H", "Q")),
    ("self_attn.o_proj.bias", "attn.out.bias", "BF16", ("H",)),
    ("post_attention_layernorm.weight", "mlp.norm.scale", "BF16", ("H",)),
    ("mlp.router.weight", "mlp.gate.weight", "BF16", ("E", "H")),
    ("mlp.router.bias", "mlp.gate.bias", "BF16", ("E",)),
    ("mlp.experts.gate_up_proj_bias", "mlp.mlp1_bias", "BF16", ("E", "2I")),
    ("mlp.experts.down_proj_bias", "mlp.mlp2_bias", "BF16", ("E", "H")),
)
PACKED: tuple[Row, ...] = (
    ("mlp.experts.gate_up_proj_blocks", "mlp.mlp1_weight.blocks", "U8", ("E", "2I", "H/32", "16")),
    ("mlp.experts.gate_up_proj_scales", "mlp.mlp1_weight.scales", "U8", ("E", "2I", "H/32")),
    ("mlp.experts.down_proj_blocks", "mlp.mlp2_weight.blocks", "U8", ("E", "H", "I/32", "16")),
    ("mlp.experts.down_proj_scales", "mlp.mlp2_weight.scales", "U8", ("E", "H", "I/32")),
)
UNPACKED: tuple[Row, ...] = (
    ("mlp.experts.gate_up_proj", "", "BF16", ("E", "H", "2I")),
    ("mlp.experts.down_proj", "", "BF16", ("E", "I", "H")),
)

# MLX path, shape of the matrix, shape of the bias; or a plain tensor (no bias, no module); in mlx-lm's order
MLX_FIRST: tuple[tuple[str, tuple[str, ...], tuple[str, ...] | None], ...] = (
    ("model.embed_tokens", ("V", "H"), ()),
    ("model.norm.weight", ("H",), None),
)
MLX_LAYER: tuple[tuple[str, tuple[str, ...], tuple[str, ...] | None], ...] = (
    ("self_attn.sinks", ("A",), None),
    ("self_attn.q_proj", ("Q", "H"), ("Q",)),
    ("self_attn.k_proj", ("K", "H"), ("K",)),
    ("self_attn.v_proj", ("K", "H"), ("K",)),
    ("self_attn.o_proj", ("H", "Q"), ("H",)),
    ("mlp.experts.gate_proj", ("E", "I", "H"), ("E", "I")),
    ("mlp.experts.up_proj", ("E", "I", "H"), ("E", "I")),
    ("mlp.experts.down_proj", ("E", "H", "I"), ("E", "H")),
    ("mlp.router", ("E", "H"), ("E",)),
    ("input_layernorm.weight", ("H",), None),
    ("post_attention_layernorm.weight", ("H",), None),
)
MLX_LAST: tuple[tuple[str, tuple[str, ...], tuple[str, ...] | None], ...] = (("lm_head", ("V", "H"), ()),)


@dataclass(frozen=True)
class Module:
    """A matrix of the MLX model, (out, in) or (experts, out, in), with its additive bias where it has one."""

    path: str
    shape: tuple[int, ...]
    bias: tuple[int, ...]

    def tensors(self, quantization: Quantization | None) -> list[TensorSpec]:
        """Its tensors in mlx-lm's order: weight, scales, biases, bias."""
        return [*matrix_tensors(self.path, self.shape, quantization), *self.bias_tensors()]

    def bias_tensors(self) -> list[TensorSpec]:
        return [TensorSpec(f"{self.path}.bias", "BF16", self.bias)] if self.bias else []


def matrix_tensors(path: str, shape: tuple[int, ...], quantization: Quantization | None) -> list[TensorSpec]:
    """What MLX stores for the matrix of a module under a quantization (None: bfloat16)."""
    if quantization is None:
        return [TensorSpec(f"{path}.weight", "BF16", shape)]
    *lead, inputs = shape
    scale = "BF16" if quantization.mode == "affine" else "U8"
    words = TensorSpec(f"{path}.weight", "U32", (*lead, quantization.words(inputs)))
    grouped = (*lead, inputs // quantization.group_size)
    return [words, *(TensorSpec(f"{path}.{part}", scale, grouped) for part in quantization.parts[1:])]


def mlx_entries(config: ModelConfig) -> Iterator[Module | TensorSpec]:
    """Modules and plain tensors of the MLX model, in the order in which mlx-lm saves them."""
    sizes = _dimensions(config)
    rows = [("", MLX_FIRST), *((layer_prefix(i), MLX_LAYER) for i in range(config.num_hidden_layers))]
    for prefix, table in [*rows, ("", MLX_LAST)]:
        for path, dimensions, bias in table:
            shape = tuple(sizes[d] for d in dimensions)
            if bias is None:
                yield TensorSpec(prefix + path, "BF16", shape)
            else:
                yield Module(prefix + path, shape, tuple(sizes[d] for d in bias))


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def _dimensions(config: ModelConfig) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "H": config.hidden_size,
        "I": config.intermediate_size,
        "2I": 2 * config.intermediate_size,
        "E": config.num_local_experts,
        "A": config.num_attention_heads,
        "Q": config.num_attention_heads * config.head_dim,
        "K": config.num_key_value_heads * config.head_dim,
        "H/32": config.hidden_size // 32,
        "I/32": config.intermediate_size // 32,
        "16": 16,
    }


def _rows(config: ModelConfig, experts: tuple[Row, ...]) -> Iterator[tuple[TensorSpec, str]]:
    sizes = _dimensions(config)
    for name, original, dtype, shape in TOP:
        yield TensorSpec(name, dtype, tuple(sizes[d] for d in shape)), original
    for layer in range(config.num_hidden_layers):
        for name, original, dtype, shape in LAYER + experts:
            spec = TensorSpec(layer_prefix(layer) + name, dtype, tuple(sizes[d] for d in shape))
            yield spec, f"block.{layer}.{original}"


def release_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The tensors of the Hugging Face release by name: 3 + 19 for each layer."""
    return {spec.name: spec for spec, _ in _rows(config, PACKED)}


def bf16_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The tensors of a checkpoint whose experts are unpacked: [E, in, 2 out] and [E, in, out], bfloat16."""
    return {spec.name: spec for spec, _ in _rows(config, UNPACKED)}


def original_tensors(config: ModelConfig) -> dict[str, tuple[TensorSpec, tuple[TensorSpec, ...]]]:
    """The tensors of `original/` by name: each with the release tensors whose rows it holds, in order."""
    parts: dict[str, list[TensorSpec]] = {}
    for spec, original in _rows(config, PACKED):
        parts.setdefault(original, []).append(spec)
    whole = {}
    for name, pieces in parts.items():
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        whole[name] = (TensorSpec(name, pieces[0].dtype, shape), tuple(pieces))
    return whole
