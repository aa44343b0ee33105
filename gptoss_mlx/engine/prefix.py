"""What an engine remembers of earlier prompts, so that a prompt that begins like one of them need not run again.

A state is a list of caches, one per layer, that stand at the end of some tokens. States live in a radix tree over
tokens. A sliding layer cannot be rewound further than its window reaches, so only the positions where somebody asked
to remember a state can be gone back to: ends of messages, where conversations part ways. Full layers keep every token:
all states along a path use the buffers of its deepest one, each up to its own position.

States of the same tokens are taken to be interchangeable: whoever adds them computes them in one way.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.buffers import Storage
from gptoss_mlx.cache import Cache

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PrefixStats:
    """Figures of a store: bytes and states held, searches that found one or none, tokens that need not run again."""

    bytes: int
    states: int
    hits: int
    misses: int
    reused_tokens: int


@dataclass(frozen=True)
class Branch:
    """The tokens from the beginning to a leaf, and the states along them by position, ascending."""

    tokens: Tokens
    states: dict[int, list[Cache]]


class PrefixStore:
    """States of earlier prompts within a budget of memory; the least recently used make room.

    One engine uses it from one thread at a time; it has no lock of its own.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._root = _Node(_tokens(()), None)
        self._recent: OrderedDict[_Node, None] = OrderedDict()  # those that hold a state, least recently used first
        self._ledger = _Ledger()
        self._hits = self._misses = self._reused = 0

    def add(self, tokens: Sequence[int], caches: Sequence[Cache]) -> None:
        """Remember the state after these tokens. One that is known becomes the most recently used.

        Args:
            tokens: at least one.
            caches: of each layer, standing at the end of the tokens. They may go on; the state does not change.

        Raises:
            ValueError: a cache stands elsewhere.
        """
        if not len(tokens) or any(cache.offset != len(tokens) for cache in caches):
            found = sorted({cache.offset for cache in caches})
            raise ValueError(f"add: caches at the end of one token or more expected, {len(tokens)} and {found} found")
        if sum(map(_needed_bytes, caches)) > self.budget:
            return
        node = self._root.place(_tokens(tokens))
        if node.caches is None:
            own: list[Cache] = [cache.at(cache.offset) for cache in caches]
            mx.eval([cache.state for cache in own])  # a copy that waits keeps what it is taken from
            self._put(node, own)
            below = node.below()
            if below is not None:
                self._lend(below, node)
            self._lend_upwards(node)
        self._recent[node] = None
        self._recent.move_to_end(node)
        self._make_room(node)

    def find(self, tokens: Sequence[int], limit: int) -> tuple[int, list[Cache]] | None:
        """The longest beginning of some tokens, `limit` of them at most, whose state is known.

        Returns:
            Its length, and caches that stand at its end and may go on. None where nothing is known.
        """
        node = self._root.deepest(_tokens(tokens[: max(0, limit)]))
        if node is None or node.caches is None:
            self._misses += 1
            return None
        self._recent.move_to_end(node)
        self._hits += 1
        self._reused += node.end
        return node.end, [copy.copy(cache) for cache in node.caches]

    def reach(self, tokens: Sequence[int], limit: int) -> int:
        """How many tokens `find` would find, without a search in the figures."""
        node = self._root.deepest(_tokens(tokens[: max(0, limit)]))
        return node.end if node is not None else 0

    def clear(self) -> None:
        """Forget all states. The figures of searches stay."""
        for node in self._recent:  # nodes know each other, so Python lets them go only when it looks for such circles
            node.caches = None
        self._root = _Node(_tokens(()), None)
        self._recent.clear()
        self._ledger = _Ledger()

    @property
    def stats(self) -> PrefixStats:
        """The figures now. Buffers count in full, once, whoever else uses them."""
        return PrefixStats(self._ledger.bytes, len(self._recent), self._hits, self._misses, self._reused)

    def branches(self) -> Iterator[Branch]:
        """Every path to a leaf, least recently used first. Its caches are the store's own: copy them to go on."""
        for leaf in self._recent:
            if not leaf.children:
                path = [leaf, *leaf.above()]
                states = {node.end: node.caches for node in reversed(path) if node.caches is not None}
                yield Branch(leaf.path(), states)

    def _put(self, node: _Node, caches: list[Cache] | None) -> None:
        self._ledger.hold(caches or ())
        self._ledger.release(node.caches or ())
        node.caches = caches

    def _lend(self, lower: _Node, upper: _Node) -> None:
        """Let a state use the buffers of one further down, wherever these hold its tokens."""
        pairs = zip(lower.caches or (), upper.caches or (), strict=True)
        self._put(upper, [_shared(deep, upper.end, own) for deep, own in pairs])

    def _lend_upwards(self, node: _Node) -> None:
        for upper in node.above():
            self._lend(node, upper)

    def _make_room(self, newest: _Node) -> None:
        while self._ledger.bytes > self.budget:
            oldest = next(iter(self._recent))
            if oldest is newest:  # alone, and without unused room it fits
                self._slim(newest)
                return
            left = self._drop(oldest)
            if left is not None and self._ledger.bytes > self.budget:
                self._slim(left)

    def _drop(self, node: _Node) -> _Node | None:
        """Forget a state. Returns the one above it if that is now the deepest, in buffers made for more."""
        nearest = next(node.above(), None)
        leaf = not node.children
        self._put(node, None)
        del self._recent[node]
        node.prune()
        if nearest is None or not leaf:
            return None
        below = nearest.below()
        if below is not None:
            self._lend(below, nearest)
        self._lend_upwards(nearest)
        return nearest if below is None else None

    def _slim(self, node: _Node) -> None:
        """Move a state without any below it to buffers that hold no more than it needs."""
        self._put(node, [_slimmed(cache) for cache in node.caches or ()])
        self._lend_upwards(node)


