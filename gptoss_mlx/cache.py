"""Key/value caches: full layers keep every token, sliding layers only what a later token can still see.

Both speak the small protocol that mlx-lm's loops expect (`offset`, `state`, `update_and_fetch`). Neither rewinds:
a window that has moved on has lost what a rewind would need, so a rewind is a new cache.

Shapes: B sequences, K key/value heads, D head width.
"""

from __future__ import annotations

import mlx.core as mx

STEP = 256


class FullCache:
    """Keys and values of every token, in buffers that grow by half of themselves at least.

    Growing geometrically copies each token a bounded number of times, however long the context becomes.
    """

    def __init__(self) -> None:
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D) keys and values; return all of them (B, K, offset, D)."""
        end = self.offset + keys.shape[2]
        self._keys = self._grown(self._keys, keys, end)
        self._values = self._grown(self._values, values, end)
        self._keys[..., self.offset : end, :] = keys
        self._values[..., self.offset : end, :] = values
        self.offset = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def _grown(self, buffer: mx.array | None, like: mx.array, end: int) -> mx.array:
        have = 0 if buffer is None else buffer.shape[2]
        if end <= have and buffer is not None:
            return buffer
        wanted = max(end, have + have // 2)
        wanted = (wanted + STEP - 1) // STEP * STEP
        batch, heads, _, width = like.shape
        extra = mx.zeros((batch, heads, wanted - have, width), like.dtype)
        return extra if buffer is None else mx.concatenate([buffer, extra], axis=2)

    def mask(self, length: int) -> str | None:
        """The mask for `length` new tokens: causal, or none needed for a single one."""
        return "causal" if length > 1 else None

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate: keys and values so far."""
        if self._keys is None or self._values is None:
            return []
        return [self._keys[..., : self.offset, :], self._values[..., : self.offset, :]]

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers hold, unused room included."""
        return sum(0 if buffer is None else buffer.nbytes for buffer in (self._keys, self._values))

    def is_trimmable(self) -> bool:
        """False: see the module's docstring."""
        return False


class SlidingCache:
    """The last `window - 1` tokens: with the current one, all that a sliding layer may look at.

    Keys stay in the order of their positions, so a chunk of any length attends to exactly what it would have
    seen in one pass.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D); return the kept tokens and the new ones (B, K, kept + T, D)."""
        self.offset += keys.shape[2]
        if self._keys is not None and self._values is not None:
            keys = mx.concatenate([self._keys, keys], axis=2)
            values = mx.concatenate([self._values, values], axis=2)
        keep = min(self.window - 1, keys.shape[2])
        first = keys.shape[2] - keep
        self._keys, self._values = keys[..., first:, :], values[..., first:, :]
        return keys, values

    @property
    def kept(self) -> int:
        """Tokens held from before the next update."""
        return 0 if self._keys is None else self._keys.shape[2]

    def mask(self, length: int) -> mx.array | None:
        """Boolean (length, kept + length) for `length` new tokens, or None where every key is allowed.

        Call it before the update. A query at distance d from a key may see it if 0 <= d < window.
        """
        return None if length == 1 else window_mask(length, self.kept, self.window)

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate: the kept keys and values."""
        return [] if self._keys is None or self._values is None else [self._keys, self._values]

    @property
    def nbytes(self) -> int:
        """Bytes of the kept keys and values."""
        return sum(array.nbytes for array in self.state)

    def is_trimmable(self) -> bool:
        """False: see the module's docstring."""
        return False


Cache = FullCache | SlidingCache


def window_mask(length: int, kept: int, window: int) -> mx.array:
    """Which of `kept + length` keys each of the last `length` positions may see: the `window` up to itself."""
    query = mx.arange(kept, kept + length)[:, None]
    key = mx.arange(kept + length)[None]
    return (key <= query) & (key > query - window)
