"""The gpt-oss architecture in PyTorch, small enough to train on two cores, with MXFP4 experts from the first step.

It reads top-down like the formulas of the architecture: RMSNorm, YaRN rotary positions, grouped attention with
a sink per head and alternating windows, a router over the top 4, the clamped SwiGLU. The experts' weights pass
through MXFP4 in every forward pass (the gradient passes straight through), so the exported codes are the very
weights that were trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from gptoss_mlx.config import SLIDING, ModelConfig

MXFP4_BLOCK = 32
MXFP4_STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def mxfp4_exponents(blocks: Tensor) -> Tensor:
    """The scale exponent of each block (..., 32) -> (..., 1): the smallest that lets no value saturate at 6."""
    largest = blocks.abs().amax(-1, keepdim=True).clamp_min(2.0**-40)
    return torch.ceil(torch.log2(largest / 6.0))


def mxfp4_round(weight: Tensor) -> Tensor:
    """The nearest MXFP4 values of a weight (..., in); blocks of 32 run along the input."""
    blocks = weight.unflatten(-1, (-1, MXFP4_BLOCK))
    scale = torch.exp2(mxfp4_exponents(blocks))
    scaled = blocks / scale
    size = scaled.abs()
    step = 0.5 + 0.5 * (size >= 2.0) + (size >= 4.0)
    return (torch.round(scaled / step) * step * scale).flatten(-2)


def fake_mxfp4(weight: Tensor) -> Tensor:
    """MXFP4 values forwards, the identity backwards (a straight-through estimate)."""
    with torch.no_grad():
        change = mxfp4_round(weight) - weight
    return weight + change


def yarn_frequencies(config: ModelConfig) -> Tensor:
    """Rotary frequencies (head_dim / 2,) with YaRN's fractional correction range."""
    half, base, context = config.head_dim // 2, config.rope_theta, config.rope_original_context

    def pair_with_turns(turns: float) -> float:
        return half * math.log(context / (turns * 2 * math.pi)) / math.log(base)

    low, high = pair_with_turns(config.rope_beta_fast), pair_with_turns(config.rope_beta_slow)
    pair = torch.arange(half, dtype=torch.float64)
    kept = 1 - ((pair - low) / (high - low)).clamp(0, 1)
    plain = base ** (-pair / half)
    return (kept * plain + (1 - kept) * plain / config.rope_factor).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate halves of (B, T, heads, D) by tables (T, 1, D)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def swiglu(x: Tensor, limit: float, alpha: float) -> Tensor:
    """The clamped SwiGLU of (…, 2 I): gate, then up."""
    gate, up = x.chunk(2, dim=-1)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


def compile_small_operations() -> None:
    """Let PyTorch fuse the element-wise work: about a fifth of the training time."""
    global rotate, swiglu
    rotate, swiglu = torch.compile(rotate, dynamic=True), torch.compile(swiglu, dynamic=True)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """In float32, weight included; matrix products below take it in their own precision."""
        normed = functional.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps)
        return normed.bfloat16() if torch.is_autocast_enabled("cpu") else normed


