"""A float64 NumPy reading of the gpt-oss architecture: what the model in this package is held against.

It reads a folder in the released Hugging Face layout with a safetensors reader and an MXFP4 table of its own
and shares no code with the package. Every formula is written out: masks as comparisons of positions, YaRN with
its fractional correction range, the sink as one more term in the softmax's denominator, the softmax over the
chosen experts only. Shapes: T positions, H hidden, N query heads, K key-value heads, D head width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float64)
ALPHA = 1.702  # of the SwiGLU's sigmoid; a constant of the architecture, in no config.json of the release


def read_safetensors(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The file's tensors: U8 as uint8, BF16 widened to float64."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        raw = data[start + first : start + last]
        if entry["dtype"] == "U8":
            tensor: NDArray[Any] = np.frombuffer(raw, dtype=np.uint8)
        elif entry["dtype"] == "BF16":
            words = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << np.uint32(16)
            tensor = words.view(np.float32).astype(np.float64)
        else:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}, expected U8 or BF16")
        yield name, tensor.reshape(entry["shape"])


def decode_mxfp4(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Float:
    """Blocks (..., G, 16) and scales (..., G) to values (..., 32 G); the low nibble comes first."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1)  # (..., G, 16, 2)
    values: Float = FP4[codes].reshape(*blocks.shape[:-1], 32) * 2.0 ** (scales.astype(np.float64)[..., None] - 127)
    return values.reshape(*blocks.shape[:-2], -1)


def yarn(config: dict[str, Any]) -> tuple[Float, float]:
    """Inverse frequencies (D/2,) and the factor on cos and sin."""
    rope = config["rope_scaling"]
    theta, factor, width = config["rope_theta"], rope["factor"], config["head_dim"]
    base = theta ** (np.arange(0, width, 2) / width)

    def corrected(rotations: float) -> float:
        context = rope["original_max_position_embeddings"]
        return float(width / 2 * math.log(context / (rotations * 2 * math.pi)) / math.log(theta))

    low, high = corrected(rope["beta_fast"]), corrected(rope["beta_slow"])
    keep = 1 - np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
    return keep / base + (1 - keep) / (factor * base), 0.1 * math.log(factor) + 1


def rms_norm(x: Float, weight: Float, eps: float) -> Float:
    scale: Float = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * scale * weight


def rotate(x: Float, angles: Float, factor: float) -> Float:
    """Turn each pair (i, i + D/2) of x (T, heads, D) by angles (T, D/2)."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles)[:, None] * factor, np.sin(angles)[:, None] * factor
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(q: Float, k: Float, v: Float, sinks: Float, allowed: NDArray[np.bool_]) -> Float:
    """Queries (Q, N, D) over keys and values (S, K, D) where allowed (Q, S); (Q, N, D)."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)  # query head h reads key head h // group
    scores = np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0)) / math.sqrt(q.shape[-1])  # (N, Q, S)
    scores = np.where(allowed, scores, -np.inf)
    sink = sinks[:, None, None]
    top = np.maximum(scores.max(-1, keepdims=True), sink)
    weights = np.exp(scores - top)
    weights /= weights.sum(-1, keepdims=True) + np.exp(sink - top)
    out: Float = np.matmul(weights, v.transpose(1, 0, 2)).transpose(1, 0, 2)
    return out


def swiglu(h: Float, limit: float) -> Float:
    """Interleaved gate and up (..., 2 I) to (..., I); the gate is clipped from above only."""
    gate, up = np.minimum(h[..., 0::2], limit), np.clip(h[..., 1::2], -limit, limit)
    out: Float = gate / (1 + np.exp(-ALPHA * gate)) * (up + 1)
    return out


def relative_error(found: Any, wanted: Any) -> float:
    """The largest difference anywhere, in units of the largest wanted magnitude."""
    wanted = np.asarray(wanted, dtype=np.float64)
    return float(np.abs(np.asarray(found, dtype=np.float64) - wanted).max() / np.abs(wanted).max())


