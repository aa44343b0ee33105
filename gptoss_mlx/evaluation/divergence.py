"""How far one model's predictions are from another's: what a conversion cost, position by position.

The divergence is Kullback and Leibler's, KL(reference || candidate), in nats: what is lost by expecting the
candidate's distribution where the reference's is true. It needs every logit of both models. A model's logits of a
few positions are dropped as soon as they are compared; where two models do not fit into memory together, the
reference's go through a file, unrounded, so that both ways give the same figures.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert, sources
from gptoss_mlx.convert.presets import Preset
from gptoss_mlx.errors import RequestError
from gptoss_mlx.runtime import GptOss, load
from gptoss_mlx.tokenizer import Tokenizer

from .scoring import Block, Floats, Progress, log_softmax
from .texts import Passage

TOP = 5


@dataclass(frozen=True)
class Divergence:
    """What `compare` found at N positions.

    Attributes:
        nats: KL(reference || candidate) (N,).
        same_top: whether both find the same token likeliest (N,).
        shared_top: how many of the five likeliest tokens both share, as a fraction (N,).
    """

    nats: Floats
    same_top: npt.NDArray[np.bool_]
    shared_top: Floats

    @property
    def mean(self) -> float:
        """Mean divergence."""
        return float(self.nats.mean())

    def quantile(self, share: float) -> float:
        """The divergence that this share of the positions does not exceed."""
        return float(np.quantile(self.nats, share))

    @property
    def top1(self) -> float:
        """Share of positions with the same likeliest token."""
        return float(self.same_top.mean())

    @property
    def top5(self) -> float:
        """Mean share of common tokens among the five likeliest."""
        return float(self.shared_top.mean())

    def to_dict(self) -> dict[str, Any]:
        """Every figure as plain JSON values."""
        return {
            "positions": len(self.nats), "kl_mean_nats": self.mean, "kl_median_nats": self.quantile(0.5),
            "kl_p99_nats": self.quantile(0.99), "kl_max_nats": self.quantile(1.0),
            "top1_agreement": self.top1, "top5_overlap": self.top5,
        }  # fmt: skip


def divergence(
    reference: GptOss, candidate: GptOss, passages: Sequence[Passage], progress: Progress | None = None
) -> Divergence:
    """Compare two loaded models, which read the passages in turn, a few hundred tokens each.

    Args:
        reference: the model that is taken as true.
        candidate: the one to judge.
        passages: what to run, and which positions to compare.
        progress: told (positions compared, positions in all).

    Raises:
        RequestError: the vocabularies differ, or a passage does not fit a model's context.
    """
    rows = reference.config.vocab_size, candidate.config.vocab_size
    check_vocabularies(reference.tokenizer, candidate.tokenizer, rows)
    return compare(logits(reference, passages), logits(candidate, passages, progress))


def check_vocabularies(reference: Tokenizer, candidate: Tokenizer, rows: tuple[int, int]) -> None:
    """See to it that two models predict the same tokens; `rows` are the numbers of their logits.

    Raises:
        RequestError: they do not.
    """
    if rows[0] != rows[1]:
        raise RequestError(f"vocabularies: equally many logits expected, {rows[0]} and {rows[1]} found")
    for token in range(max(reference.size, candidate.size)):
        ours, theirs = reference.token_bytes(token), candidate.token_bytes(token)
        if ours != theirs:
            raise RequestError(
                f"vocabularies: the same tokens expected, {token} is {ours!r} in one, {theirs!r} in the other"
            )


def logits(model: GptOss, passages: Sequence[Passage], progress: Progress | None = None) -> Iterator[Block]:
    """Logits at the positions that count, block by block, the same cuts for every model."""
    total, done = positions(passages), 0
    for passage in passages:
        for block in model.logits_blocks(passage.tokens, passage.positions):
            yield block
            done += len(block)
            if progress is not None:
                progress(done, total)


def positions(passages: Sequence[Passage]) -> int:
    """How many positions count.

    Raises:
        RequestError: none does.
    """
    found = sum(len(passage.positions) for passage in passages)
    if not found:
        raise RequestError("text: at least one position to compare expected, none found")
    return found


def compare(reference: Iterable[Block], candidate: Iterable[Block]) -> Divergence:
    """Compare logits block by block; both sides give the same positions in the same blocks."""
    found = [_compared(ours, theirs) for ours, theirs in zip(reference, candidate, strict=True)]
    nats, same, shared = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Divergence(nats, same, shared)


def _compared(reference: Block, candidate: Block) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    p, q = log_softmax(reference), log_softmax(candidate)
    nats = np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0)  # rounding may fall below
    same = reference.argmax(axis=-1) == candidate.argmax(axis=-1)
    top, others = _likeliest(reference), _likeliest(candidate)
    shared = (top[:, :, None] == others[:, None, :]).any(axis=-1).mean(axis=-1)
    return nats, same, shared


def _likeliest(block: Block) -> npt.NDArray[np.intp]:
    """The five likeliest tokens of each position, in no order."""
    count = min(TOP, block.shape[-1])
    return np.argpartition(block, -count, axis=-1)[:, -count:]


class StoredLogits:
    """Logits on the disk: float32 as they came, in the blocks in which they came."""

    def __init__(self, blocks: Iterable[Block], path: Path) -> None:
        self._path = path
        self._shapes = []
        with path.open("wb") as file:
            for block in blocks:
                file.write(np.ascontiguousarray(block).data)
                self._shapes.append(block.shape)

    def __iter__(self) -> Iterator[Block]:
        with self._path.open("rb") as file:
            for shape in self._shapes:
                yield np.frombuffer(file.read(4 * shape[0] * shape[1]), np.float32).reshape(shape)


def check_disk(folder: Path, passages: Sequence[Passage], vocabulary: int) -> None:
    """See to it that a folder has room for stored logits.

    Raises:
        RequestError: it has not.
    """
    needed, free = 4 * vocabulary * positions(passages), shutil.disk_usage(folder).free
    if needed > free:
        raise RequestError(
            f"{folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; compare less text, or let TMPDIR name "
            "another disk"
        )


PassagesOf = Callable[[GptOss], Sequence[Passage]]
"""Gives what to compare on, told the loaded reference."""
Stage = Callable[[str, int, int], None]
"""Told what is going on, the work done and the work in all."""


def compare_folders(
    reference: Path,
    candidate: Path,
    passages_of: PassagesOf,
    *,
    two_pass: bool = False,
    exact: bool | None = None,
    progress: Stage = lambda *_: None,
) -> Divergence:
    """Load two models and compare them.

    Args:
        reference: the folder of the model that is taken as true.
        candidate: the folder of the one to judge.
        passages_of: see there.
        two_pass: load one after the other, and keep the first one's logits on the disk meanwhile.
        exact: see `gptoss_mlx.load`.
        progress: see `Stage`.

    Raises:
        RequestError: the vocabularies differ, the text does not fit a context, the disk is too small.
    """
    rows = [ModelConfig.from_folder(sources.checkpoint_folder(f)).vocab_size for f in (reference, candidate)]
    check_vocabularies(Tokenizer.from_folder(reference), Tokenizer.from_folder(candidate), (rows[0], rows[1]))
    progress("loading", 0, 1)
    first = load(reference, exact=exact)
    passages = passages_of(first)
    if not two_pass:
        return divergence(first, load(candidate, exact=exact), passages, partial(progress, "comparing"))
    with tempfile.TemporaryDirectory(prefix="gptoss-mlx-") as name:
        check_disk(Path(name), passages, rows[0])
        stored = StoredLogits(logits(first, passages, partial(progress, "first pass")), Path(name) / "logits")
        del first
        second = load(candidate, exact=exact)
        return compare(stored, logits(second, passages, partial(progress, "second pass")))


@dataclass(frozen=True)
class PresetResult:
    """How far a preset's conversion is from its source; `size` in bytes, of the weights."""

    preset: Preset
    size: int
    divergence: Divergence

    def to_dict(self) -> dict[str, Any]:
        """Every figure as plain JSON values."""
        names = {"dense": self.preset.dense, "experts": self.preset.experts, "bytes": self.size}
        return {**names, **self.divergence.to_dict()}


