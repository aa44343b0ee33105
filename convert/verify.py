"""`verify`: proves a converted folder against its source, tensor by tensor.

What a conversion copies or rearranges must have the source's bits. What it quantises is dequantised again and held
against the source: the error is reported, no weight may be further off than its quantization explains, and the
bits are compared with a fresh quantisation (a folder made on a GPU may differ in the last one, which is no fault).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.quantization import Quantization, from_entry

from .folder import control_tokens, stop_tokens
from .plan import Step, alternate, decode, encode
from .sources import Matrix, Source, Vector, open_source, read_index
from .synthetic import Progress
from .tensorfile import Array, Stored, TensorSpec, read, to_float32
from .write import workers

_ROWS = 1 << 20  # weights compared at a time


@dataclass(frozen=True)
class TensorCheck:
    """The verdict on one module's matrix, or on one copied tensor."""

    name: str
    kind: str  # "experts", "dense", "router", "copied"
    stored: str  # as what
    weights: int
    differing: int  # items whose bits are not the expected ones (of `parts` where quantised)
    relative_rms: float  # of the error against the source; 0 where bits are compared
    largest_error: float
    beyond: int  # weights that are further off than their quantization explains
    exact: bool  # whether bit equality is demanded

    @property
    def ok(self) -> bool:
        return self.beyond == 0 and not (self.exact and self.differing)


@dataclass(frozen=True)
class VerifyReport:
    """All verdicts, and what is wrong with index and configuration."""

    source: Path
    destination: Path
    checks: tuple[TensorCheck, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.problems and all(check.ok for check in self.checks)


def verify(source: Path | str, destination: Path | str, progress: Progress | None = None) -> VerifyReport:
    """Compare a converted MLX folder with the checkpoint that it was made from.

    Args:
        source, destination: folders as given to `convert`.
        progress: called with (bytes of the source done, bytes in all).

    Raises:
        ConfigError, CheckpointError: one of the two cannot be read at all.
    """
    started = time.monotonic()
    ours, theirs = open_source(source), open_source(destination)
    if theirs.layout != "mlx":
        raise CheckpointError(f"{destination}: an MLX folder expected, found the layout {theirs.layout!r}")
    problems = tuple(_problems(ours, theirs))
    checks = () if ours.config != theirs.config else tuple(_checks(ours, theirs, progress))
    seconds = time.monotonic() - started
    return VerifyReport(Path(source), Path(destination), checks, problems, seconds)


def _problems(source: Source, destination: Source) -> Iterator[str]:
    """What config.json, the index and the generation config get wrong."""
    if source.config != destination.config:
        yield "config.json describes another model than the source's"
    raw = destination.raw_config
    block = raw.get("quantization") or {}
    if raw.get("quantization_config") != raw.get("quantization"):
        yield "config.json: quantization_config is not a copy of quantization"
    for matrix in destination.matrices:
        said = _said(block, matrix)
        if matrix.quantization and said != matrix.quantization:
            yield f"config.json: {matrix.modules[0]} is {matrix.quantization}, quantization says {said}"
    yield from _index_problems(destination)
    stops = raw.get("eos_token_id")
    missing = [t for t in stop_tokens(control_tokens(source)) if not isinstance(stops, list) or t not in stops]
    if missing:
        yield f"config.json: eos_token_id {stops} lacks {missing}"


def _said(block: Mapping[str, Any], matrix: Matrix) -> Quantization | None:
    entry = block.get(matrix.modules[0], block)
    if not isinstance(entry, Mapping) or "bits" not in entry:
        return None
    return from_entry(matrix.modules[0], entry)


def _index_problems(destination: Source) -> Iterator[str]:
    index = read_index(destination.folder)
    weight_map = index.get("weight_map") or {}
    stored = [part for matrix in destination.matrices for part in matrix.parts]
    stored += [vector.stored for vector in destination.vectors]
    for tensor in stored:
        if weight_map.get(tensor.name) != tensor.path.name:
            yield f"the index does not name {tensor.name} in {tensor.path.name}"
    total = (index.get("metadata") or {}).get("total_size")
    if total != destination.nbytes:
        yield f"the index says total_size {total}, the tensors have {destination.nbytes} bytes"


def _checks(source: Source, destination: Source, progress: Progress | None) -> Iterator[TensorCheck]:
    """Compare all tensors, a few at a time, in the order of the source's files."""
    matrices = {matrix.modules[0]: matrix for matrix in destination.matrices}
    vectors = {vector.names[0]: vector.stored for vector in destination.vectors}
    items: list[Matrix | Vector] = [*source.vectors, *source.matrices]
    pairs = [_pair(item, matrices, vectors) for item in items]
    pairs.sort(key=lambda pair: (str(pair.step.inputs[0].path), pair.step.inputs[0].start))
    done = 0
    with ExitStack() as stack:
        paths = {*source.files, *destination.files}
        files = {path: stack.enter_context(path.open("rb")).fileno() for path in paths}
        pool = stack.enter_context(ThreadPoolExecutor(workers()))
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        for pair in pairs:
            cut = list(pair.step.slices())
            tallies = pool.map(lambda part, pair=pair: pair.compare(files, *part), cut)
            yield from pair.verdicts([tally for part in tallies for tally in part])
            done += sum(stored.nbytes for stored in pair.step.inputs)
            if progress:
                progress(done, source.nbytes)


@dataclass(frozen=True)
class _Tally:
    """What one slice of one module (number `way` of its step) adds to a verdict."""

    way: int
    differing: int
    squared_error: float = 0.0
    squared: float = 0.0
    largest: float = 0.0
    beyond: int = 0


@dataclass(frozen=True)
class _Pair:
    """A matrix or vector of the source, and the parts of each module that it went to."""

    step: Step
    names: tuple[str, ...]
    outputs: tuple[tuple[Stored, ...], ...]

    def compare(self, files: Mapping[Path, int], first: int, last: int) -> list[_Tally]:
        """Tallies of the rows [first, last), one per module."""
        inputs = [read(files[s.path], s.rows(first, last)) for s in self.step.inputs]
        found = [[read(files[s.path], s.rows(first, last)) for s in parts] for parts in self.outputs]
        item, ways = self.step.item, self.step.ways
        if self.step.untouched or not isinstance(item, Matrix):
            expected = alternate(inputs, ways)
            size = len(expected) // ways
            wanted = [expected[way * size : (way + 1) * size] for way in range(ways)]
            return [_Tally(way, _differing(wanted[way], found[way])) for way in range(ways)]
        weights = alternate([decode(item, inputs)], ways)
        target = Matrix(self.names, self.step.target, ())
        return [_measure(way, weights[way], found[way], target) for way in range(ways)]

    def verdicts(self, tallies: Sequence[_Tally]) -> Iterator[TensorCheck]:
        for way, name in enumerate(self.names):
            mine = [tally for tally in tallies if tally.way == way]
            squared = sum(tally.squared for tally in mine)
            yield TensorCheck(
                name=name,
                kind=_kind(self.step, name),
                stored=str(self.step.target or "bfloat16"),
                weights=self._weights(),
                differing=sum(tally.differing for tally in mine),
                relative_rms=math.sqrt(sum(t.squared_error for t in mine) / squared) if squared else 0.0,
                largest_error=max(tally.largest for tally in mine),
                beyond=sum(tally.beyond for tally in mine),
                exact=self.step.untouched,
            )

    def _weights(self) -> int:
        words, target = math.prod(self.outputs[0][0].shape), self.step.target
        return words * 32 // target.bits if target else words


def _pair(item: Matrix | Vector, matrices: Mapping[str, Matrix], vectors: Mapping[str, Stored]) -> _Pair:
    if isinstance(item, Vector):
        step = Step(item, None, _specs(item.names))
        return _Pair(step, item.names, tuple((vectors[name],) for name in item.names))
    kinds = {matrices[module].quantization for module in item.modules}
    if len(kinds) > 1:
        raise CheckpointError(f"{item.modules[0]}: gate and up must be quantised alike")
    step = Step(item, kinds.pop(), _specs(item.modules))
    return _Pair(step, item.modules, tuple(matrices[module].parts for module in item.modules))


def _specs(names: Sequence[str]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "U8", ()) for name in names)


