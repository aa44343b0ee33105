"""One file of prompt states: a safetensors file with the states along one path of the store.

It holds the tokens, the layers that keep every token once, and the sliding layers at each position where there is a
state. The last tensor, `checksums`, has the CRC-32 of each tensor before it and at last that of the header, so damage
is told from data before anybody relies on either.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.cache import Cache, SlidingCache
from gptoss_mlx.convert import tensorfile
from gptoss_mlx.convert.tensorfile import Stored, TensorSpec
from gptoss_mlx.errors import CheckpointError, GptOssError

from .prefix import Branch, Tokens, common

FORMAT, VERSION = "gptoss-mlx prompt states", "1"
DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32, "U8": mx.uint8, "U32": mx.uint32}
TOKENS, CHECKSUMS = "tokens", "checksums"
ALIGN = 64
HEADER_LIMIT = 1 << 26

Mark = tuple[int, int]


def mark_of(status: os.stat_result) -> Mark:
    """Tells a file from one that took its place, even one that got its inode."""
    return status.st_ino, status.st_size


@dataclass(frozen=True)
class StateFile:
    """What is known of a file without its large arrays: the tokens, and the positions where they have a state."""

    path: Path
    mark: Mark
    tokens: Tokens
    positions: tuple[int, ...]
    layers: Mapping[str, list[Stored]]
    """Planes by `layer`, or by `position.layer` where the layer is a sliding one."""
    checksums: Mapping[str, int]

    @classmethod
    def open(cls, path: Path, fingerprint: str, caches: list[Cache]) -> StateFile:
        """Read the header and the tokens.

        Args:
            path: named by `file_name`.
            fingerprint: of the model that should have written it.
            caches: of that model's layers, empty.

        Raises:
            GptOssError: the file is damaged, foreign, or of another model or version; says which.
            OSError: it cannot be read.
        """
        if not _is_sealed(path):
            raise GptOssError("damaged or truncated")
        try:
            tensors, metadata = tensorfile.read_header(path)
            kind = [metadata["format"], metadata["version"], metadata["fingerprint"]]
            positions = tuple(int(position) for position in json.loads(metadata["positions"]))
            with path.open("rb") as file:
                mark = mark_of(os.fstat(file.fileno()))
                tokens = _numbers(file.fileno(), tensors[TOKENS]).astype(np.int32)
                sums = _numbers(file.fileno(), tensors[CHECKSUMS])  # in its own place that of the header
            checksums = dict(zip(tensors, sums.tolist(), strict=True))
        except (CheckpointError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            raise GptOssError("not a file of prompt states") from None
        if kind != [FORMAT, VERSION, fingerprint]:
            raise GptOssError("of another version" if kind[:2] != [FORMAT, VERSION] else "of another model")
        if path.name != file_name(fingerprint, tokens):
            raise GptOssError("damaged: its tokens are not those of its name")
        return cls(path, mark, tokens, positions, _layers(tensors, caches, positions, len(tokens)), checksums)

    def shared(self, tokens: Tokens) -> int:
        """Length of the common beginning with other tokens."""
        return common(self.tokens, tokens)

    def begins(self, tokens: Tokens) -> bool:
        """Whether some tokens begin with those of the file."""
        return self.shared(tokens) == len(self.tokens)

    def covers(self, branch: Branch) -> bool:
        """Whether the file has all states of a branch."""
        return self.shared(branch.tokens) == len(branch.tokens) and branch.states.keys() <= set(self.positions)

    def nbytes(self, position: int) -> int:
        """Bytes of the state at one of the positions."""
        sizes: dict[str, int] = {key: sum(plane.nbytes for plane in found) for key, found in self.layers.items()}
        own = sum(size for key, size in sizes.items() if key.startswith(f"{position}."))
        full = sum(size for key, size in sizes.items() if "." not in key)
        return own + full * position // len(self.tokens)

    def read(self, position: int, caches: list[Cache]) -> dict[int, list[Cache]]:
        """The states up to a position that has one, ascending; they share the layers that keep every token.

        Args:
            position: one of the file's.
            caches: empty ones, of all layers.

        Raises:
            GptOssError: an array is damaged.
            OSError: the file is gone or cannot be read.
        """
        with self._opened() as source:
            full = {
                layer: _restored(cache, self._planes(source, f"{layer}", position), position)
                for layer, cache in enumerate(caches)
                if not isinstance(cache, SlidingCache)
            }
            return self._states(source, position, caches, full)

    def read_beside(self, deeper: list[Cache], caches: list[Cache]) -> dict[int, list[Cache]]:
        """All states, of which only the sliding layers are read: the others share those of a state further down.

        Args:
            deeper: caches that stand behind all tokens of the file.
            caches: as for `read`.

        Raises:
            GptOssError, OSError: as `read`.
        """
        full = {layer: cache for layer, cache in enumerate(deeper) if not isinstance(cache, SlidingCache)}
        with self._opened() as source:
            return self._states(source, len(self.tokens), caches, full)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with self.path.open("rb") as file:
            if mark_of(os.fstat(file.fileno())) != self.mark:
                raise FileNotFoundError(f"{self.path}: replaced by another file")
            yield file.fileno()

    def _states(self, source: int, last: int, caches: list[Cache], full: Mapping[int, Cache]) -> dict[int, list[Cache]]:
        return {
            end: [
                full[layer].at(end) if layer in full else _restored(cache, self._planes(source, f"{end}.{layer}"), end)
                for layer, cache in enumerate(caches)
            ]
            for end in self.positions
            if end <= last
        }

    def _planes(self, source: int, key: str, tokens: int | None = None) -> list[mx.array]:
        """The arrays of a layer, of all `tokens` or the first ones."""
        arrays = []
        for stored in self.layers[key]:
            numbers = tensorfile.read(source, stored)
            if zlib.crc32(tensorfile.as_bytes(numbers)) != self.checksums[stored.name]:
                raise GptOssError(f"damaged: {stored.name} is not what was written")
            arrays.append(_to_mlx(numbers[:, :, :tokens], stored.dtype))
        return arrays


def file_name(fingerprint: str, tokens: Tokens) -> str:
    """What to call the file of these tokens, read by this model."""
    text = f"{FORMAT} {VERSION} {fingerprint}".encode()
    digest = hashlib.sha256(hashlib.sha256(text).digest() + tensorfile.as_bytes(tokens.astype("<i4")))
    return f"prompt-{digest.hexdigest()[:40]}.safetensors"


def write(path: Path, fingerprint: str, branch: Branch) -> None:
    """Write a branch, and wait until the disk has it. The file can be read by its owner only.

    Raises:
        OSError: the disk does not take it.
    """
    arrays = _arrays(branch)
    specs = [TensorSpec(name, _dtype(array), tuple(array.shape)) for name, array in arrays.items()]
    specs.append(TensorSpec(CHECKSUMS, "U32", (len(arrays) + 1,)))
    positions = json.dumps(list(branch.states))
    metadata = {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "positions": positions}
    header = tensorfile.header(specs, metadata, ALIGN)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(header)
        sums = []
        for array in arrays.values():
            data = tensorfile.as_bytes(_to_numpy(array))
            file.write(data)
            sums.append(zlib.crc32(data))
        file.write(np.array([*sums, zlib.crc32(header)], "<u4").tobytes())
        file.flush()
        os.fsync(file.fileno())


def nbytes(branch: Branch) -> int:
    """Bytes of the arrays that `write` would write."""
    return sum(array.nbytes for array in _arrays(branch).values())


def _arrays(branch: Branch) -> dict[str, mx.array]:
    """What a file holds, not evaluated."""
    arrays = {TOKENS: mx.array(branch.tokens.astype(np.uint32))}
    last = len(branch.tokens)
    for end, caches in branch.states.items():
        for layer, cache in enumerate(caches):
            sliding = isinstance(cache, SlidingCache)
            if sliding or end == last:
                key = f"{end}.{layer}" if sliding else f"{layer}"
                arrays |= {f"{key}.{number}": plane for number, plane in enumerate(cache.planes())}
    return arrays


def _is_sealed(path: Path) -> bool:
    """Whether the header is as it was written, and the file ends where it should."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(os.fstat(file.fileno()).st_size - 12, HEADER_LIMIT):
            return False
        file.seek(0)
        header = file.read(8 + length)
        file.seek(-4, os.SEEK_END)
        return zlib.crc32(header) == int.from_bytes(file.read(4), "little")


