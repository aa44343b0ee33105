"""Key/value caches: full layers keep every token, sliding layers only what a later token can still see.

Full layers may keep codes of 8 or 4 bits instead of numbers; sliding layers are too small to gain by that.

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

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import mlx.core as mx

from . import kernels
from .config import FULL, ModelConfig
from .errors import MemoryLimitError, RequestError
from .kernels import GROUP, Codes

STEP = 256
"""Tokens by which buffers are rounded up."""

GROWTH = 8
"""Full layers' buffers grow by one part in so many: a larger number wastes less, and copies each token more often."""

SLACK = 64
"""Tokens that a sliding cache can always be rewound by."""

LARGE = 1 << 22
"""Bytes of a plane from which on freed ones are given back to the system."""

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
        self._storage: _Storage | None = None

    def _append(self, fresh: Sequence[mx.array], keep_from: int, room: int) -> None:
        """Append arrays (B, K, T, D). Where that cannot be done in place, move to buffers for `room` tokens.

        Of the old tokens those from position `keep_from` on move along.
        """
        count, used = fresh[0].shape[2], self.offset - self.base
        storage = self._storage
        if storage is None and used:
            raise MemoryLimitError(f"cache: its {used} tokens were lost when memory ran out; begin anew")
        if storage is None or storage.filled != used or used + count > storage.room:
            del storage  # so that it goes while its planes move
            keep_from = max(keep_from, self.base)  # after a rewind or in a snapshot there may be no more than is needed
            storage = self._moved(fresh[0], keep_from, rounded(room))
            if storage.planes[0].nbytes >= LARGE:
                _give_back()
            self._storage, self.base = storage, keep_from
            used = self.offset - self.base
        storage.planes = self._written(storage.planes, fresh, used)
        storage.filled = used + count
        self.offset += count

    def _moved(self, like: mx.array, first: int, room: int) -> _Storage:
        """Buffers for `room` tokens like (B, K, T, D), with the old ones from position `first` on.

        Plane by plane, the old ones being let go of on the way: over all layers, one plane is there twice at a time.
        """
        old, planes = self._between(first, self.offset), []
        self._storage = None
        while old:
            kept = old.pop(0)
            plane = mx.zeros((*kept.shape[:2], room, kept.shape[3]), kept.dtype)
            plane[:, :, : kept.shape[2]] = kept
            mx.eval(plane)
            planes.append(plane)
        if not planes:
            layout = self._layout(like.dtype, like.shape[3])
            planes = [mx.zeros((*like.shape[:2], room, width), dtype) for dtype, width in layout]
        return _Storage(planes)

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
        self._storage = _Storage(list(planes))
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


class FullCache(_Buffers):
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

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """Append keys and values (B, K, T, D), and attend with queries (B, H, T, D): see `kernels.attend`."""
        return kernels.attend(queries, *self.update_and_fetch(keys, values), **how)

    def _add(self, keys: mx.array, values: mx.array) -> None:
        self._append((keys, values), keep_from=0, room=grown(self.offset, keys.shape[2], self.context))

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

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """As `FullCache.attend`."""
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


class SlidingCache(_Buffers):
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

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """As `FullCache.attend`; native kernels are shown where the keys stand."""
        start = self._needed(self.offset) if kernels.native() else self.offset - self.kept
        self._add(keys, values)
        first = start if kernels.native() else 0
        return kernels.attend(queries, *self._between(start, self.offset), first=first, **how)

    def _add(self, keys: mx.array, values: mx.array) -> None:
        keep_from = self._needed(max(0, self.offset - SLACK))
        self._append((keys, values), keep_from, room=self.offset - keep_from + keys.shape[2] + STEP - 1)

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

    def __init__(self, caches: Sequence[FullCache | SlidingCache], lengths: Sequence[int]) -> None:
        self.caches = tuple(caches)
        self.lengths = tuple(lengths)
        self._cuts = list(accumulate(self.lengths))[:-1]

    def positions(self, length: int) -> list[tuple[int, int]]:
        """Runs (first position, tokens), one per sequence."""
        return [(cache.offset, count) for cache, count in zip(self.caches, self.lengths, strict=True)]

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
        """As `FullCache.attend`, each sequence for itself; B is 1 and T the sum of the lengths."""
        parts = zip(*(mx.split(array, self._cuts, axis=2) for array in (queries, keys, values)), strict=True)
        mixed = [cache.attend(*own, **how) for cache, own in zip(self.caches, parts, strict=True)]
        return mx.concatenate(mixed, axis=1) if len(mixed) > 1 else mixed[0]


Cache = FullCache | SlidingCache


def _give_back() -> None:
    """Let the C library return freed memory: glibc keeps blocks of up to 32 MiB, too small for the next to fit in."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def rounded(tokens: int) -> int:
    """The room of buffers that are to take some tokens."""
    return (tokens + STEP - 1) // STEP * STEP


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