class Attention(nn.Module):
    """Grouped-query attention with a learned sink per head, over everything before or a window of it."""

    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.head_dim
        self.window = config.sliding_window if kind == SLIDING else None
        self.qkv = nn.Linear(config.hidden_size, (self.heads + 2 * self.kv_heads) * self.width)
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden_size)
        self.sinks = nn.Parameter(torch.zeros(self.heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads, kv_heads = self.heads, self.kv_heads
        qkv = self.qkv(x).view(batch, length, heads + 2 * kv_heads, self.width)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        with torch.autocast("cpu", enabled=False):
            mixed = self._attend(q, k, v.to(q.dtype))
        return self.o_proj(mixed)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, T, heads, D), k and v (B, T, KV heads, D) -> (B, T, heads * D); a KV head serves a row of heads."""
        batch, length, _, width = q.shape
        group = self.heads // self.kv_heads
        q = q.view(batch, length, self.kv_heads, group, width).permute(0, 2, 3, 1, 4)
        q = q.reshape(batch * self.kv_heads, group * length, width)
        k, v = (part.transpose(1, 2).reshape(batch * self.kv_heads, length, width) for part in (k, v))
        mask = self._mask(length, q.dtype).repeat(group, 1)
        scores = torch.baddbmm(mask, q, k.mT, alpha=width**-0.5)  # (B * KV, group * T, T)
        sinks = self.sinks.to(q.dtype).view(1, self.kv_heads, group, 1).expand(batch, -1, -1, length)
        weights = torch.cat((scores, sinks.reshape(*scores.shape[:2], 1)), dim=-1).softmax(-1)[..., :-1]
        mixed = (weights @ v).view(batch, self.heads, length, width)
        return mixed.transpose(1, 2).flatten(2)

    def _mask(self, length: int, dtype: torch.dtype) -> Tensor:
        """(T, T): 0 where a query may look, -inf elsewhere."""
        position = torch.arange(length)
        distance = position[:, None] - position[None, :]
        hidden = distance < 0
        if self.window is not None:
            hidden |= distance >= self.window
        return torch.zeros(length, length, dtype=dtype).masked_fill(hidden, -math.inf)


class MixtureOfExperts(nn.Module):
    """The router's top 4 experts per token, mixed by a softmax over these four alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.config = config
        self.router = nn.Linear(hidden, experts)
        self.gate_up = nn.Parameter(torch.randn(experts, 2 * inner, hidden) * hidden**-0.5)  # gate, then up
        self.gate_up_bias = nn.Parameter(torch.zeros(experts, 2 * inner))
        self.down = nn.Parameter(torch.randn(experts, hidden, inner) * inner**-0.5)
        self.down_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)  # (N, H)
        logits = self.router(flat)
        best, chosen = logits.topk(self.config.num_experts_per_tok, dim=-1)
        if self.training:
            self.balance = self._balance(logits, chosen)
        slots, token = self._slots(chosen)
        gate_up, down = fake_mxfp4(self.gate_up), fake_mxfp4(self.down)
        rows = flat.index_select(0, token).view(self.config.num_local_experts, -1, flat.shape[1])
        inner = torch.baddbmm(self.gate_up_bias[:, None], rows, gate_up.mT)
        active = swiglu(inner, self.config.swiglu_limit, self.config.swiglu_alpha)
        outer = torch.baddbmm(self.down_bias[:, None], active, down.mT).flatten(0, 1)
        share = torch.zeros(len(token), dtype=best.dtype).scatter(0, slots, best.softmax(-1).flatten())
        return torch.zeros_like(flat).index_add(0, token, (outer * share[:, None]).to(flat.dtype)).view_as(x)

    def _slots(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Give every (token, choice) a row with its expert, all experts the same number of rows, a multiple of 64.

        Few different shapes of products: each new one costs more than the empty rows. Returns the slot of each
        choice (N * 4,) and the token of each slot (experts * rows,), 0 for an empty one, whose share will be 0.
        """
        experts = self.config.num_local_experts
        wanted = chosen.flatten()
        counts = wanted.bincount(minlength=experts)
        rows = -(-int(counts.max()) // 64) * 64
        order = wanted.argsort()
        place = torch.arange(len(wanted)) - (counts.cumsum(0) - counts)[wanted[order]]
        slots = torch.empty_like(wanted).index_copy(0, order, wanted[order] * rows + place)
        token = torch.zeros(experts * rows, dtype=torch.long)
        token[slots] = torch.arange(len(wanted)) // chosen.shape[1]
        return slots, token

    def _balance(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """1 when every expert gets the same load, more otherwise."""
        experts = self.config.num_local_experts
        load = functional.one_hot(chosen, experts).sum(1).float().mean(0) / chosen.shape[1]
        return experts * (load * logits.float().softmax(-1).mean(0)).sum()


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, kind)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MixtureOfExperts(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class DemoModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, kind) for kind in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("frequencies", yarn_frequencies(config), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        deep = (2 * self.config.num_hidden_layers) ** -0.5
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.lm_head:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, Layer)
                layer.self_attn.o_proj.weight *= deep
                layer.mlp.down *= deep

    def forward(self, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits (B * T, vocab) of tokens (B, T), or only those of some `rows` (N,) of the B * T."""
        angle = torch.arange(tokens.shape[1])[:, None] * self.frequencies  # (T, D / 2)
        factor = self.config.attention_factor
        angle = torch.cat((angle, angle), dim=-1)[:, None]
        x = self.embed_tokens(tokens)
        inner = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        cos, sin = (angle.cos() * factor).to(inner), (angle.sin() * factor).to(inner)
        for layer in self.layers:
            x = layer(x, cos, sin)
        x = x.flatten(0, 1)
        return self.lm_head(self.norm(x if rows is None else x.index_select(0, rows)))

    def balance(self) -> Tensor:
        """The mean load imbalance over the layers of the last training pass (1 is even)."""
        return torch.stack([layer.mlp.balance for layer in self.layers]).mean()  # type: ignore[union-attr]
