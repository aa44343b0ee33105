"""The gpt-oss transformer, top-down.

Tokens are embedded, pass through layers of attention (alternating between a sliding window and the full
context, with a learned sink per head) and a mixture of experts (a router picks a few per token), and come out as
logits. One implementation serves every device, any batch and any chunking; `kernels` decides how each operation
runs.

Shapes: B sequences, T tokens, H query heads, K key/value heads, D head width, E experts, k experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from . import kernels
from .cache import Cache, Segments, make_caches
from .config import SLIDING, ModelConfig
from .quantization import Quantization
from .rope import Rope

SORT_FROM = 64
"""Rows times experts per token from which sorting the rows by expert pays on a GPU."""


class Model(nn.Module):
    """gpt-oss with its output projection.

    Parameters are named as in an MLX folder. `model_type`, `args` and `layers` are what mlx-lm's generation and
    LoRA code ask a model for. `exact` keeps native CPU kernels in float32 throughout (see `kernels.exactly`); None
    leaves that to the process.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.args = config
        self.model_type = "gpt_oss"
        self.exact: bool | None = None
        self.model = Transformer(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def __call__(
        self,
        inputs: mx.array,
        cache: Sequence[Cache | Segments] | None = None,
        *,
        positions: slice | mx.array | None = None,
    ) -> mx.array:
        """Logits of the asked positions.

        Args:
            inputs: token ids (B, T).
            cache: from `make_cache`, updated in place; None where nothing came before and nothing follows. `Segments`
                in their places take several sequences at once, whose tokens then stand one after the other (1, T).
            positions: which of the T positions; a slice or indices. None means all. The output projection is the
                largest matrix by far, so ask only for what is needed.

        Returns:
            (B, positions, vocabulary) in the dtype of the activations.
        """
        x = self.hidden(inputs, cache)
        return self.logits(x if positions is None else x[:, positions])

    def hidden(self, inputs: mx.array, cache: Sequence[Cache | Segments] | None = None) -> mx.array:
        """What the output projection takes: (B, T, hidden), arguments as for a call."""
        with kernels.exactly(self.exact):
            x: mx.array = self.model(inputs, cache)
        return x

    def logits(self, hidden: mx.array) -> mx.array:
        """Logits (B, T, vocabulary) of what `hidden` gave."""
        with kernels.exactly(self.exact):
            logits: mx.array = self.lm_head(hidden)
        return logits

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last."""
        return self.model.layers

    def make_cache(self, kv: str | None = None) -> list[Cache]:
        """An empty cache for each layer.

        Args:
            kv: what to keep: numbers in float32, float16 or bfloat16, or in full-attention layers codes of 8 or 4 bits
                (q8, q4). None leaves that to GPTOSS_CACHE; where that says nothing or `exact` is on, numbers stay what
                they are.

        Raises:
            RequestError: there is no such kind, or it does not suit the model.
        """
        with kernels.exactly(self.exact):
            return make_caches(self.args, kernels.cache_kind(kv))


class Transformer(nn.Module):
    """Embedding, layers, final norm: tokens (B, T) to activations (B, T, hidden)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config, kind) for kind in config.layer_types]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._rope = Rope(config)

    def __call__(self, inputs: mx.array, cache: Sequence[Cache | Segments] | None = None) -> mx.array:
        length = inputs.shape[1]
        caches: Sequence[Cache | Segments | None] = cache if cache is not None else [None] * len(self.layers)
        runs = caches[0].positions(length) if caches[0] is not None else [(0, length)]
        x = self.embed_tokens(inputs).astype(kernels.compute_dtype())
        rope = self._rope.rows(runs)
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, rope, layer_cache)
        return self.norm(x)


class Layer(nn.Module):
    """Attention and experts, each on a normalised copy of the residual stream (B, T, hidden)."""

    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, config.sliding_window if kind == SLIDING else 0)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MixtureOfExperts(config)

    def __call__(self, x: mx.array, rope: tuple[mx.array, mx.array], cache: Cache | Segments | None) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), rope, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class RMSNorm(nn.Module):
    """Root mean square norm, float32 inside and in its weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((size,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.rms_norm(x, self.weight, self.eps, training=self.training)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and one sink per query head.

    A query sees the last `window` tokens, itself included; all of them if that is 0.
    """

    def __init__(self, config: ModelConfig, window: int) -> None:
        super().__init__()
        heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.width = width
        self.scale = width**-0.5
        self.window = window
        self.sinks = mx.zeros((heads,))
        self.q_proj = Linear(config.hidden_size, heads * width)
        self.k_proj = Linear(config.hidden_size, kv_heads * width)
        self.v_proj = Linear(config.hidden_size, kv_heads * width)
        self.o_proj = Linear(heads * width, config.hidden_size)

    def __call__(self, x: mx.array, rope: tuple[mx.array, mx.array], cache: Cache | Segments | None) -> mx.array:
        training = self.training
        queries = kernels.heads(self.q_proj(x), self.width, rope, training=training)
        keys = kernels.heads(self.k_proj(x), self.width, rope, training=training)
        values = kernels.heads(self.v_proj(x), self.width, training=training)
        attend = kernels.attend if cache is None else cache.attend
        mixed = attend(queries, keys, values, scale=self.scale, sinks=self.sinks, window=self.window, training=training)
        return self.o_proj(mixed)


