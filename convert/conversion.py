"""`convert`: a checkpoint in, a folder for MLX out."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.errors import CheckpointError, ConversionError

from .folder import write_side_files
from .plan import SHARD, ConversionPlan, make_plan
from .presets import Preset
from .sources import open_source
from .synthetic import Progress
from .write import MANIFEST, Partial, discard, open_partial, partial_folder, write_shards

_MARGIN = 64 << 20  # bytes left free: tokenizer files, configs


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did."""

    destination: Path
    source_layout: str
    preset: Preset
    tensors: int
    shards: int
    shards_resumed: int
    bytes_read: int
    bytes_written: int
    parameters: int
    seconds: float
    notes: tuple[str, ...]


def convert(
    source: Path | str,
    destination: Path | str,
    *,
    dense: str = "q8",
    experts: str = "mxfp4",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    shard_bytes: int = SHARD,
) -> ConversionReport:
    """Convert a checkpoint into a folder that MLX loads.

    The source is checked before anything is written; the output appears under its name when it is complete. An
    interruption leaves `destination.partial` for `resume`; damaged input leaves nothing.

    Args:
        source: the released layout, `original/`, a BF16 checkpoint, or an MLX folder (to change the preset).
        destination: a folder that does not exist yet, or is empty, or may be replaced (`overwrite`).
        dense: what becomes of embeddings, attention and output: "bf16", "q8", "q6", "q4" (affine) or "mxfp8".
        experts: "mxfp4" keeps released bits; "q4" and "q8" (affine) serve runtimes without MXFP4.
        overwrite: replace the destination once the new folder is complete; without `resume` it also drops what an
            interrupted conversion left.
        resume: continue the interrupted conversion of the same source with the same settings.
        progress: called with (bytes of output done, bytes in all).
        shard_bytes: limit of tensor bytes per file.

    Raises:
        RequestError: an unknown preset.
        ConfigError, CheckpointError: the source is not a complete, sound gpt-oss checkpoint.
        ConversionError: the destination exists, the disk is too small, there is nothing to resume.
    """
    started = time.monotonic()
    preset = Preset(dense, experts)
    target = Path(destination).resolve()
    plan = make_plan(open_source(source), preset, shard_bytes)
    _check_destination(plan, target, overwrite)
    plan.source.check_scales()
    identity = {
        "source": plan.source.fingerprint(),
        "dense": dense,
        "experts": experts,
        "shard_bytes": str(shard_bytes),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(plan, target, resume)
        partial = open_partial(target, identity, resume=resume, overwrite=overwrite)
        resumed = _fill(plan, partial, target, progress)
        _publish(partial, target)
    except OSError as error:
        place = error.filename or partial_folder(target)
        raise ConversionError(f"{place}: {error.strerror}; what is finished is kept for --resume") from error
    return ConversionReport(
        destination=Path(destination),
        source_layout=plan.source.layout,
        preset=preset,
        tensors=sum(len(shard.specs) for shard in plan.shards),
        shards=len(plan.shards),
        shards_resumed=resumed,
        bytes_read=plan.source.nbytes,
        bytes_written=plan.size,
        parameters=plan.parameters,
        seconds=time.monotonic() - started,
        notes=plan.notes,
    )


def _check_destination(plan: ConversionPlan, target: Path, overwrite: bool) -> None:
    source = plan.source.folder.resolve()
    if target == source or target in source.parents:
        raise ConversionError(f"{target}: holds the source; choose another destination")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise ConversionError(f"{target}: exists; replace it with --overwrite or choose another destination")
    if not (target / "config.json").is_file():
        raise ConversionError(f"{target}: exists and is not a model folder; remove it yourself")


def _check_space(plan: ConversionPlan, target: Path, resume: bool) -> None:
    needed = plan.size + _MARGIN
    if resume and partial_folder(target).is_dir():
        needed -= sum(file.stat().st_blocks * 512 for file in partial_folder(target).iterdir())
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ConversionError(
            f"{target}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free on its disk; "
            "free some space or choose another disk"
        )


def _fill(plan: ConversionPlan, partial: Partial, target: Path, progress: Progress | None) -> int:
    """Write everything into the partial folder; damaged input leaves nothing behind."""
    try:
        resumed = write_shards(plan, partial, progress)
        write_side_files(plan, partial.folder, target.name)
    except CheckpointError:
        discard(partial.folder)
        raise
    return resumed


def _publish(partial: Partial, target: Path) -> None:
    """Give the finished folder its name; an older one goes only after that."""
    old = target.with_name(target.name + ".old")
    if target.exists():
        if old.exists():
            discard(old)
        os.rename(target, old)
    os.rename(partial.folder, target)
    (target / MANIFEST).unlink()
    if old.exists():
        shutil.rmtree(old)
