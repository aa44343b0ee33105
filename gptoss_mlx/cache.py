"""Key/value caches: full layers keep every token, sliding layers only what a later token can still see.

Both speak the small protocol that mlx-lm's loops expect (`offset`, `state`, `update_and_fetch`). Neither rewinds:
a window that has moved on has lost what a rewind would need, so a rewind is a new cache.

Tokens are appended to buffers in place, behind MLX's back, whose arrays are values: writing into a slice copies the
whole buffer whenever anyone still holds it, such as a step that is still being computed. In place is safe because a
cache writes each position of a buffer once and in ascending order, and shows no one a position that is not written
yet. What a view covers therefore never changes, however late it is evaluated. A copy of a cache shares its buffers
until either of the two grows on: that one moves to buffers of its own first.

Shapes: B sequences, K key/value heads, D head width.
"""

from __future__ import annotations

from typing import TypeVar

import mlx.core as mx

from . import kernels

STEP = 256
"""Tokens by which buffers are rounded up."""

Self = TypeVar("Self", bound="_Buffers")


class _Buffers:
    """Keys and values in the order of their positions, and room for more."""

    def __init__(self) -> None:
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self._used = 0
        self._shared = False

    def _append(self, keys: mx.array, values: mx.array, keep: int, room: int) -> None:
        """Append (B, K, T, D). Where there is no room, move the last `keep` tokens to buffers with some."""
        end = self._used + keys.shape[2]
        if self._keys is None or self._values is None or self._shared or end > self._keys.shape[2]:
            end = keep + keys.shape[2]
            room = (max(end, room) + STEP - 1) // STEP * STEP
            self._keys = self._moved(self._keys, keys, keep, room)
            self._values = self._moved(self._values, values, keep, room)
            self._used, self._shared = keep, False
        self._keys = kernels.append(self._keys, keys.astype(self._keys.dtype), self._used)
        self._values = kernels.append(self._values, values.astype(self._values.dtype), self._used)
        self._used = end
        self.offset += keys.shape[2]

    def _moved(self, buffer: mx.array | None, like: mx.array, keep: int, room: int) -> mx.array:
        batch, heads, _, width = like.shape
        if buffer is None:
            return mx.zeros((batch, heads, room, width), like.dtype)
        empty = mx.zeros((batch, heads, room - keep, width), buffer.dtype)
        return mx.concatenate([buffer[:, :, self._used - keep : self._used], empty], axis=2)

    def _last(self, count: int) -> list[mx.array]:
        """Keys and values (B, K, count, D) of the last tokens, nothing before the first update."""
        if self._keys is None or self._values is None:
            return []
        return [buffer[:, :, self._used - count : self._used] for buffer in (self._keys, self._values)]

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers hold, unused room included."""
        return sum(0 if buffer is None else buffer.nbytes for buffer in (self._keys, self._values))

    def is_trimmable(self) -> bool:
        """False: see the module's docstring."""
        return False

    def __copy__(self: Self) -> Self:
        self._shared = True
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
        self._append(keys, values, keep=self.offset, room=self.offset + self.offset // 2)
        all_keys, all_values = self._last(self.offset)
        return all_keys, all_values

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate: keys and values so far."""
        return self._last(self.offset)


class SlidingCache(_Buffers):
    """The last `window - 1` tokens: with the current one, all that a sliding layer may look at.

    Keys stay in the order of their positions, so a chunk of any length attends to exactly what it would have
    seen in one pass. The buffers hold some older tokens as well, so that few updates need to move anything.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D); return the kept tokens and the new ones (B, K, kept + T, D)."""
        kept = self.kept
        self._append(keys, values, keep=kept, room=kept + STEP)
        seen_keys, seen_values = self._last(kept + keys.shape[2])
        return seen_keys, seen_values

    @property
    def kept(self) -> int:
        """Tokens that the next update returns with its own."""
        return min(self.window - 1, self.offset)

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate: the kept keys and values."""
        return self._last(self.kept)


Cache = FullCache | SlidingCache
