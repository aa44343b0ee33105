"""The converter: release files in, an MLX folder out; installed as `gptoss_mlx.convert`."""

from .synthetic import synthesize

__all__ = ["synthesize"]
