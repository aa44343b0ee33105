"""How one weight is packed, and how to find that out for every module of a folder.

Folders in circulation say it in different ways: one entry per module, one for all, or nothing at all. Here the
module's own entry counts, else what its tensors show, which leaves nothing for an entry for all to say. An entry
without a mode is affine: it never inherits another module's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CheckpointError, ConfigError

AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
FIXED_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}


@dataclass(frozen=True)
class Quantization:
    """Bits per value, values per scale, and the meaning of both (`affine`, `mxfp4`, `mxfp8`, `nvfp4`)."""

    group_size: int
    bits: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode in FIXED_MODES:
            if (self.bits, self.group_size) != FIXED_MODES[self.mode]:
                bits, group = FIXED_MODES[self.mode]
                raise ConfigError(
                    f"quantization: {self.mode} has {bits} bits in groups of {group}, "
                    f"found {self.bits} bits in groups of {self.group_size}"
                )
        elif self.mode != "affine":
            raise ConfigError(f"quantization: unknown mode {self.mode!r}; known are affine, {', '.join(FIXED_MODES)}")
        elif self.bits not in AFFINE_BITS or self.group_size not in AFFINE_GROUPS:
            raise ConfigError(
                f"quantization: affine packing has {AFFINE_BITS} bits in groups of {AFFINE_GROUPS}, "
                f"found {self.bits} bits in groups of {self.group_size}"
            )

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage per weight, scales and offsets included."""
        overhead = {"affine": 32, "mxfp4": 8, "mxfp8": 8, "nvfp4": 8}[self.mode]
        return self.bits + overhead / self.group_size

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors of a packed module, apart from its additive bias."""
        return ("weight", "scales", "biases") if self.mode == "affine" else ("weight", "scales")

    def to_dict(self) -> dict[str, Any]:
        """The entry of a config.json, as mlx-lm writes it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def words(self, inputs: int) -> int:
        """32-bit words of one packed row of `inputs` values."""
        return inputs * self.bits // 32

    def __str__(self) -> str:
        return self.mode if self.mode != "affine" else f"affine {self.bits}-bit g{self.group_size}"


def of_module(path: str, entry: object, inputs: int, words: int, groups: int, scales_are_bytes: bool) -> Quantization:
    """How a module with scales is packed: by its own entry of config.json, else by its tensors (see `from_tensors`).

    Raises:
        ConfigError: see `from_entry`.
        CheckpointError: see `from_tensors`.
    """
    if isinstance(entry, Mapping):
        return from_entry(path, entry)
    return from_tensors(path, inputs, words, groups, scales_are_bytes)


def from_entry(path: str, entry: Mapping[str, Any]) -> Quantization:
    """Read one entry of a config.json; a missing mode means affine, unknown keys are ignored.

    Raises:
        ConfigError: bits or group size are missing or impossible.
    """
    mode = entry.get("mode", "affine")
    if not isinstance(mode, str):
        raise ConfigError(f"config.json: the quantization of {path} names its mode {mode!r}, a text was expected")
    bits, group = FIXED_MODES.get(mode, (None, None))
    bits, group = entry.get("bits", bits), entry.get("group_size", group)
    if not isinstance(bits, int) or not isinstance(group, int):
        raise ConfigError(f"config.json: the quantization of {path} needs bits and group_size, found {dict(entry)}")
    return Quantization(group, bits, mode)


def from_tensors(path: str, inputs: int, words: int, groups: int, scales_are_bytes: bool) -> Quantization:
    """Infer the packing of a weight with `inputs` values a row from the shapes of its tensors.

    Args:
        path: the module, for messages.
        inputs: values per row before packing.
        words: 32-bit words per packed row.
        groups: scales per row.
        scales_are_bytes: whether the scales are uint8 (the floating modes) or floats (affine).

    Raises:
        CheckpointError: no known packing has these shapes.
    """
    shape = f"{words} words and {groups} scales for {inputs} inputs; is config.json that of this checkpoint?"
    if not groups or inputs % groups or words * 32 % inputs:
        raise CheckpointError(f"{path}: no known packing has {shape}")
    group, bits = inputs // groups, words * 32 // inputs
    if scales_are_bytes:
        for mode, (mode_bits, mode_group) in FIXED_MODES.items():
            if (bits, group) == (mode_bits, mode_group):
                return Quantization(group, bits, mode)
        raise CheckpointError(f"{path}: no known packing with byte scales has {shape}")
    if bits not in AFFINE_BITS or group not in AFFINE_GROUPS:
        raise CheckpointError(f"{path}: no affine packing has {shape}")
    return Quantization(group, bits)
