"""What a model needs against what a machine has: whether it fits, and if not, what would.

On a CPU with native kernels the weights of an MLX folder are pages of files, which the system drops and reads again as
it must. Such a model may be larger than the memory: it is then slow, which is a warning and no refusal. Everything
else must fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert.presets import DENSE, Preset
from gptoss_mlx.errors import MemoryLimitError, RequestError

from .machine import WIRED_STEP, Machine
from .need import Need, activation_bytes, cache_bytes

CONTEXT = 4096
"""Tokens that must fit beside a model when it is loaded, unless more or fewer are asked for."""
CLOSE = 0.9
"""Share of a GPU's memory beyond which a model that fits may still be slow."""
NICE = ((16384, 4096), (2048, 1024), (256, 256))
"""Contexts from the first number on are rounded down to a multiple of the second; below the last none is offered."""
CHANGES = ("context", "preset", "limit")


@dataclass(frozen=True)
class Advice:
    """A way out that is enough by itself: in words, and what it changes (None: as it is)."""

    words: str
    tokens: int | None = None
    dense: str | None = None
    wired_mb: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether something fits: bytes needed and to be had, and one line.

    `note` is the refusal with its ways out, or a warning that what fits will be slow, or empty.
    """

    fits: bool
    needed: int
    available: int
    note: str = ""
    advice: tuple[Advice, ...] = ()

    def require(self) -> Verdict:
        """Return the verdict if it is a yes.

        Raises:
            MemoryLimitError: it is a no.
        """
        if not self.fits:
            raise MemoryLimitError(self.note)
        return self


def check_folder(folder: Path, tokens: int = CONTEXT, machine: Machine | None = None) -> Verdict:
    """`check_load` of a folder, on this machine unless another is given.

    Raises:
        ConfigError, CheckpointError: see `gptoss_mlx.weights.load_model`.
        RequestError: see `check_load`.
    """
    return check_load(Need.of_folder(folder), machine or Machine.measure(), tokens)


def check_load(need: Need, machine: Machine, tokens: int = CONTEXT) -> Verdict:
    """Whether a model can be loaded and hold a sequence.

    Args:
        need: of the model.
        machine: where it is to run.
        tokens: of the sequence, 1 or more; those beyond the model's context do not count.

    Raises:
        RequestError: no token is asked for.
    """
    _check_positive("context", tokens)
    tokens = min(tokens, need.config.max_position_embeddings)
    needed, available = need.total(machine, tokens), machine.available
    if needed <= available:
        return Verdict(True, needed, available, _warning(need, machine, needed))
    advice = tuple(_ways_out(need, machine, tokens))
    ways = f"what fits: {', or '.join(a.words for a in advice)}" if advice else "no form of this model fits here"
    parts = (
        f"weights {_gb(need.resident(machine))}, keys and values of {tokens:,} tokens "
        f"{_gb(need.caches(machine, tokens))}, activations {_gb(need.work(machine, tokens))}"
    )
    note = f"{need.name}: {_gb(needed)} needed ({parts}), {_gb(available)} to be had ({machine}); {ways}"
    return Verdict(False, needed, available, note, advice)


def _warning(need: Need, machine: Machine, needed: int) -> str:
    everything = needed + need.on_disk(machine)
    if everything > machine.available:
        return (
            f"{need.name}: {_gb(everything)} needed, {_gb(machine.available)} to be had ({machine}): "
            "what is missing is read from the disk again and again, which is slow"
        )
    if machine.device != "cpu" and needed > CLOSE * machine.available:
        return (
            f"{need.name}: {_gb(needed)} needed, {_gb(machine.available)} to be had ({machine}): "
            "whatever else uses the GPU slows it down"
        )
    return ""


def _ways_out(need: Need, machine: Machine, tokens: int) -> Iterator[Advice]:
    """Every way with one change; where there is none, with two or three."""
    presets = _smaller_presets(need, machine)
    for count in range(1, len(CHANGES) + 1):
        ways = [_way_out(need, machine, tokens, presets, changes) for changes in combinations(CHANGES, count)]
        found = [way for way in ways if way is not None]
        if found:
            yield from found
            return


def _way_out(
    need: Need, machine: Machine, tokens: int, presets: dict[str, Need], changes: tuple[str, ...]
) -> Advice | None:
    room = machine.most_wired << 20 if "limit" in changes else machine.available
    if "limit" in changes and room <= machine.available:
        return None
    for dense, other in presets.items() if "preset" in changes else [(None, need)]:
        most = _largest_beside(other, machine, room) if "context" in changes else tokens
        if not most or other.total(machine, most) > room:
            continue
        limit = math.ceil(other.total(machine, most) / (WIRED_STEP << 20)) * WIRED_STEP
        words = {
            "context": f"a context of {most:,} tokens",
            "preset": _conversion(dense, other, machine),
            "limit": f"`sudo sysctl iogpu.wired_limit_mb={limit}` (until the next start)",
        }
        return Advice(
            " with ".join(words[change] for change in changes),
            most if "context" in changes else None,
            dense,
            limit if "limit" in changes else None,
        )
    return None


def _largest_beside(need: Need, machine: Machine, room: int) -> int:
    return _largest(need.config, lambda tokens: need.total(machine, tokens) <= room)


def _smaller_presets(need: Need, machine: Machine) -> dict[str, Need]:
    """The `--dense` presets that need less memory, the largest first; the default stands for all that stay on disk."""
    offered = ("q8",) if machine.native else tuple(DENSE)
    found = {dense: Need.of_preset(need.config, Preset(dense), need.name) for dense in offered}
    smaller = {dense: other for dense, other in found.items() if other.resident(machine) < need.resident(machine)}
    return dict(sorted(smaller.items(), key=lambda item: -item[1].kept))


def _conversion(dense: str | None, other: Need, machine: Machine) -> str:
    if machine.native:
        return f"`gptoss-mlx convert --dense {dense}` (its weights may stay on the disk)"
    return f"`gptoss-mlx convert --dense {dense}` (weights of {_gb(other.weights(machine))})"


def check_context(
    config: ModelConfig,
    tokens: int,
    machine: Machine,
    *,
    used: int,
    sequences: int = 1,
) -> Verdict:
    """Whether sequences can be admitted beside what is there.

    Args:
        config: of the model.
        tokens: that each may reach, its answer included.
        machine: where the model runs.
        used: bytes taken or promised: `Need.resident`, and the `cache_bytes` of what each running sequence may reach.
        sequences: to be admitted.

    Raises:
        RequestError: no token or no sequence is asked for.
    """
    _check_positive("context", tokens)
    _check_positive("sequences", sequences)
    needed = _beside(config, tokens, machine, sequences)
    left = max(0, machine.available - used)
    if needed <= left:
        return Verdict(True, needed, left)
    most = largest_context(config, machine, used=used, sequences=sequences)
    advice = (Advice(f"{most:,} tokens fit", tokens=most),) if most else ()
    which = f"a sequence of {tokens:,} tokens" if sequences == 1 else f"{sequences} sequences of {tokens:,} tokens"
    way = advice[0].words if advice else "wait until others have ended, or use a smaller model"
    note = f"{which}: {_gb(needed)} needed, {_gb(left)} left beside the {_gb(used)} in use ({machine}); {way}"
    return Verdict(False, needed, left, note, advice)


def largest_context(config: ModelConfig, machine: Machine, *, used: int, sequences: int = 1) -> int:
    """The most tokens that `check_context` admits, as a nice number; 0 where that is hardly any.

    Raises:
        RequestError: no sequence is asked for.
    """
    _check_positive("sequences", sequences)
    left = machine.available - used
    return _largest(config, lambda tokens: _beside(config, tokens, machine, sequences) <= left)


def admission(
    config: ModelConfig,
    machine: Machine,
    *,
    used: int,
    running: Callable[[], Iterable[int]],
) -> Callable[[int], bool]:
    """What an engine asks before it admits a sequence of so many tokens.

    Args:
        config: of the model.
        machine: where it runs.
        used: bytes that are always taken: `Need.resident`, and what a store of prefixes may hold.
        running: tells the tokens that each sequence in progress may reach.

    Returns:
        Whether there is room beside those that run; raises MemoryLimitError where there would not be without them.
    """

    def fits(tokens: int) -> bool:
        check_context(config, tokens, machine, used=used).require()
        promised = sum(cache_bytes(config, others, machine.kv_width) for others in running())
        return check_context(config, tokens, machine, used=used + promised).fits

    return fits


def _beside(config: ModelConfig, tokens: int, machine: Machine, sequences: int) -> int:
    caches = sequences * cache_bytes(config, tokens, machine.kv_width)
    return caches + activation_bytes(config, tokens, machine, sequences)


def _largest(config: ModelConfig, fits: Callable[[int], bool]) -> int:
    """The largest nice context that fits, given that whatever is smaller than one that fits does."""
    low, high = 0, config.max_position_embeddings
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low == config.max_position_embeddings:
        return low
    return next((low // step * step for first, step in NICE if low >= first), 0)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise RequestError(f"{name}: 1 or more expected, {value} found")


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
