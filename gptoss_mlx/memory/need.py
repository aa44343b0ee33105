"""The arithmetic of memory: what weights, keys and values, and activations take. All sizes in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx import kernels
from gptoss_mlx.buffers import STEP, rounded
from gptoss_mlx.cache import SLACK, grown
from gptoss_mlx.config import FULL, SLIDING, ModelConfig
from gptoss_mlx.convert import names, sources
from gptoss_mlx.convert.presets import Preset
from gptoss_mlx.convert.tensorfile import DTYPES, Stored, TensorSpec

from .machine import BFLOAT16, KvWidth, Machine

CHUNK = 512
"""Tokens of a pass that activations and buffers are reckoned for: the engine's PREFILL_CHUNK."""
VECTORS = ("bias", "sinks", "norm.weight", "norm.scale")
"""How the names of tensors end that become activations' dtype (or float32) on loading."""


def kv_bytes(config: ModelConfig, tokens: int, width: KvWidth = BFLOAT16) -> int:
    """Keys and values of a context, in numbers of some width: sliding layers stop growing at their window."""
    return math.ceil(sum(_layers(config, tokens, min(tokens, config.sliding_window), width)))


def cache_bytes(config: ModelConfig, tokens: int, width: KvWidth = BFLOAT16) -> int:
    """The most that a sequence's caches take on the way to `tokens`, however it gets there.

    Buffers are rounded up, and those of full layers grow by an eighth, up to the model's context.
    They move to larger ones plane by plane: keys or values of one layer are there twice meanwhile.
    """
    full = rounded(grown(tokens - 1, 1, config.max_position_embeddings))
    carried = min(tokens - 1, config.sliding_window - 1 + SLACK + kernels.FIRST_STEP - 1)
    sliding = rounded(carried + STEP - 1 + min(tokens, CHUNK))
    layers = _layers(config, full, sliding, width)
    return math.ceil(sum(layers) + max(layers) / 2)


def _layers(config: ModelConfig, full: int, sliding: int, width: KvWidth) -> list[float]:
    """Bytes of each layer's keys and values, of so many tokens in full and in sliding ones."""
    numbers = 2 * config.num_key_value_heads * config.head_dim
    sizes = {FULL: full * width.full * numbers, SLIDING: sliding * width.sliding * numbers}
    return [sizes[kind] for kind in config.layer_types]


def activation_bytes(config: ModelConfig, tokens: int, machine: Machine, sequences: int = 1) -> int:
    """The most that a pass takes beside weights and caches, with sequences of up to `tokens` tokens.

    The experts' intermediate rows are most of it. MLX's portable CPU operations also hold the scores of all heads,
    three times at once; the other forms of attention keep none.
    """
    rows = min(tokens, CHUNK) + sequences - 1
    hidden, heads = config.hidden_size, config.num_attention_heads
    experts = config.num_experts_per_tok * (3 * hidden + 6 * config.intermediate_size)
    numbers = rows * (experts + 4 * hidden + 3 * heads * config.head_dim) + 4 * sequences * config.vocab_size
    if _is_portable(machine):
        numbers += 3 * heads * rows * tokens
    return numbers * machine.itemsize


def _is_portable(machine: Machine) -> bool:
    return machine.device == "cpu" and not machine.native


@dataclass(frozen=True)
class Need:
    """What a model takes, from its configuration and its tensors' headers.

    Attributes:
        config: of the model.
        kept: bytes of the tensors that stay as they are stored.
        mappable: of these, bytes that native CPU kernels use where they lie on the disk.
        cast: numbers that become activations' dtype on loading: norms, biases, sinks, all that is float16.
        moved: bytes of the largest tensor that is rearranged on loading, and is there twice meanwhile.
        unpacked: numbers of the largest matrix that is not packed; MLX's portable operations turn it into float32.
        name: what messages call the model.
    """

    config: ModelConfig
    kept: int
    mappable: int
    cast: int
    moved: int
    unpacked: int
    name: str = "the model"

    @classmethod
    def of_tensors(cls, config: ModelConfig, tensors: Iterable[TensorSpec | Stored], name: str = "the model") -> Need:
        """From the tensors of a folder of any layout, or those that a conversion would write."""
        tensors = tuple(tensors)
        cast = [x for x in tensors if x.dtype == "F16" or x.name.endswith(VECTORS)]
        kept = [x for x in tensors if x.dtype != "F16" and not x.name.endswith(VECTORS)]
        in_place = sources.layout_of(x.name for x in tensors) == "mlx"
        plain = [x for x in kept if x.dtype == "BF16" and not x.name.endswith((".scales", ".biases"))]
        return cls(
            config,
            kept=sum(x.nbytes for x in kept),
            mappable=sum(x.nbytes for x in kept if in_place and _is_aligned(x)),
            cast=sum(math.prod(x.shape) for x in cast),
            moved=0 if in_place else max((x.nbytes for x in kept), default=0),
            unpacked=max((math.prod(x.shape) for x in plain), default=0),
            name=name,
        )

    @classmethod
    def of_folder(cls, folder: Path) -> Need:
        """Read the headers of a folder of any layout.

        Raises:
            ConfigError, CheckpointError: see `gptoss_mlx.weights.load_model`.
        """
        weights = sources.checkpoint_folder(folder)
        config = ModelConfig.from_folder(weights)
        return cls.of_tensors(config, sources.read_tensors(weights)[1].values(), str(folder))

    @classmethod
    def of_preset(cls, config: ModelConfig, preset: Preset, name: str = "the model") -> Need:
        """What `gptoss-mlx convert` would make of a model."""
        return cls.of_tensors(config, _converted(config, preset), name)

    def weights(self, machine: Machine) -> int:
        """All weights, those on the disk included."""
        return self.kept + self.cast * machine.itemsize

    def on_disk(self, machine: Machine) -> int:
        """The weights that the system may drop from memory and read again."""
        return self.mappable if machine.native else 0

    def resident(self, machine: Machine) -> int:
        """The weights that must be in memory."""
        return self.weights(machine) - self.on_disk(machine)

    def caches(self, machine: Machine, tokens: int) -> int:
        """`cache_bytes` of one sequence."""
        return cache_bytes(self.config, tokens, machine.kv_width)

    def work(self, machine: Machine, tokens: int) -> int:
        """Activations at a context of `tokens`, and the matrix that is being unpacked for a product."""
        copy = self.unpacked * machine.itemsize if _is_portable(machine) else 0
        return activation_bytes(self.config, tokens, machine) + copy

    def total(self, machine: Machine, tokens: int) -> int:
        """What must fit: with a sequence of `tokens`, and before that while the weights are loaded."""
        return self.resident(machine) + max(self.moved, self.caches(machine, tokens) + self.work(machine, tokens))


def _is_aligned(tensor: TensorSpec | Stored) -> bool:
    """Whether a tensor can be mapped: the converter sees to that, other writers do not."""
    return isinstance(tensor, TensorSpec) or tensor.start % DTYPES[tensor.dtype].itemsize == 0


def _converted(config: ModelConfig, preset: Preset) -> Iterator[TensorSpec]:
    for entry in names.mlx_entries(config):
        if isinstance(entry, TensorSpec):
            yield entry
        else:
            yield from entry.tensors(preset.of(entry.path, entry.shape[-1]))
