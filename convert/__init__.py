"""The converter: release files in, an MLX folder out; installed as `gptoss_mlx.convert`."""

from .conversion import ConversionReport, convert
from .synthetic import synthesize
from .verify import TensorCheck, VerifyReport, verify

__all__ = ["ConversionReport", "TensorCheck", "VerifyReport", "convert", "synthesize", "verify"]
