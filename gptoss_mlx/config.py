"""ModelConfig: the architecture's numbers, read from every dialect of config.json.

Three dialects describe the same model: the root config.json of the Hugging Face release (transformers 5 writes
its rope block back as `rope_parameters`), `original/config.json` with the names of the reference
implementation, and the config.json of an MLX folder, which is the first plus a `quantization` block.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError

SLIDING, FULL = "sliding_attention", "full_attention"
Json = Mapping[str, Any]
MOST_LAYERS = 1024
MOST = 1e15
"""Far beyond any release; larger numbers mean a damaged file."""


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of one gpt-oss model; the defaults are gpt-oss-20b's."""

    num_hidden_layers: int = 24
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    head_dim: int = 64
    num_local_experts: int = 32
    num_experts_per_tok: int = 4
    vocab_size: int = 201088
    sliding_window: int = 128
    layer_types: tuple[str, ...] = ()
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_original_context: int = 4096
    rope_truncate: bool = False
    quantization: Json | None = field(default=None, compare=False)
    """The `quantization` block of an MLX folder as it stands there; None elsewhere."""

    def __post_init__(self) -> None:
        self._check_numbers()
        if not self.layer_types:
            kinds = (SLIDING, FULL)
            object.__setattr__(self, "layer_types", tuple(kinds[i % 2] for i in range(self.num_hidden_layers)))
        self._check_shape()

    def _check_numbers(self) -> None:
        for name in (
            "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
            "num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok", "vocab_size",
            "sliding_window", "max_position_embeddings", "rope_original_context",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"config.json: {name} must be a positive integer, found {value!r}")
        if self.num_hidden_layers > MOST_LAYERS:
            raise ConfigError(f"config.json: num_hidden_layers is {self.num_hidden_layers}, more than {MOST_LAYERS}")
        for name in (
            "rms_norm_eps", "swiglu_limit", "swiglu_alpha", "rope_theta", "rope_factor", "rope_beta_fast",
            "rope_beta_slow",
        ):  # fmt: skip
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"config.json: {name} must be a positive number, found {getattr(self, name)!r}")

    def _check_shape(self) -> None:
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"config.json: layer_types must name {self.num_hidden_layers} layers, found {len(self.layer_types)}"
            )
        for kind in self.layer_types:
            if kind not in (SLIDING, FULL):
                raise ConfigError(f"config.json: layer_types knows {SLIDING} and {FULL}, found {kind!r}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"config.json: num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ConfigError(
                f"config.json: num_experts_per_tok ({self.num_experts_per_tok}) exceeds "
                f"num_local_experts ({self.num_local_experts})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"config.json: head_dim must be even, found {self.head_dim}")
        for name in ("hidden_size", "intermediate_size"):
            if getattr(self, name) % 32:
                raise ConfigError(
                    f"config.json: {name} must be a multiple of 32 (an MXFP4 block), found {getattr(self, name)}"
                )

    @property
    def attention_factor(self) -> float:
        """YaRN's factor on cos and sin: 0.1 ln(factor) + 1 (1 where the context is not stretched)."""
        return 0.1 * math.log(self.rope_factor) + 1.0 if self.rope_factor > 1 else 1.0

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in one layer, in bfloat16."""
        return 2 * self.num_key_value_heads * self.head_dim * 2

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `folder/config.json`.

        Raises:
            ConfigError: the file is missing, is not JSON, or describes another architecture.
        """
        return cls.from_dict(read_json(folder / "config.json"))

    @classmethod
    def from_dict(cls, raw: Json) -> ModelConfig:
        """Read any of the three dialects.

        Raises:
            ConfigError: a field is missing or the architecture is not gpt-oss.
        """
        if "num_experts" in raw and "num_local_experts" not in raw and "model_type" not in raw:
            return cls(**_from_original(raw))
        model_type = raw.get("model_type")
        if model_type != "gpt_oss":
            raise ConfigError(
                f"config.json: unknown architecture {model_type!r}; this runtime knows 'gpt_oss' "
                "(gpt-oss-20b, gpt-oss-120b and models of the same architecture)"
            )
        return cls(**_from_hugging_face(raw))

    def to_dict(self) -> dict[str, Any]:
        """The Hugging Face dialect, without any quantization block."""
        return {
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": True,
            "attention_dropout": 0.0,
            "eos_token_id": 200002,
            "experts_per_token": self.num_experts_per_tok,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initial_context_length": self.rope_original_context,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "layer_types": list(self.layer_types),
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "gpt_oss",
            "num_attention_heads": self.num_attention_heads,
            "num_experts_per_tok": self.num_experts_per_tok,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "num_local_experts": self.num_local_experts,
            "output_router_logits": False,
            "pad_token_id": 199999,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": {
                "beta_fast": self.rope_beta_fast,
                "beta_slow": self.rope_beta_slow,
                "factor": self.rope_factor,
                "original_max_position_embeddings": self.rope_original_context,
                "rope_type": "yarn",
                "truncate": self.rope_truncate,
            },
            "rope_theta": int(self.rope_theta) if float(self.rope_theta).is_integer() else self.rope_theta,
            "router_aux_loss_coef": 0.9,
            "sliding_window": self.sliding_window,
            "swiglu_limit": self.swiglu_limit,
            "tie_word_embeddings": False,
            "use_cache": True,
            "vocab_size": self.vocab_size,
        }


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ConfigError: the file is missing or holds something else.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; expected a model folder with {path.name}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def _require(raw: Json, name: str, *others: str) -> Any:
    for key in (name, *others):
        if raw.get(key) is not None:
            return raw[key]
    raise ConfigError(f"config.json: field {name!r} is missing")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST:
        raise ConfigError(f"config.json: {name} must be a number, found {value!r}")
    return float(value)


_SHAPE_FIELDS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "sliding_window",
)  # fmt: skip


