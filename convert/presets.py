"""What becomes of the weights: the presets of `--dense` and `--experts` as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gptoss_mlx.errors import RequestError
from gptoss_mlx.quantization import Quantization

MXFP4 = Quantization(32, 4, "mxfp4")
ROUTER = Quantization(64, 8)
DENSE: Mapping[str, Quantization | None] = {
    "bf16": None,
    "q8": Quantization(64, 8),
    "q6": Quantization(64, 6),
    "q4": Quantization(64, 4),
    "mxfp8": Quantization(32, 8, "mxfp8"),
}
EXPERTS: Mapping[str, Quantization] = {
    "mxfp4": MXFP4,
    "q4": Quantization(64, 4),
    "q8": Quantization(64, 8),
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
