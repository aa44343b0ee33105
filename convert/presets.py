"""What becomes of the weights: the presets of `--dense` and `--experts` as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gptoss_mlx.errors import RequestError


@dataclass(frozen=True)
class Quantization:
    """How MLX stores a matrix: mode, bits per weight, inputs that share a scale."""

    mode: str  # "affine", "mxfp4" or "mxfp8"
    bits: int
    group_size: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors of a quantised module."""
        return ("weight", "scales", "biases") if self.mode == "affine" else ("weight", "scales")

    def to_dict(self) -> dict[str, Any]:
        """As mlx-lm writes it in config.json."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def __str__(self) -> str:
        if self.mode == "affine":
            return f"affine {self.bits}-bit g{self.group_size}"
        return self.mode.upper()


MXFP4 = Quantization("mxfp4", 4, 32)
ROUTER = Quantization("affine", 8, 64)
DENSE: Mapping[str, Quantization | None] = {
    "bf16": None,
    "q8": Quantization("affine", 8, 64),
    "q6": Quantization("affine", 6, 64),
    "q4": Quantization("affine", 4, 64),
    "mxfp8": Quantization("mxfp8", 8, 32),
}
EXPERTS: Mapping[str, Quantization] = {
    "mxfp4": MXFP4,
    "q4": Quantization("affine", 4, 64),
    "q8": Quantization("affine", 8, 64),
}


@dataclass(frozen=True)
class Preset:
    """A choice for embeddings, attention and lm_head (`dense`) and one for the experts."""

    dense: str = "q8"
    experts: str = "mxfp4"

    def __post_init__(self) -> None:
        if self.dense not in DENSE:
            raise RequestError(f"dense must be one of {', '.join(DENSE)}, found {self.dense!r}")
        if self.experts not in EXPERTS:
            raise RequestError(f"experts must be one of {', '.join(EXPERTS)}, found {self.experts!r}")

    def of(self, module: str, inputs: int) -> Quantization | None:
        """What becomes of the matrix of a module with rows of `inputs` weights; None keeps bfloat16.

        Groups of 64 become groups of 32 where 64 does not divide the row; a row that 32 does not divide (no
        gpt-oss release has one) stays bfloat16, as in mlx-lm.
        """
        if ".experts." in module:
            wanted: Quantization | None = EXPERTS[self.experts]
        else:
            wanted = DENSE[self.dense]
            if wanted and module.endswith(".router"):
                wanted = ROUTER
        if wanted and inputs % wanted.group_size:
            wanted = replace(wanted, group_size=32)
        return wanted if wanted and inputs % wanted.group_size == 0 else None