def _from_hugging_face(raw: Json) -> dict[str, Any]:
    found = {name: _require(raw, name) for name in _SHAPE_FIELDS}
    found["num_local_experts"] = _require(raw, "num_local_experts")
    found["num_experts_per_tok"] = _require(raw, "num_experts_per_tok", "experts_per_token")
    rope = raw.get("rope_scaling") or raw.get("rope_parameters")
    if not isinstance(rope, Mapping):
        raise ConfigError("config.json: field 'rope_scaling' (or 'rope_parameters') is missing")
    kind = rope.get("rope_type", rope.get("type"))
    if kind != "yarn":
        raise ConfigError(f"config.json: rope_type must be 'yarn', found {kind!r}")
    theta = raw.get("rope_theta")
    found["rope_theta"] = _number("rope_theta", theta if theta is not None else _require(rope, "rope_theta"))
    found["rope_factor"] = _number("factor", _require(rope, "factor"))
    found["rope_beta_fast"] = _number("beta_fast", rope.get("beta_fast", 32.0))
    found["rope_beta_slow"] = _number("beta_slow", rope.get("beta_slow", 1.0))
    found["rope_truncate"] = bool(rope.get("truncate", False))
    context = rope.get("original_max_position_embeddings")
    if context is None:
        context = _require(raw, "original_max_position_embeddings", "initial_context_length")
    found["rope_original_context"] = int(_number("original_max_position_embeddings", context))
    limit = raw.get("max_position_embeddings") or found["rope_original_context"] * found["rope_factor"]
    found["max_position_embeddings"] = int(_number("max_position_embeddings", limit))
    for name in ("rms_norm_eps", "swiglu_limit", "swiglu_alpha"):
        if raw.get(name) is not None:
            found[name] = _number(name, raw[name])
    kinds = raw.get("layer_types") or []
    if not isinstance(kinds, list):
        raise ConfigError(f"config.json: layer_types must be a list, found {kinds!r}")
    found["layer_types"] = tuple(kinds)
    if raw.get("tie_word_embeddings"):
        raise ConfigError("config.json: tie_word_embeddings must be false: gpt-oss has an output matrix of its own")
    quantization = raw.get("quantization")
    if quantization is not None and not isinstance(quantization, Mapping):
        raise ConfigError(f"config.json: quantization must be an object, found {quantization!r}")
    found["quantization"] = quantization
    return found


def _from_original(raw: Json) -> dict[str, Any]:
    found = {name: _require(raw, name) for name in _SHAPE_FIELDS}
    found["num_local_experts"] = _require(raw, "num_experts")
    found["num_experts_per_tok"] = _require(raw, "experts_per_token")
    found["swiglu_limit"] = _number("swiglu_limit", raw.get("swiglu_limit", 7.0))
    found["rope_theta"] = _number("rope_theta", _require(raw, "rope_theta"))
    found["rope_factor"] = _number("rope_scaling_factor", _require(raw, "rope_scaling_factor"))
    found["rope_beta_slow"] = _number("rope_ntk_alpha", _require(raw, "rope_ntk_alpha"))
    found["rope_beta_fast"] = _number("rope_ntk_beta", _require(raw, "rope_ntk_beta"))
    context = _number("initial_context_length", _require(raw, "initial_context_length"))
    found["rope_original_context"] = int(context)
    found["max_position_embeddings"] = int(context * found["rope_factor"])
    return found
