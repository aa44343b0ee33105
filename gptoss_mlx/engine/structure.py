"""What a turn must look like: the channels and calls that are allowed, and the grammars of their texts.

A `Constraint` follows one sequence from where the prompt ends, behind `<|start|>assistant`, and says before each
token which ones may come. A grammar holds only inside the body that it is meant for: the answer's, in the channel
`final`, or the arguments of a call. The model chooses its channels, and thinks, as it likes:

- A header is one of those that the rules allow, spelled as the model was trained to, with the recipient before or
  behind the channel. Nothing but the headers decides what may be called, and whether there may be an answer.
- Thoughts, and a preamble where calls are allowed, are any text, closed by `<|end|>`; then `<|start|>assistant` and
  another header follow.
- An answer is closed by `<|return|>` and a call by `<|call|>`, both only where the text is complete. Then the turn is
  over.

All other control tokens are out of reach, because a text with one could be read as the beginning of a message that
nothing constrains. So a turn that ends by itself is always as the rules say.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tokenizer import Tokenizer

from .grammar import Grammar, Matcher, Vocabulary
from .masks import Mask, is_allowed

_RECIPIENT = re.compile(r"[\w.:/\-]+")
_NOBODY = ("all", "assistant")
_SPECIAL = re.compile(r"(<\|\w+\|>)")
_JSON_TYPES = ("", " <|constrain|>json", "<|constrain|>json", " json")
_ANY_TYPES = (*_JSON_TYPES, " <|constrain|>code", " code")
_CALL_CHANNELS = ("commentary", "analysis")


@dataclass(frozen=True)
class Rules:
    """What a turn may contain. By default: thoughts and an answer, no calls.

    Raises:
        RequestError: a call is demanded and none is allowed, or a recipient's name cannot stand in a header.
    """

    answer: Grammar | None = None
    """What the answer must be; None: any text."""
    calls: Mapping[str, Grammar | None] = field(default_factory=dict, hash=False)
    """The recipients that may be called (`functions.tide_at`, `python`), and what their arguments must be."""
    must_call: bool = False
    """Whether the turn must end in a call instead of an answer."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "calls", MappingProxyType(dict(self.calls)))
        if self.must_call and not self.calls:
            raise RequestError("must_call: at least one recipient expected in calls, none found")
        for name in self.calls:
            if not _RECIPIENT.fullmatch(name) or name in _NOBODY:
                raise RequestError(f"calls: a recipient such as functions.tide_at expected, {name!r} found")


class _State(ABC):
    """Where a sequence stands."""

    @abstractmethod
    def mask(self) -> Mask:
        """What may come next."""

    @abstractmethod
    def accept(self, token: int) -> _State:
        """Where an allowed token leads, possibly to this very state."""

    def begin(self) -> _State:
        """The state to be in for who arrives here."""
        return self

    def undo(self) -> None:
        """Take back the last token that led from this state to itself."""
        return

    def forced(self) -> list[int]:
        """Tokens that are certain to come next."""
        return []

    def copy(self) -> _State:
        """A state that does not change when this one does."""
        return self


class _Header(_State):
    """A place in a header: a node of the tree of all allowed ones."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.next: dict[int, _State] = {}
        self._vocabulary = vocabulary
        self._mask: Mask | None = None

    def mask(self) -> Mask:
        if self._mask is None:
            self._mask = self._vocabulary.mask_of(self.next)
        return self._mask

    def accept(self, token: int) -> _State:
        return self.next[token].begin()

    def forced(self) -> list[int]:
        tokens: list[int] = []
        state: _State = self
        while isinstance(state, _Header) and len(state.next) == 1:
            ((token, state),) = state.next.items()
            tokens.append(token)
        return tokens

    def add(self, tokens: Iterable[int], last: int, body: _State) -> None:
        """Allow `tokens` from here, and `body` after them and `last`."""
        node = self
        for token in tokens:
            child = node.next.setdefault(token, _Header(self._vocabulary))
            assert isinstance(child, _Header)
            node = child
        node.next[last] = body


class _Free(_State):
    """Any text, closed by one token."""

    def __init__(self, vocabulary: Vocabulary, end: int, after: _State) -> None:
        self._end, self._after = end, after
        mask = vocabulary.text | vocabulary.mask_of([end])
        mask.flags.writeable = False
        self._mask = mask

    def mask(self) -> Mask:
        return self._mask

    def accept(self, token: int) -> _State:
        return self._after.begin() if token == self._end else self


class _Held(_State):
    """A text that follows a grammar, closed by one token. Each text needs a state of its own: see `begin`."""

    def __init__(self, matcher: Matcher, end: int, after: _State) -> None:
        self._matcher, self._end, self._after = matcher, end, after

    def mask(self) -> Mask:
        return self._matcher.mask(self._end)

    def accept(self, token: int) -> _State:
        if token == self._end:
            return self._after.begin()
        self._matcher.accept(token)
        return self

    def begin(self) -> _State:
        return self.copy()

    def undo(self) -> None:
        self._matcher.undo()

    def forced(self) -> list[int]:
        return self._matcher.forced(self._end)

    def copy(self) -> _State:
        return _Held(self._matcher.copy(), self._end, self._after)


class _Over(_State):
    """After the token that ends the turn."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._mask = vocabulary.mask_of(())

    def mask(self) -> Mask:
        return self._mask

    def accept(self, token: int) -> _State:
        return self


