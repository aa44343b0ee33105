"""Buffers that keys and values are appended to in place.

That happens behind MLX's back, whose arrays are values: writing into a slice copies the whole buffer whenever anyone
still holds it, such as a step that is still being computed. In place is safe because a buffer's positions are written
in ascending order and shown to no one before they are written. Copies share buffers: the one that stands at a buffer's
end may go on in it, any other moves to a buffer of its own first. Only a rewind lets positions be written twice, so
evaluate all that was built from them before.

Shapes: B sequences, K key/value heads, D head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TypeVar

import mlx.core as mx

from . import kernels
from .errors import MemoryLimitError

STEP = 256
"""Tokens by which buffers are rounded up."""

Self = TypeVar("Self", bound="Buffers")


class Storage:
    """Arrays (B, K, room, width) that several caches may share."""

    def __init__(self, planes: list[mx.array]) -> None:
        self.planes = planes
        self.filled = 0
        self.shared = 0  # how far copies rely on what is written

    @property
    def room(self) -> int:
        return int(self.planes[0].shape[2])


class Buffers:
    """The keys and values of the positions from `base` on, in their order, and room for more.

    Args:
        dtype: that numbers are kept in; None: that of the first ones.
        heads: K, which restored planes must have; None: any.
        width: D, as `heads`.
    """

    def __init__(self, dtype: mx.Dtype | None = None, *, heads: int | None = None, width: int | None = None) -> None:
        self.dtype = dtype
        self.heads = heads
        self.width = width
        self.offset = 0
        self.base = 0
        self._storage: Storage | None = None

    def reserve(self, like: mx.array, count: int) -> tuple[Storage, int]:
        """Count `count` tokens like (B, K, T, D) as appended; return the buffers, and where these must be written now.

        Where that cannot be behind what is there, move to buffers with room for them.

        Raises:
            MemoryLimitError: an earlier move ran out of memory.
        """
        used = self.offset - self.base
        storage = self._storage
        if storage is None and used:
            raise MemoryLimitError(f"cache: its {used} tokens were lost when memory ran out; begin anew")
        if storage is None or storage.filled != used or used + count > storage.room:
            del storage  # so that it goes while its planes move
            keep_from, room = self._plan(count)
            keep_from = max(keep_from, self.base)  # after a rewind or in a snapshot there may be no more than is needed
            storage = self._moved(like, keep_from, rounded(room))
            if storage.planes[0].nbytes >= kernels.LARGE:
                _give_back()
            self._storage, self.base = storage, keep_from
            used = self.offset - self.base
        storage.filled = used + count
        self.offset += count
        return storage, used

    def _add(self, keys: mx.array, values: mx.array) -> None:
        """Append arrays (B, K, T, D)."""
        storage, start = self.reserve(keys, keys.shape[2])
        storage.planes = self._written(storage.planes, (keys, values), start)

    def _plan(self, count: int) -> tuple[int, int]:
        """Of new buffers for `count` more tokens: the first position that moves there, and their room in tokens."""
        raise NotImplementedError

    def _moved(self, like: mx.array, first: int, room: int) -> Storage:
        """Buffers for `room` tokens like (B, K, T, D), with the old ones from position `first` on.

        Plane by plane, the old ones being let go of on the way: over all layers, one plane is there twice at a time.
        """
        old, planes = self._between(first, self.offset), []
        self._storage = None
        while old:
            kept = old.pop(0)
            plane = kernels.append(kernels.room((*kept.shape[:2], room, kept.shape[3]), kept.dtype), kept, 0)
            mx.eval(plane)
            planes.append(plane)
        if not planes:
            layout = self._layout(like.dtype, like.shape[3])
            planes = [kernels.room((*like.shape[:2], room, width), dtype) for dtype, width in layout]
        return Storage(planes)

    def _layout(self, dtype: mx.Dtype, width: int) -> list[tuple[mx.Dtype, int]]:
        """Dtype and width of each plane for keys and values of these."""
        return [(self.dtype or dtype, width)] * 2

    def _written(self, planes: list[mx.array], fresh: Sequence[mx.array], start: int) -> list[mx.array]:
        """The planes with the fresh tokens from `start` on."""
        return [kernels.append(plane, new, start) for plane, new in zip(planes, fresh, strict=True)]

    def _needed(self, offset: int) -> int:
        """The first position that the token at `offset` and those after it may ask for."""
        return 0

    def _between(self, first: int, last: int) -> list[mx.array]:
        """The arrays (B, K, last - first, width) of some positions, nothing before the first update."""
        if self._storage is None:
            return []
        return [plane[:, :, first - self.base : last - self.base] for plane in self._storage.planes]

    def planes(self) -> list[mx.array]:
        """All that a continuation needs, arrays (B, K, tokens, width) that stay as they are; see `restore`."""
        self._share()
        return self._between(self._needed(self.offset), self.offset)

    def restore(self, planes: Sequence[mx.array], offset: int) -> None:
        """Let an empty cache go on where one of the same kind stood that had `offset` tokens and gave `planes`.

        Raises:
            ValueError: this cache is not empty, or does not take them; see `takes`.
        """
        if self.offset or not self.takes([(plane.dtype, plane.shape) for plane in planes], offset):
            raise ValueError(
                f"restore: an empty cache and its planes of {offset - self._needed(offset)} tokens expected, found "
                f"{self.offset} tokens and {', '.join(f'{plane.dtype} {plane.shape}' for plane in planes)}"
            )
        self._take(planes, offset)

    def takes(self, planes: Sequence[tuple[mx.Dtype, Sequence[int]]], offset: int) -> bool:
        """Whether a cache of this kind that has `offset` tokens gives planes of these dtypes and shapes.

        Without a `dtype`, numbers are what this device computes.
        """
        if not planes or len(planes[0][1]) != 4:
            return False
        batch, heads, _, width = planes[0][1]
        rows = (batch, self.heads or heads, offset - self._needed(offset))
        layout = self._layout(self.dtype or kernels.compute_dtype(), self.width or width)
        expected = [(dtype, (*rows, width)) for dtype, width in layout]
        return [(dtype, tuple(shape)) for dtype, shape in planes] == expected

    def _take(self, planes: Sequence[mx.array], offset: int) -> None:
        self.offset, self.base = offset, self._needed(offset)
        self._storage = Storage(list(planes))
        self._storage.filled = self._storage.shared = offset - self.base

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers hold, unused room included, whoever shares them."""
        return sum(plane.nbytes for plane in self._storage.planes) if self._storage is not None else 0

    def can_rewind(self, offset: int) -> bool:
        """Whether `rewind` to this position is exact."""
        return 0 <= offset <= self.offset

    def rewind(self, offset: int) -> None:
        """Forget the tokens from position `offset` on. All arrays built from them must have been evaluated.

        Raises:
            ValueError: what is left would not be what a fresh cache holds there; see `can_rewind`.
        """
        if not self.can_rewind(offset):
            raise ValueError(f"rewind: no exact state of position {offset} in a cache of {self.offset} tokens")
        storage = self._storage
        if storage is not None and storage.filled == self.offset - self.base:  # else another cache's tokens follow
            storage.filled = max(storage.shared, offset - self.base)
        self.offset = offset

    def is_trimmable(self) -> bool:
        """False: mlx-lm's loops must not trim what they cannot trim exactly; see `can_rewind`."""
        return False

    def positions(self, length: int) -> list[tuple[int, int]]:
        """Runs (first position, tokens) of `length` tokens that come next."""
        return [(self.offset, length)]

    def _share(self) -> None:
        """Let no position be written again that has been until now."""
        if self._storage is not None:
            self._storage.shared = max(self._storage.shared, self.offset - self.base)

    def empty(self: Self) -> Self:
        """A cache of the same kind without tokens."""
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__, offset=0, base=0, _storage=None)
        return twin

    def snapshot(self: Self) -> Self:
        """A copy with buffers of its own that hold no more than it needs."""
        return self._snapshot(self.offset)

    def _snapshot(self: Self, offset: int) -> Self:
        """The same as it was at an earlier position."""
        twin = self.empty()
        if self._storage is not None:
            self._storage.shared = max(self._storage.shared, offset - self.base)  # a slice of all may be a view
            twin._take([mx.contiguous(plane) for plane in self._between(self._needed(offset), offset)], offset)
        return twin

    def __copy__(self: Self) -> Self:
        self._share()
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self: Self, memo: object) -> Self:
        return self.__copy__()


def rounded(tokens: int) -> int:
    """The room of buffers that are to take some tokens."""
    return (tokens + STEP - 1) // STEP * STEP


def _give_back() -> None:
    """Let the C library return freed memory: glibc keeps blocks of up to 32 MiB, too small for the next to fit in."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