class Oracle:
    """The model of a folder in the released Hugging Face layout, in float64."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.tensors = {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in read_safetensors(path)}
        self.inv_freq, self.factor = yarn(self.config)
        self.margin = math.inf
        """The smallest gap seen between the last chosen expert's logit and the next: rounding may swap ties."""

    def logits(self, tokens: Sequence[int], rows: Sequence[int] | None = None, block: int = 256) -> Float:
        """Logits (T, V), or (len(rows), V) for the positions asked for.

        `block` queries attend at a time, which bounds the memory of long sequences and changes no result.
        """
        x = self.tensors["model.embed_tokens.weight"][np.asarray(tokens)]  # (T, H)
        wanted = np.arange(len(x)) if rows is None else np.asarray(rows)
        count = self.config["num_hidden_layers"]
        for n in range(count):
            # the last layer's other rows lead nowhere
            here = wanted if n == count - 1 else np.arange(len(x))
            x = x[here] + self._attention(n, self._norm(f"layers.{n}.input_layernorm", x), here, block)
            x = x + self._moe(n, self._norm(f"layers.{n}.post_attention_layernorm", x))
        out: Float = self._norm("norm", x) @ self.tensors["lm_head.weight"].T
        return out

    def _norm(self, name: str, x: Float) -> Float:
        return rms_norm(x, self.tensors[f"model.{name}.weight"], self.config["rms_norm_eps"])

    def _linear(self, name: str, x: Float) -> Float:
        out: Float = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return out

    def _attention(self, n: int, x: Float, rows: NDArray[np.intp], block: int) -> Float:
        path, width = f"model.layers.{n}.self_attn", self.config["head_dim"]
        positions = np.arange(len(x))
        angles = positions[:, None] * self.inv_freq
        k = self._linear(f"{path}.k_proj", x).reshape(len(x), -1, width)
        v = self._linear(f"{path}.v_proj", x).reshape(len(x), -1, width)
        k = rotate(k, angles, self.factor)
        q = self._linear(f"{path}.q_proj", x[rows]).reshape(len(rows), -1, width)
        q = rotate(q, angles[rows], self.factor)
        sliding = self.config["layer_types"][n] == "sliding_attention"
        out = np.empty_like(q)
        for i in range(0, len(rows), block):
            p = rows[i : i + block, None]
            allowed = positions <= p
            if sliding:
                allowed &= positions > p - self.config["sliding_window"]
            seen = np.flatnonzero(allowed.any(axis=0))
            out[i : i + block] = attend(
                q[i : i + block], k[seen], v[seen], self.tensors[f"{path}.sinks"], allowed[:, seen]
            )
        return self._linear(f"{path}.o_proj", out.reshape(len(rows), -1))

    def _moe(self, n: int, x: Float) -> Float:
        path, top = f"model.layers.{n}.mlp", self.config["num_experts_per_tok"]
        scores = self._linear(f"{path}.router", x)  # (T, E)
        order = np.argsort(-scores, axis=-1)
        ranked = np.take_along_axis(scores, order, axis=-1)
        if top < ranked.shape[-1]:
            self.margin = min(self.margin, float((ranked[:, top - 1] - ranked[:, top]).min()))
        weights = np.exp(ranked[:, :top] - ranked[:, :1])
        weights /= weights.sum(-1, keepdims=True)  # over the chosen experts only
        out = np.zeros_like(x)
        for e in np.unique(order[:, :top]):
            t, slot = np.nonzero(order[:, :top] == e)
            h = swiglu(self._expert(path, "gate_up", e, x[t]), self.config["swiglu_limit"])
            out[t] += weights[t, slot, None] * self._expert(path, "down", e, h)
        return out

    def _expert(self, path: str, part: str, e: int, x: Float) -> Float:
        name = f"{path}.experts.{part}_proj"
        weight = decode_mxfp4(self.tensors[f"{name}_blocks"][e], self.tensors[f"{name}_scales"][e])
        out: Float = x @ weight.T + self.tensors[f"{name}_bias"][e]
        return out
