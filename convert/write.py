"""Streamed, resumable writing of an MLX folder.

Tensors go from source to output in slices of a few MB, each read, packed and written by one of a few threads, so
reading, packing and writing overlap and memory stays flat. Everything happens in `NAME.partial` beside the
destination; a finished shard is flushed to the disk and recorded there, and only such shards are kept by a resumed
conversion. The folder gets its name when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gptoss_mlx.errors import ConversionError

from .plan import ConversionPlan, Shard, Step
from .synthetic import Progress
from .tensorfile import Array, as_bytes, read

_ALIGN = 64
MANIFEST = "conversion.json"


def workers() -> int:
    """Threads that pack: the cores, but at least two (one reads while another packs) and at most four."""
    return min(max(os.cpu_count() or 1, 2), 4)


@dataclass
class Partial:
    """The unfinished output folder and what its manifest says."""

    folder: Path
    identity: dict[str, str]
    finished: list[str] = field(default_factory=list)

    def record(self, name: str) -> None:
        """Note that a shard is on the disk."""
        self.finished.append(name)
        self.save()

    def save(self) -> None:
        text = json.dumps({**self.identity, "finished": self.finished}, indent=2)
        write_durably(self.folder / MANIFEST, text + "\n")


def partial_folder(destination: Path) -> Path:
    """Where a conversion to `destination` keeps its unfinished work."""
    return destination.with_name(destination.name + ".partial")


def open_partial(destination: Path, identity: dict[str, str], *, resume: bool, overwrite: bool) -> Partial:
    """Start the unfinished folder, or take up the one that is there.

    Raises:
        ConversionError: nothing to resume, something unfinished in the way, or it belongs to other settings.
    """
    folder = partial_folder(destination)
    empty = folder.is_dir() and not any(folder.iterdir())  # interrupted before it began
    if resume and not empty:
        return _take_up(folder, identity)
    if folder.exists() and not empty and not overwrite:
        raise ConversionError(
            f"{folder}: left by an interrupted conversion; continue it with --resume, or start over with --overwrite"
        )
    if folder.exists():
        discard(folder)
    folder.mkdir()
    partial = Partial(folder, identity)
    partial.save()
    return partial


def _take_up(folder: Path, identity: dict[str, str]) -> Partial:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        finished = [str(name) for name in found.pop("finished")]
    except FileNotFoundError:
        way = "start over with --overwrite" if folder.exists() else "convert without --resume"
        raise ConversionError(f"{folder}: nothing to resume; {way}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{folder / MANIFEST}: not readable ({error}); start over with --overwrite") from None
    for key, value in identity.items():
        if found.get(key) != value:
            what = "another source" if key == "source" else f"{key} {found.get(key)!r}, not {value!r}"
            raise ConversionError(
                f"{folder}: the interrupted conversion has {what}; repeat its settings, or start over with --overwrite"
            )
    return Partial(folder, identity, finished)


def discard(folder: Path) -> None:
    """Remove a folder that a conversion made; refuses anything that does not look like one."""
    if not any((folder / name).exists() for name in (MANIFEST, "config.json")) and any(folder.iterdir()):
        raise ConversionError(f"{folder}: neither a model nor an unfinished one; remove it yourself")
    shutil.rmtree(folder)


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a small file at once, with its bytes on the disk."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_shards(plan: ConversionPlan, partial: Partial, progress: Progress | None) -> int:
    """Write every shard that is not finished yet; returns the number of those that were.

    Raises:
        CheckpointError: a value is not finite, or a source file ends early.
        OSError: the disk does not give or take the data.
    """
    finished = {shard.name for shard in plan.shards if _is_whole(partial, shard)}
    partial.finished = [name for name in partial.finished if name in finished]
    with ExitStack() as stack:
        engine = _Engine(plan, partial, progress, stack)
        for shard in plan.shards:
            if shard.name in finished:
                engine.advance(shard.nbytes)
            else:
                engine.write(shard)
        engine.finish()
    return len(finished)


def _is_whole(partial: Partial, shard: Shard) -> bool:
    path = partial.folder / shard.name
    return shard.name in partial.finished and path.is_file() and path.stat().st_size == shard.size


class _Engine:
    """Threads, open files and the count of bytes during one run."""

    def __init__(self, plan: ConversionPlan, partial: Partial, progress: Progress | None, stack: ExitStack) -> None:
        self._plan, self._partial, self._progress = plan, partial, progress
        self._done = 0
        self._local = threading.local()
        self._inputs = {path: stack.enter_context(path.open("rb")).fileno() for path in plan.source.files}
        self._flushes: list[Future[None]] = []
        self._flusher = ThreadPoolExecutor(1)
        stack.callback(self._flusher.shutdown, wait=True)
        self._pool = ThreadPoolExecutor(workers())
        stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)

    def advance(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(self._done, self._plan.nbytes)

    def write(self, shard: Shard) -> None:
        """Fill one file; it is flushed in the background while the next is filled."""
        path = self._partial.folder / shard.name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.ftruncate(file, shard.size)
            _write_all(file, memoryview(shard.header), 0)
            jobs = [self._pool.submit(self._run, *job, file) for job in _jobs(self._plan, shard)]
            for job in as_completed(jobs):
                self.advance(job.result())
        except BaseException:
            self._pool.shutdown(wait=True, cancel_futures=True)  # nobody may write to a closed descriptor
            os.close(file)
            raise
        self._flushes.append(self._flusher.submit(_flush, file, shard.name, self._partial.record))

    def finish(self) -> None:
        for flush in self._flushes:
            flush.result()

    def _run(self, step: Step, first: int, last: int, places: list[int | None], file: int) -> int:
        """Read rows [first, last) of a step's inputs, convert them, write what belongs to this shard."""
        outputs = step.run(self._read(step, first, last))
        written = 0
        for array, spec, place in zip(outputs, step.outputs, places, strict=True):
            if place is not None:
                data = as_bytes(array)
                _write_all(file, data, place + first * (spec.nbytes // spec.shape[0]))
                written += len(data)
        return written

    def _read(self, step: Step, first: int, last: int) -> list[Array]:
        slices = [stored.rows(first, last) for stored in step.inputs]
        sizes = [-(-part.nbytes // _ALIGN) * _ALIGN for part in slices]
        if len(getattr(self._local, "buffer", b"")) < sum(sizes):
            self._local.buffer = bytearray(sum(sizes))
        view, arrays = memoryview(self._local.buffer), []
        for part, size in zip(slices, sizes, strict=True):
            arrays.append(read(self._inputs[part.path], part, view))
            view = view[size:]
        return arrays


def _jobs(plan: ConversionPlan, shard: Shard) -> Iterator[tuple[Step, int, int, list[int | None]]]:
    """Slices of all steps that have an output in this shard, with the place of each output in the file."""
    offsets = shard.offsets()
    for step in plan.steps:
        places = [offsets.get(spec.name) for spec in step.outputs]
        if all(place is None for place in places):
            continue
        for first, last in step.slices():
            yield step, first, last, places


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _flush(file: int, name: str, record: Callable[[str], None]) -> None:
    try:
        os.fsync(file)
    finally:
        os.close(file)
    record(name)