def _kind(step: Step, name: str) -> str:
    if isinstance(step.item, Vector):
        return "copied"
    if ".experts." in name:
        return "experts"
    return "router" if name.endswith(".router") else "dense"


def _differing(expected: Sequence[Array], found: Sequence[Array]) -> int:
    return sum(int(np.count_nonzero(a != b)) for a, b in zip(expected, found, strict=True))


def _measure(way: int, weights: Array, found: Sequence[Array], target: Matrix) -> _Tally:
    """Compare bfloat16 bits (..., in) of the source with quantised parts, some rows at a time."""
    weights = weights.reshape(-1, weights.shape[-1])
    flat = [part.reshape(-1, part.shape[-1]) for part in found]
    rows = max(1, _ROWS // weights.shape[-1])
    tallies = [
        _measure_rows(way, weights[i : i + rows], [part[i : i + rows] for part in flat], target)
        for i in range(0, len(weights), rows)
    ]
    return _Tally(
        way,
        differing=sum(t.differing for t in tallies),
        squared_error=sum(t.squared_error for t in tallies),
        squared=sum(t.squared for t in tallies),
        largest=max(t.largest for t in tallies),
        beyond=sum(t.beyond for t in tallies),
    )


def _measure_rows(way: int, weights: Array, found: list[Array], target: Matrix) -> _Tally:
    differing = _differing(encode(weights, target.quantization), found)
    wanted, got = to_float32(np.ascontiguousarray(weights)), to_float32(decode(target, found))
    squared = float(np.vdot(wanted, wanted))
    got -= wanted
    squared_error = float(np.vdot(got, got))
    error = np.abs(got, out=got)
    largest = float(error.max(initial=0))
    beyond = int(np.count_nonzero(~(error <= _allowed(wanted, found, target.quantization))))
    return _Tally(way, differing, squared_error, squared, largest, beyond)


def _allowed(wanted: Array, found: list[Array], kind: Quantization | None) -> Array:
    """How far off a weight may be: two steps of its group, and the rounding of the result to bfloat16.

    One step is half a rounding, another what storing the scale in bfloat16 and meeting zero exactly may cost.
    """
    slack: Array = np.abs(wanted) * np.float32(2.0**-7)
    if kind is None:
        return slack
    if kind.mode == "affine":
        step = np.abs(to_float32(found[1]))
    else:
        top = 16 if kind.mode == "mxfp8" else 1  # half the distance of the two largest codes, twice below
        step = np.ldexp(np.float32(top), found[1].astype(np.int32) - 127)
    slack += np.repeat(2 * step, kind.group_size, axis=-1)
    return slack
