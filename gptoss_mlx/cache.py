"""Key/value caches: full layers keep every token, sliding layers only what a later token can still see.

Full layers may keep codes of 8 or 4 bits instead of numbers; sliding layers are too small to gain by that.

A cache takes a layer's fresh keys and values and attends over all that it has (`attend`). It can be copied at no
cost, and rewound exactly: a full cache to any position, a sliding one as far back as it still has the window before
that position. A rewind beyond is refused, never approximated.

Shapes: B sequences, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import mlx.core as mx

from . import kernels
from .buffers import STEP, Buffers
from .config import FULL, ModelConfig
from .errors import RequestError
from .kernels import GROUP, Codes

GROWTH = 8
"""Full layers' buffers grow by one part in so many: a larger number wastes less, and copies each token more often."""

SLACK = 64
"""Tokens that a sliding cache can always be rewound by."""


class _Cache(Buffers):
    """What caches of all kinds do."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D) keys and values; return all that the new tokens may look at."""
        raise NotImplementedError

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """Append keys and values (B, K, T, D), and attend with queries (B, H, T, D): see `kernels.attend`."""
        return Segments([self], [keys.shape[2]]).attend(queries, keys, values, **how)

    def attend_by_parts(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """The same in two operations, where no kernel does both at once."""
        return kernels.attend(queries, *self.update_and_fetch(keys, values), **how)


class FullCache(_Cache):
    """Keys and values of every token, in buffers that grow by an eighth of themselves, see `GROWTH`.

    Growing geometrically copies each token a bounded number of times, however long the context becomes.

    Args:
        dtype: that numbers are kept in; None: that of the first ones.
        heads: K, which restored planes must have; None: any.
        width: D, as `heads`.
        context: tokens that may come in all, so that no room is made for more; None: nobody knows.
    """

    def __init__(
        self,
        dtype: mx.Dtype | None = None,
        *,
        heads: int | None = None,
        width: int | None = None,
        context: int | None = None,
    ) -> None:
        super().__init__(dtype, heads=heads, width=width)
        self.context = context

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D) keys and values; return all of them (B, K, offset, D)."""
        self._add(keys, values)
        all_keys, all_values = self._between(0, self.offset)
        return all_keys, all_values

    def _plan(self, count: int) -> tuple[int, int]:
        return 0, grown(self.offset, count, self.context)

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
        return self._between(0, self.offset)


class QuantizedCache(FullCache):
    """The same as codes of 8 or 4 bits, with a scale and a bias in float16 for every 32 of them.

    Planes are codes, scales and biases of the keys, then of the values: what mx.quantize gives for numbers in float16.
    8 bits take 9/32 of float32's memory, 4 bits 5/32. Fresh tokens, too, attend to codes only, so that results do not
    depend on how a sequence is cut into chunks.

    Args:
        bits: 8 or 4.
        width: D.
        heads: as in `FullCache`.
        context: as in `FullCache`.

    Raises:
        RequestError: there are no such codes, or no whole groups of them.
    """

    def __init__(self, bits: int, width: int, *, heads: int | None = None, context: int | None = None) -> None:
        super().__init__(heads=heads, width=width, context=context)
        if bits not in kernels.CACHE_BITS.values():
            raise RequestError(f"quantized cache: 8 or 4 bits expected, {bits} found")
        if width % GROUP:
            raise RequestError(
                f"quantized cache: heads of a multiple of {GROUP} numbers expected, {width} found; "
                "a float16 cache takes any"
            )
        self.bits = bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D) keys and values; return what stands for all of them (B, K, offset, D)."""
        self._add(keys, values)
        all_keys, all_values = _pair(self._between(0, self.offset))
        return kernels.dequantize(all_keys, keys.dtype), kernels.dequantize(all_values, values.dtype)

    def attend_by_parts(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """As `FullCache.attend_by_parts`."""
        self._add(keys, values)
        return kernels.attend_codes(queries, *_pair(self._between(0, self.offset)), **how)

    def _layout(self, dtype: mx.Dtype, width: int) -> list[tuple[mx.Dtype, int]]:
        return [(mx.uint32, width * self.bits // 32), (mx.float16, width // GROUP), (mx.float16, width // GROUP)] * 2

    def _written(self, planes: list[mx.array], fresh: Sequence[mx.array], start: int) -> list[mx.array]:
        pairs = zip(_pair(planes), fresh, strict=True)
        return [plane for packed, new in pairs for plane in kernels.append_codes(packed, new, start)]


def _pair(planes: Sequence[mx.array]) -> tuple[Codes, Codes]:
    """Keys and values of the six planes."""
    return Codes(*planes[:3]), Codes(*planes[3:])


class SlidingCache(_Cache):
    """The last `window - 1` tokens: with the current one, all that a sliding layer may look at.

    Keys stay in the order of their positions, so a chunk of any length attends to exactly what it would have
    seen in one pass. The buffers hold some older tokens as well, so that few updates need to move anything, and so
    that a rewind by up to `SLACK` tokens finds the window that it needs.

    Args:
        window: tokens that a token may look at, itself included.
        dtype: as in `FullCache`.
        heads: as in `FullCache`.
        width: as in `FullCache`.
    """

    def __init__(
        self, window: int, dtype: mx.Dtype | None = None, *, heads: int | None = None, width: int | None = None
    ) -> None:
        super().__init__(dtype, heads=heads, width=width)
        self.window = window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, T, D); return the kept tokens and the new ones (B, K, kept + T, D)."""
        start = self.offset - self.kept
        self._add(keys, values)
        seen_keys, seen_values = self._between(start, self.offset)
        return seen_keys, seen_values

    def _plan(self, count: int) -> tuple[int, int]:
        keep_from = self._needed(max(0, self.offset - SLACK))
        return keep_from, self.offset - keep_from + count + STEP - 1

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
        return self._between(self.offset - self.kept, self.offset)

    def at(self, offset: int) -> SlidingCache:
        """A copy that stands at an earlier position (see `can_rewind`), with buffers of its own."""
        if not self.can_rewind(offset):
            raise ValueError(f"at: no exact state of position {offset} in a cache of {self.offset} tokens")
        return self._snapshot(offset)


class Segments:
    """Several sequences side by side in one row of tokens: a layer's caches, and how many tokens each takes.

    Everything in a layer but attention treats tokens one by one, so sequences of any length share a pass.
    """

    def __init__(self, caches: Sequence[_Cache], lengths: Sequence[int]) -> None:
        self.caches = tuple(caches)
        self.lengths = tuple(lengths)

    def positions(self, length: int) -> list[tuple[int, int]]:
        """Runs (first position, tokens), one per sequence."""
        return [(cache.offset, count) for cache, count in zip(self.caches, self.lengths, strict=True)]

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, *, training: bool = False, **how: Any
    ) -> mx.array:
        """As `FullCache.attend`, each sequence for itself; T is the sum of the lengths, and B is 1 if they are several.

        A copy may stand beside what it was copied from: the first goes on in the buffers that they share.
        """
        if kernels.appends(queries, training=training):
            return self._attend_at_once(queries, keys, values, **how)
        cuts = list(accumulate(self.lengths))[:-1]
        parts = zip(*(mx.split(array, cuts, axis=2) for array in (queries, keys, values)), strict=True)
        pairs = zip(self.caches, parts, strict=True)
        mixed = [cache.attend_by_parts(*own, training=training, **how) for cache, own in pairs]
        return mx.concatenate(mixed, axis=1) if len(mixed) > 1 else mixed[0]

    def _attend_at_once(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        places = [cache.reserve(keys, count) for cache, count in zip(self.caches, self.lengths, strict=True)]
        mixed, written = kernels.append_and_attend(
            queries,
            keys,
            values,
            [storage.planes for storage, _ in places],
            counts=self.lengths,
            starts=[start for _, start in places],
            firsts=[cache.base for cache in self.caches],
            **how,
        )
        for (storage, _), planes in zip(places, written, strict=True):
            storage.planes = planes
        return mixed


Cache = FullCache | SlidingCache


def grown(offset: int, count: int, context: int | None) -> int:
    """Tokens that a full layer's buffers are made for when `count` come at `offset` and there is no room for them."""
    least, wanted = offset + count, offset + count + offset // GROWTH
    return wanted if context is None else max(least, min(wanted, context))


def make_caches(config: ModelConfig, kind: str | None) -> list[Cache]:
    """An empty cache for each layer of a model.

    Args:
        config: the model's.
        kind: what to keep; see `kernels.cache_kind`.

    Raises:
        RequestError: the model's heads have no codes.
    """
    dtype = kernels.CACHE_DTYPES.get(kind or "")
    bits = kernels.CACHE_BITS.get(kind or "")
    heads, width, context = config.num_key_value_heads, config.head_dim, config.max_position_embeddings

    def cache(layer: str) -> Cache:
        if layer != FULL:
            return SlidingCache(config.sliding_window, dtype, heads=heads, width=width)
        if bits:
            return QuantizedCache(bits, width, heads=heads, context=context)
        return FullCache(dtype, heads=heads, width=width, context=context)

    return [cache(layer) for layer in config.layer_types]