def compare_presets(
    source: Path,
    passages_of: PassagesOf,
    presets: Sequence[Preset],
    *,
    exact: bool | None = None,
    progress: Stage = lambda *_: None,
) -> list[PresetResult]:
    """Convert a checkpoint with each preset in turn and compare the result with the source.

    One model is in memory at a time and one converted folder on the disk, beside the source's logits.

    Args:
        source: a folder that both `load` and `convert` take.
        passages_of: see there.
        presets: which.
        exact: see `gptoss_mlx.load`.
        progress: see `Stage`.

    Raises:
        RequestError, ConversionError, CheckpointError: what loading, converting and running raise.
    """
    with tempfile.TemporaryDirectory(prefix="gptoss-mlx-") as name:
        folder = Path(name)
        reference = load(source, exact=exact)
        passages = passages_of(reference)
        check_disk(folder, passages, reference.config.vocab_size)
        stored = StoredLogits(logits(reference, passages, partial(progress, "the source")), folder / "logits")
        del reference
        found = []
        for preset in presets:
            target = folder / "model"
            report = convert(source, target, dense=preset.dense, experts=preset.experts)
            candidate = load(target, exact=exact)
            now = compare(stored, logits(candidate, passages, partial(progress, f"{preset.dense}, {preset.experts}")))
            found.append(PresetResult(preset, report.bytes_written, now))
            del candidate
            shutil.rmtree(target)
        return found