def _numbers(source: int, stored: Stored) -> npt.NDArray[np.uint32]:
    return np.frombuffer(tensorfile.as_bytes(tensorfile.read(source, stored)), "<u4")


def _layers(
    tensors: Mapping[str, Stored], caches: list[Cache], positions: tuple[int, ...], length: int
) -> dict[str, list[Stored]]:
    """The planes of each layer: those that its cache takes, and nothing beside them."""
    if not positions or list(positions) != sorted({*positions}) or positions[0] < 1 or positions[-1] != length:
        raise GptOssError(f"not a file of prompt states: positions {list(positions)[:8]} in {length} tokens")
    layers: dict[str, list[Stored]] = {}
    for layer, cache in enumerate(caches):
        sliding = isinstance(cache, SlidingCache)
        for end in positions if sliding else (length,):
            key = f"{end}.{layer}" if sliding else f"{layer}"
            names = takewhile(tensors.__contains__, (f"{key}.{number}" for number in count()))
            layers[key] = [tensors[name] for name in names]
            if not _suits(cache, layers[key], end):
                raise GptOssError("of a model with other layers")
    if sum(map(len, layers.values())) != len(tensors.keys() - {TOKENS, CHECKSUMS}):
        raise GptOssError("of a model with other layers")
    return layers


def _suits(cache: Cache, planes: Sequence[Stored], offset: int) -> bool:
    """Whether planes of one sequence are what a cache would take."""
    known = [
        (DTYPES[plane.dtype], plane.shape) for plane in planes if plane.dtype in DTYPES and plane.shape[:1] == (1,)
    ]
    return len(known) == len(planes) and cache.takes(known, offset)


def _restored(cache: Cache, planes: Sequence[mx.array], offset: int) -> Cache:
    twin = cache.empty()
    twin.restore(planes, offset)
    return twin


def _dtype(array: mx.array) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype)


def _to_numpy(array: mx.array) -> npt.NDArray[Any]:
    """The same bytes; NumPy has no bfloat16."""
    return np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _to_mlx(numbers: npt.NDArray[Any], dtype: str) -> mx.array:
    array = mx.array(np.ascontiguousarray(numbers))
    return array.view(mx.bfloat16) if dtype == "BF16" else array