class _Node:
    """A position in the tree: the tokens that lead to it from its parent, and the state there if one is known."""

    def __init__(self, tokens: Tokens, parent: _Node | None) -> None:
        self.tokens = tokens
        self.parent = parent
        self.children: dict[int, _Node] = {}  # by first token
        self.caches: list[Cache] | None = None
        self.end: int = len(tokens) + (parent.end if parent is not None else 0)
        if parent is not None:
            parent.children[int(tokens[0])] = self

    def walk(self, tokens: Tokens) -> Iterator[_Node]:
        """The nodes below the root (this) that some tokens pass through, downwards."""
        node = self
        while node.end < len(tokens):
            child = node.children.get(int(tokens[node.end]))
            if child is None or not np.array_equal(child.tokens, tokens[node.end : child.end]):
                return
            yield child
            node = child

    def deepest(self, tokens: Tokens) -> _Node | None:
        """The last of them that has a state."""
        return max((node for node in self.walk(tokens) if node.caches is not None), key=lambda n: n.end, default=None)

    def place(self, tokens: Tokens) -> _Node:
        """The node at the end of some tokens, made where there is none; to be called on the root."""
        *_, node = self, *self.walk(tokens)
        if node.end == len(tokens):
            return node
        child = node.children.get(int(tokens[node.end]))
        if child is not None:
            node = child.split(common(child.tokens, tokens[node.end :]))
        return node if node.end == len(tokens) else _Node(tokens[node.end :], node)

    def split(self, count: int) -> _Node:
        """A new node after the first `count` of this one's tokens, between it and its parent."""
        upper = _Node(self.tokens[:count], self.parent)
        self.tokens, self.parent = self.tokens[count:], upper
        upper.children[int(self.tokens[0])] = self
        return upper

    def prune(self) -> None:
        """Take out this node and those above it as far as they hold no state and lead to less than two others."""
        node = self
        while (parent := node.parent) is not None and node.caches is None and len(node.children) < 2:
            del parent.children[int(node.tokens[0])]
            for child in node.children.values():
                child.tokens, child.parent = np.concatenate([node.tokens, child.tokens]), parent
                parent.children[int(child.tokens[0])] = child
            node = parent

    def above(self) -> Iterator[_Node]:
        """The nodes on the way to the root that have a state, upwards."""
        node = self.parent
        while node is not None:
            if node.caches is not None:
                yield node
            node = node.parent

    def below(self) -> _Node | None:
        """A node further down that has a state; every leaf has one."""
        node = self
        while node.children:
            node = next(iter(node.children.values()))
            if node.caches is not None:
                return node
        return None

    def path(self) -> Tokens:
        """All tokens from the beginning to here."""
        node, parts = self, [self.tokens]
        while node.parent is not None:
            node = node.parent
            parts.append(node.tokens)
        return np.concatenate(parts[::-1])


class _Ledger:
    """Counts the bytes of buffers that are held, each once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._holders: Counter[Storage] = Counter()

    def hold(self, caches: Iterable[Cache]) -> None:
        for cache in caches:
            if cache._storage is not None:
                self.bytes += 0 if cache._storage in self._holders else cache.nbytes
                self._holders[cache._storage] += 1

    def release(self, caches: Iterable[Cache]) -> None:
        for cache in caches:
            if cache._storage is not None:
                self._holders[cache._storage] -= 1
                if not self._holders[cache._storage]:
                    del self._holders[cache._storage]
                    self.bytes -= cache.nbytes


def _needed_bytes(cache: Cache) -> int:
    return sum(plane.nbytes for plane in cache.planes())


def _slimmed(cache: Cache) -> Cache:
    if _needed_bytes(cache) == cache.nbytes:
        return cache
    own: Cache = cache.snapshot()
    mx.eval(own.state)  # a copy that waits keeps what it is taken from
    return own


def _shared(deep: Cache, offset: int, own: Cache) -> Cache:
    """A cache at `offset` in the buffers of a deeper one where that is exact, else `own`, which stands there."""
    if own._storage is deep._storage or not deep.can_rewind(offset):
        return own
    twin = copy.copy(deep)
    twin.rewind(offset)
    return twin


def _tokens(tokens: Sequence[int] | Tokens) -> Tokens:
    return np.array(tokens, np.int32)


def common(one: Tokens, other: Tokens) -> int:
    """Length of the common beginning of two runs of tokens."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
