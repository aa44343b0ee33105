"""The converter: release files in, an MLX folder out; installed as `gptoss_mlx.convert`."""

from .conversion import ConversionReport, convert
from .synthetic import synthesize

__all__ = ["ConversionReport", "convert", "synthesize"]