class Constraint:
    """Holds one sequence to rules, from behind `<|start|>assistant` to the token that ends the turn.

    Args:
        vocabulary: of the model's tokenizer.
        rules: what the turn may contain.

    Raises:
        RequestError: a grammar exceeds llguidance's limits.
    """

    def __init__(self, vocabulary: Vocabulary, rules: Rules) -> None:
        self._state: _State = _headers(vocabulary, rules)
        self._before: list[_State] = []
        self._mask: Mask | None = None

    @property
    def finished(self) -> bool:
        """Whether the turn is over: nothing more may come."""
        return isinstance(self._state, _Over)

    def mask(self) -> Mask:
        """What may come next, one bit per token id; empty only when the turn is over. Do not write to it.

        Raises:
            RequestError: following the grammar takes more work than llguidance's limits allow.
        """
        if self._mask is None:
            self._mask = self._state.mask()
        return self._mask

    def accept(self, token: int) -> None:
        """Go on by one token.

        Raises:
            RequestError: the token is not allowed; the constraint stays as it was.
        """
        if not is_allowed(self.mask(), token):
            raise RequestError(f"token {token} is not among those that the constraint allows here")
        after = self._state.accept(token)
        self._before.append(self._state)
        self._state, self._mask = after, None

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens, across messages as well.

        Raises:
            RequestError: fewer have been accepted.
        """
        if not 0 <= count <= len(self._before):
            raise RequestError(f"rollback: 0 to {len(self._before)} tokens expected, {count} found")
        for _ in range(count):
            before = self._before.pop()
            if before is self._state:
                before.undo()
            self._state, self._mask = before, None

    def validate(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, may follow; the constraint stays where it is.

        Raises:
            RequestError: see `mask`.
        """
        count = 0
        try:
            while count < len(tokens) and is_allowed(self.mask(), tokens[count]):
                self.accept(tokens[count])
                count += 1
        finally:
            self.rollback(count)
        return count

    def forced(self) -> list[int]:
        """Tokens that are certain to come next, each the only one allowed in its place; often none."""
        return self._state.forced()

    def idle(self) -> int:
        """How many tokens may come before it has a say: none, as it always has."""
        return 0

    def copy(self) -> Constraint:
        """Another one at the same place, which can be rolled back as far."""
        other = Constraint.__new__(Constraint)
        copied = cache(lambda state: state.copy())  # a state that stands in several places stays one
        other._before = [copied(state) for state in self._before]
        other._state, other._mask = copied(self._state), self._mask
        return other


def _headers(vocabulary: Vocabulary, rules: Rules) -> _Header:
    """The tree of the headers that `rules` allow, with the texts behind them."""
    tokenizer, encode = vocabulary.tokenizer, _encoder(vocabulary.tokenizer)
    root, again, over = _Header(vocabulary), _Header(vocabulary), _Over(vocabulary)
    again.add((tokenizer.start, *encode("assistant")[:-1]), encode("assistant")[-1], root)
    aside = _Free(vocabulary, tokenizer.end, again)

    def body(grammar: Grammar | None, end: int) -> _State:
        return _Free(vocabulary, end, over) if grammar is None else _Held(vocabulary.matcher(grammar), end, over)

    root.add(encode("<|channel|>analysis"), tokenizer.message, aside)
    if rules.calls:
        root.add(encode("<|channel|>commentary"), tokenizer.message, aside)
    if not rules.must_call:
        answer = body(rules.answer, tokenizer.return_)
        marked = rules.answer is not None and rules.answer.is_json
        for kind in _JSON_TYPES[:2] if marked else ("",):
            root.add(encode(f"<|channel|>final{kind}"), tokenizer.message, answer)
    for recipient, grammar in rules.calls.items():
        arguments = body(grammar, tokenizer.call)
        for header in _call_headers(recipient, grammar):
            root.add(encode(header), tokenizer.message, arguments)
    return root


def _call_headers(recipient: str, grammar: Grammar | None) -> Iterator[str]:
    """The headers of a call, in both orders of recipient and channel."""
    kinds = _JSON_TYPES if grammar is not None and grammar.is_json else _ANY_TYPES
    for channel in _CALL_CHANNELS:
        for kind in kinds:
            yield f" to={recipient}<|channel|>{channel}{kind}"
            yield f"<|channel|>{channel} to={recipient}{kind}"


def _encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Encodes a header in which control tokens stand by their spelling."""

    @cache
    def piece(text: str) -> list[int]:
        return [tokenizer.special[text]] if _SPECIAL.fullmatch(text) else tokenizer.encode(text)

    return lambda header: [token for text in _SPECIAL.split(header) for token in piece(text)]
