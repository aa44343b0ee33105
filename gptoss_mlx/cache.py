"""Key/value caches: full layers keep every token, sliding layers only what a later token can still see.

A cache takes a layer's fresh keys and values and attends over all that it has (`attend`). It can be copied at no
cost, and rewound exactly: a full cache to any position, a sliding one as far back as it still has the window before
that position. A rewind beyond is refused, never approximated.

Tokens are appended to buffers in place, behind MLX's back, whose arrays are values: writing into a slice copies the
whole buffer whenever anyone still holds it, such as a step that is still being computed. In place is safe because a
buffer's positions are written in ascending order and shown to no one before they are written. Copies share buffers:
the one that stands at a buffer's end may go on in it, any other moves to a buffer of its own first. Only a rewind
lets positions be written twice, so evaluate all that was built from them before.

Shapes: B sequences, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import mlx.core as mx

from . import kernels

STEP = 256
"""Tokens by which buffers are rounded up."""

SLACK = 64
"""Tokens that a sliding cache can always be rewound by."""

Self = TypeVar("Self", bound="_Buffers")


class _Storage:
    """Arrays (B, K, room, width) that several caches may share."""

    def __init__(self, planes: list[mx.array]) -> None:
        self.planes = planes
        self.filled = 0
        self.shared = 0  # how far copies rely on what is written

    @property
    def room(self) -> int:
        return int(self.planes[0].shape[2])


class _Buffers:
    """The keys and values of the positions from `base` on, in their order, and room for more."""

    def __init__(self) -> None:
        self.offset = 0
        self.base = 0
        self._storage: _Storage | None = None

    def _append(self, fresh: Sequence[mx.array], keep_from: int, room: int) -> None:
        """Append arrays (B, K, T, width). Where that cannot be done in place, move to buffers for `room` tokens.

        Of the old tokens those from position `keep_from` on move along.
        """
        count, used = fresh[0].shape[2], self.offset - self.base
        storage = self._storage
        if storage is None or storage.filled != used or used + count > storage.room:
            keep_from = max(keep_from, self.base)  # after a rewind or in a snapshot there may be no more than is needed
            storage = self._moved(storage, fresh, keep_from, room + count)
            self._storage, self.base = storage, keep_from
            used = self.offset - self.base
        pairs = zip(storage.planes, fresh, strict=True)
        storage.planes = [kernels.append(plane, new.astype(plane.dtype), used) for plane, new in pairs]
        storage.filled = used + count
        self.offset += count

    def _moved(self, storage: _Storage | None, fresh: Sequence[mx.array], keep_from: int, room: int) -> _Storage:
        room = (room + STEP - 1) // STEP * STEP
        if storage is None:
            return _Storage([mx.zeros((*new.shape[:2], room, new.shape[3]), new.dtype) for new in fresh])
        planes, (first, last) = [], (keep_from - self.base, self.offset - self.base)
        for plane in storage.planes:
            empty = mx.zeros((*plane.shape[:2], room - (last - first), plane.shape[3]), plane.dtype)
            planes.append(mx.concatenate([plane[:, :, first:last], empty], axis=2))
        return _Storage(planes)

    def _from(self, start: int) -> list[mx.array]:
        """The arrays (B, K, offset - start, width) of the tokens from `start` on, nothing before the first update."""
        if self._storage is None:
            return []
        return [plane[:, :, start - self.base : self.offset - self.base] for plane in self._storage.planes]

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

    def __copy__(self: Self) -> Self:
        if self._storage is not None:
            self._storage.shared = max(self._storage.shared, self.offset - self.base)
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self: Self, memo: object) -> Self:
        return self.__copy__()


class FullCache(_Buffers):
    """Keys and values of every token, in buffers that grow by half of themselves at least.

    Growing geometrically copies each token a bounded number of times, however long the context becomes.
    """

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D) keys and values; return all of them (B, K, offset, D)."""
        self._append((keys, values), keep_from=0, room=self.offset + self.offset // 2)
        all_keys, all_values = self._from(0)
        return all_keys, all_values

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """Append keys and values (B, K, T, D), and attend with queries (B, H, T, D): see `kernels.attend`."""
        return kernels.attend(queries, *self.update_and_fetch(keys, values), **how)

    def at(self, offset: int) -> FullCache:
        """A copy that stands at an earlier position; it shares the buffers."""
        if not self.can_rewind(offset):
            raise ValueError(f"at: no exact state of position {offset} in a cache of {self.offset} tokens")
        twin = self.__copy__()
        twin.offset = offset
        return twin

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate: keys and values so far."""
        return self._from(0)


class SlidingCache(_Buffers):
    """The last `window - 1` tokens: with the current one, all that a sliding layer may look at.

    Keys stay in the order of their positions, so a chunk of any length attends to exactly what it would have
    seen in one pass. The buffers hold some older tokens as well, so that few updates need to move anything, and so
    that a rewind by up to `SLACK` tokens finds the window that it needs.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D); return the kept tokens and the new ones (B, K, kept + T, D)."""
        start = self.offset - self.kept
        self._add(keys, values)
        seen_keys, seen_values = self._from(start)
        return seen_keys, seen_values

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """As `FullCache.attend`; native kernels are shown where the keys stand."""
        start = self._needed(self.offset) if kernels.native() else self.offset - self.kept
        self._add(keys, values)
        first = start if kernels.native() else 0
        return kernels.attend(queries, *self._from(start), first=first, **how)

    def _add(self, keys: mx.array, values: mx.array) -> None:
        keep_from = self._needed(max(0, self.offset - SLACK))
        self._append((keys, values), keep_from, room=self.offset - keep_from + STEP - 1)

    def _needed(self, offset: int) -> int:
        """The first position that the token at `offset` and those after it may ask for."""
        return max(0, offset - self.window + 1) // kernels.FIRST_STEP * kernels.FIRST_STEP

    def can_rewind(self, offset: int) -> bool:
        """Whether the window before `offset` is still there."""
        return super().can_rewind(offset) and self._needed(offset) >= self.base

    @property
    def kept(self) -> int:
        """Tokens that the next update returns with its own."""
        return min(self.window - 1, self.offset)

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate: the kept keys and values."""
        return self._from(self.offset - self.kept)

    def snapshot(self) -> SlidingCache:
        """A copy with buffers of its own that hold no more than it needs."""
        return self.at(self.offset)

    def at(self, offset: int) -> SlidingCache:
        """A copy that stands at an earlier position (see `can_rewind`), with buffers of its own."""
        if not self.can_rewind(offset):
            raise ValueError(f"at: no exact state of position {offset} in a cache of {self.offset} tokens")
        twin = SlidingCache(self.window)
        twin.offset, twin.base = offset, self._needed(offset)
        if self._storage is not None:
            first, last = twin.base - self.base, offset - self.base
            self._storage.shared = max(self._storage.shared, last)  # a slice of all may be a view
            twin._storage = _Storage([mx.contiguous(plane[:, :, first:last]) for plane in self._storage.planes])
            twin._storage.filled = twin._storage.shared = last - first
        return twin


class Segments:
    """Several sequences side by side in one row of tokens: a layer's caches, and how many tokens each takes.

    Everything in a layer but attention treats tokens one by one, so sequences of any length share a pass.
    """

    def __init__(self, caches: Sequence[FullCache | SlidingCache], lengths: Sequence[int]) -> None:
        self.caches = tuple(caches)
        self.lengths = tuple(lengths)

    def positions(self, length: int) -> list[tuple[int, int]]:
        """Runs (first position, tokens), one per sequence."""
        return [(cache.offset, count) for cache, count in zip(self.caches, self.lengths, strict=True)]

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """As `FullCache.attend`, each sequence for itself; B is 1 and T the sum of the lengths."""
        mixed, first = [], 0
        for cache, count in zip(self.caches, self.lengths, strict=True):
            own = (array[:, :, first : first + count] for array in (queries, keys, values))
            mixed.append(cache.attend(*own, **how))
            first += count
        return mx.concatenate(mixed, axis=1) if len(mixed) > 1 else mixed[0]


Cache = FullCache | SlidingCache
