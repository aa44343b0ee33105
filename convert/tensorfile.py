"""safetensors files, read and written piece by piece.

The `safetensors` package hands out whole tensors and has no bfloat16 in NumPy; a converter of files larger than
memory needs the byte ranges instead. A file is an 8-byte little-endian header length, the header (JSON: name ->
dtype, shape, data_offsets; an optional `__metadata__`), then the data. Bfloat16 travels as uint16 throughout.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss_mlx.errors import CheckpointError

Array = npt.NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
    "U32": np.dtype("<u4"),
}
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors package


@dataclass(frozen=True)
class TensorSpec:
    """Name, safetensors dtype and shape of a tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor on disk: the bytes [start, start + nbytes) of `path`, in row-major order."""

    name: str
    path: Path
    start: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.path}: tensor {self.name}"

    def rows(self, first: int, last: int) -> Stored:
        """The rows [first, last) along the first axis."""
        size = self.nbytes // self.shape[0]
        return replace(self, start=self.start + first * size, shape=(last - first, *self.shape[1:]))


def header(specs: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None, align: int = 8) -> bytes:
    """The first bytes of a file whose data holds `specs` in that order, and starts at a multiple of `align`."""
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for spec in specs:
        start, end = end, end + spec.nbytes
        entries[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a file and its metadata ({} where there is none).

    Raises:
        CheckpointError: the file is missing, truncated, longer than its header says, or not safetensors.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise CheckpointError(f"{path}: truncated or not a safetensors file ({size} bytes); fetch it again")
            entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _entry(name, path, 8 + length, entry) for name, entry in entries.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; fetch the missing file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error}); fetch it again") from None
    _check_extent(path, 8 + length, size, tensors)
    return tensors, metadata


def _entry(name: str, path: Path, base: int, entry: Mapping[str, Any]) -> Stored:
    start, end = (int(x) for x in entry["data_offsets"])
    if start < 0:
        raise ValueError(f"data before its own start in {name}")
    stored = Stored(name, path, base + start, str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
    if stored.dtype in DTYPES and stored.nbytes != end - start:
        raise ValueError(f"a {stored.dtype} tensor of shape {list(stored.shape)} in {end - start} bytes")
    return stored


def _check_extent(path: Path, base: int, size: int, tensors: Mapping[str, Stored]) -> None:
    ends = [t.start + t.nbytes for t in tensors.values() if t.dtype in DTYPES]
    expected = max(ends, default=base)
    if size < expected:
        raise CheckpointError(f"{path}: truncated, {expected} bytes expected, {size} found; fetch it again")


def read(file: int, stored: Stored, buffer: bytearray | memoryview | None = None) -> Array:
    """Read a tensor (or rows of one) from an open descriptor, into `buffer` where one is given.

    Reading with pread into a reused buffer keeps the pages out of this process' memory, which a map would not.

    Raises:
        CheckpointError: the file ends before the tensor does.
    """
    view = memoryview(bytearray(stored.nbytes) if buffer is None else buffer)[: stored.nbytes]
    done = 0
    while done < stored.nbytes:
        count = os.preadv(file, [view[done:]], stored.start + done)
        if not count:
            raise CheckpointError(f"{stored.path}: truncated while it was read; fetch it again")
        done += count
    return np.frombuffer(view, DTYPES[stored.dtype]).reshape(stored.shape)


def as_bytes(array: Array) -> memoryview:
    """The bytes of an array in row-major order (a copy only where it is not laid out so)."""
    return np.ascontiguousarray(array).reshape(-1).data.cast("B")


def read_whole(stored: Stored) -> Array:
    """Read one tensor from its file (see `read`)."""
    with stored.path.open("rb") as file:
        return read(file.fileno(), stored)


def shards(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """Cut a sequence of tensors into files: a new one starts when a tensor would pass `limit` bytes."""
    cut: list[list[TensorSpec]] = []
    size = 0
    for spec in specs:
        if not cut or size + spec.nbytes > limit:
            cut.append([])
            size = 0
        cut[-1].append(spec)
        size += spec.nbytes
    return cut


def to_float32(bits: Array) -> npt.NDArray[np.float32]:
    """Bfloat16 bits (uint16) -> float32, exactly."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def to_bfloat16(values: Array) -> npt.NDArray[np.uint16]:
    """Finite float32 -> bfloat16 bits (uint16), to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    carry = (bits >> np.uint32(16)) & np.uint32(1)
    carry += np.uint32(0x7FFF)
    carry += bits
    carry >>= np.uint32(16)
    rounded: npt.NDArray[np.uint16] = carry.astype(np.uint16)
    return rounded