class Linear(nn.Linear):
    """A linear layer whose product `kernels` chooses; still MLX's own to whoever looks for its kind."""

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.linear(x, kernels.Packed(self.weight, self.get("bias")), training=self.training)


class PackedLinear(nn.QuantizedLinear):
    """The same with a packed weight."""

    def __call__(self, x: mx.array) -> mx.array:
        packing = Quantization(self.group_size, self.bits, self.mode)
        packed = kernels.Packed(self.weight, self.get("bias"), self.scales, self.get("biases"), packing)
        return kernels.linear(x, packed, training=self.training)


class MixtureOfExperts(nn.Module):
    """A router picks k experts per token; their outputs are summed with softmax weights over these k."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts_per_token = config.num_experts_per_tok
        self.router = Linear(config.hidden_size, config.num_local_experts)
        self.experts = Experts(config)

    def __call__(self, x: mx.array) -> mx.array:
        chosen, shares = kernels.route(self.router(x), self.experts_per_token, training=self.training)
        return self.experts(x, chosen, shares)


class Experts(nn.Module):
    """The experts' gated feed-forward networks, summed per token with the router's shares."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count, hidden, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_proj = ExpertLinear(count, hidden, inner)
        self.up_proj = ExpertLinear(count, hidden, inner)
        self.down_proj = ExpertLinear(count, inner, hidden)
        self.limit, self.alpha = config.swiglu_limit, config.swiglu_alpha

    def __call__(self, x: mx.array, chosen: mx.array, shares: mx.array) -> mx.array:
        """(B, T, hidden), choices and shares (B, T, k), to (B, T, hidden)."""
        parts = (self.gate_proj, self.up_proj, self.down_proj)
        if all(type(part) is ExpertLinear for part in parts):  # not one with LoRA updates
            weights = [part.packed for part in parts]
            if kernels.fuses(x, *weights, training=self.training):
                return kernels.experts(x, chosen, shares, *weights, limit=self.limit, alpha=self.alpha)
        return (self._each(x, chosen) * shares[..., None]).sum(axis=-2)

    def _each(self, x: mx.array, chosen: mx.array) -> mx.array:
        """Every chosen expert's output (B, T, k, hidden)."""
        if chosen.size < SORT_FROM:
            return self._forward(x[..., None, None, :], chosen, sorted_experts=False).squeeze(-2)
        order = mx.argsort(chosen.flatten())
        rows = x.flatten(0, -2)[order // chosen.shape[-1]]  # each token once per choice, by expert
        out = self._forward(rows[:, None, :], chosen.flatten()[order], sorted_experts=True)
        return out.squeeze(-2)[mx.argsort(order)].reshape(*chosen.shape, -1)

    def _forward(self, x: mx.array, experts: mx.array, *, sorted_experts: bool) -> mx.array:
        gate = self.gate_proj(x, experts, sorted_experts)
        up = self.up_proj(x, experts, sorted_experts)
        inner = kernels.swiglu(gate, up, limit=self.limit, alpha=self.alpha)
        return self.down_proj(inner, experts, sorted_experts)


class ExpertLinear(nn.Module):
    """One linear layer per expert, plain (E, out, in) or packed (E, out, words)."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, outputs, inputs))
        self.bias = mx.zeros((experts, outputs))
        self.quantization: Quantization | None = None

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """(..., 1, in) and expert indices (..., k), ascending or not, to (..., k, 1, out)."""
        y = kernels.gather_product(
            x,
            self.weight,
            experts,
            scales=self.get("scales"),
            biases=self.get("biases"),
            quantization=self.quantization,
            sorted_experts=sorted_indices,
        )
        return y + self.bias[experts][..., None, :]

    @property
    def packed(self) -> kernels.Packed:
        """All arrays of the layer."""
        return kernels.Packed(self.weight, self.bias, self.get("scales"), self.get("biases"), self.quantization)

    def to_lora(self, r: int, scale: float, dropout: float) -> nn.Module:
        """This layer with one low-rank update per expert; mlx-lm's LoRA code asks for it."""
        from mlx_lm.tuner.lora import LoRASwitchLinear

        experts, outputs, words = self.weight.shape
        inputs = words * 32 // self.quantization.bits if self.quantization else words
        layer = LoRASwitchLinear(inputs, outputs, experts, r=r, scale=scale, dropout=dropout)
        layer.update_modules({"linear": self})
        return layer


class PackedEmbedding(nn.Module):
    """An embedding whose rows are expanded when they are looked up, in the activations' dtype."""

    def __init__(self, quantization: Quantization) -> None:
        super().__init__()
        self.quantization = quantization
        self.weight = self.scales = mx.zeros((0, 0))

    def __call__(self, tokens: mx.array) -> mx.array:
        biases = self.get("biases")
        return kernels.dequantize_rows(
            self.weight[tokens],
            self.scales[tokens],
            None if biases is None else biases[tokens],
            self.quantization,
            kernels.compute_dtype(),
        )
