"""Grammars for what the model writes, and the tokens that they allow next.

A `Grammar` describes a text: JSON of a schema, a regular expression, or a grammar in Lark's notation. It is checked
when it is made, so that a request which cannot be served fails before anything is generated. A `Vocabulary` makes
a tokenizer known to llguidance, which follows a grammar through a text token by token. What is allowed next comes
as a mask (module `masks`).

The promise is strict: a text that the grammar has let end is valid. Parts of JSON Schema that llguidance cannot
hold to are therefore refused by name, and so are the few that it would hold to only loosely.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tokenizer import Tokenizer

from .masks import Mask, is_allowed
from .schema_parts import loose_parts, parts, refusal

if TYPE_CHECKING:  # at run time it is imported where it is needed
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

JSON_OPTIONS = {
    "whitespace_pattern": r"[ \t\n\r]{1,40}",  # bounded: a model may fall into endless blanks
    "json_allowed_escapes": '"\\bfnrt',  # one spelling per string: "\u0061" would pass as another key than "a"
    "lenient": False,
}
CACHED_GRAMMARS = 64
"""Compiled grammars that a vocabulary keeps."""

# Runs of tokens that a JSON string holds, so that they are allowed at once instead of one by one.
_SLICES = [r'[^"\\\x00-\x1F\x7F]{1,10}', r'[^"\\\x00-\x1F\x7F]+']
_UNSUPPORTED = re.compile(r"Unimplemented keys: \[(.*)\]")
_PREAMBLE = re.compile(r'^at \d+\(\d+\): invalid regex ".*" \(in regex\): ')
_MESSAGE_LENGTH = 200


@dataclass(frozen=True)
class Grammar:
    """What a text must be. Make it by one of the class methods.

    Raises:
        RequestError: no text can be held to it; the message names the part.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    """The schema as JSON, the pattern, or the grammar."""

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool) -> Grammar:
        """JSON that is valid under a JSON Schema. Properties come in the order in which the schema declares them."""
        try:
            return cls("json_schema", _json_text(schema))
        except RecursionError as error:
            raise RequestError("json_schema: it is nested too deeply") from error

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """A text that a regular expression (in the syntax of Rust's regex package) matches as a whole."""
        return cls("regex", _text("regex", pattern))

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """A text of a context-free grammar in Lark's notation, as llguidance reads it; its rule `start` is the text."""
        return cls("lark", _text("lark", text))

    def __post_init__(self) -> None:
        problem = _schema_problem(json.loads(self.text)) if self.is_json else _problem(self.compiled())
        if problem:
            raise RequestError(f"{self.kind}: {problem}")

    @property
    def is_json(self) -> bool:
        """Whether the text is JSON."""
        return self.kind == "json_schema"

    def compiled(self) -> str:
        """The grammar in llguidance's own form."""
        from llguidance import LLMatcher

        if self.kind == "regex":
            return LLMatcher.grammar_from_regex(self.text)
        if self.kind == "lark":
            return json.dumps({"grammars": [{"lark_grammar": self.text}]})
        return _json(json.loads(self.text))


def _json(schema: dict[str, Any] | bool) -> str:
    """A schema in llguidance's form; our options take the place of any that the schema brings."""
    root = {} if schema is True else schema
    if isinstance(root, dict):
        root = {**root, "x-guidance": JSON_OPTIONS}
    return json.dumps({"grammars": [{"json_schema": root}]})


def _json_text(schema: object) -> str:
    if not isinstance(schema, (Mapping, bool)):
        raise RequestError(f"json_schema: an object or a boolean expected, {schema!r} found")
    try:
        return json.dumps(schema if isinstance(schema, bool) else dict(schema), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"json_schema: a JSON value expected: {error}") from error


def _text(kind: str, text: object) -> str:
    """`text`, if it is one that tokens can spell."""
    if not isinstance(text, str):
        raise RequestError(f"{kind}: a text expected, {text!r} found")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{kind}: a text expected, half a surrogate pair found at {error.start}") from error
    return text


# Checks before anything is generated


@cache
def _bytes_tokenizer() -> LLTokenizer:
    """A vocabulary of the 256 bytes: grammars are checked with it, before a model's vocabulary is at hand."""
    return _ll_tokenizer([*(bytes((byte,)) for byte in range(256)), b"< >"], [256], 256, list)


def _problem(compiled: str) -> str:
    """What is wrong with a grammar in llguidance's form, in one line; nothing if it allows some text."""
    from llguidance import LLMatcher

    matcher = LLMatcher(_bytes_tokenizer(), compiled, log_level=0, limits=_limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    return _one_line(matcher.get_error()) if matcher.is_error() else ""


def _one_line(message: str) -> str:
    """The reason in a message of llguidance, which may quote the grammar over many lines."""
    lines = message.splitlines() or ["unknown reason"]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    if reason.startswith("NoExtension"):
        return "it allows no text at all"
    return _PREAMBLE.sub("", reason)[:_MESSAGE_LENGTH]


def _schema_problem(schema: Any) -> str:
    """What of a schema cannot be held to, with its place; nothing if all can."""
    problem = _problem(_json(schema))
    if not problem:
        return next((refusal(*loose) for loose in loose_parts(schema)), "")
    place = _place(schema, problem)
    keys = _UNSUPPORTED.search(problem)
    if keys is not None:
        return refusal(" and ".join(json.loads(f"[{keys.group(1)}]")), place)
    if problem.startswith("oneOf"):
        return refusal("oneOf", place, " where a value may fit two of its variants")
    return f"{problem} (at {place})"


def _place(schema: Any, problem: str) -> str:
    """JSON pointer to the innermost part of `schema` that has `problem` all by itself."""
    shared = {key: schema[key] for key in ("$defs", "definitions", "$schema") if key in schema} if schema else {}
    place, part = "#", schema
    while True:
        for inner_place, inner in parts(place, part):
            if _problem(_json({**shared, **inner})) == problem:
                place, part = inner_place, inner
                break
        else:
            return place


# Following a grammar


class Matcher:
    """A place in a text that follows a grammar. From `Vocabulary.matcher`."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher

    def mask(self, end: int) -> Mask:
        """What may come next; `end` is the token that ends the text, allowed where it is complete.

        Raises:
            RequestError: nothing may come, or the grammar asks for more work than llguidance's limits allow.
        """
        found = self._vocabulary.empty_mask()
        self._matcher.unsafe_compute_mask_ptr(found.ctypes.data, found.nbytes)
        self._check()
        complete = is_allowed(found, self._vocabulary.tokenizer.return_)  # llguidance's end of every text
        found &= self._vocabulary.text
        if complete:
            found[end >> 5] |= np.uint32(1 << (end & 31))
        elif not found.any():
            raise RequestError("grammar: no token can continue the text")
        return found

    def accept(self, token: int) -> None:
        """Go on by a token of the text.

        Raises:
            RequestError: see `mask`.
        """
        if self._matcher.try_consume_tokens([token]) != 1:
            self._check()
            raise RequestError(f"grammar: token {token} cannot continue the text")

    def undo(self) -> None:
        """Go back by one token."""
        if not self._matcher.rollback(1):
            self._check()

    def forced(self, end: int) -> list[int]:
        """The tokens that are certain to come next, often none; `end` where nothing can continue the text."""
        self._check()
        return [end] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    def copy(self) -> Matcher:
        """Another one at the same place."""
        return Matcher(self._vocabulary, self._matcher.deep_copy())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"grammar: {_one_line(self._matcher.get_error())}")


class Vocabulary:
    """A tokenizer's tokens as grammars need them. Built once per tokenizer: see `Vocabulary.of`.

    For 200,000 tokens that takes about a second, most of it on the first grammar.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._bytes = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]
        words = (token for token, data in enumerate(self._bytes) if data and not tokenizer.is_special(token))
        self.text: Mask = self.mask_of(words)
        """Every token that text may be made of: all but the special ones."""
        self._compiled = lru_cache(maxsize=CACHED_GRAMMARS)(self._compile)

    @staticmethod
    def of(tokenizer: Tokenizer) -> Vocabulary:
        """The vocabulary of `tokenizer`, kept for the next time."""
        return _vocabulary(tokenizer)

    def empty_mask(self) -> Mask:
        """A mask that allows nothing."""
        return np.zeros((self.tokenizer.size + 31) // 32, np.uint32)

    def mask_of(self, tokens: Iterable[int]) -> Mask:
        """A mask that allows `tokens` alone; it cannot be written to."""
        bits = np.zeros(32 * len(self.empty_mask()), bool)
        bits[np.fromiter(tokens, np.int64)] = True
        mask = np.packbits(bits, bitorder="little").view(np.uint32)
        mask.flags.writeable = False
        return mask

    def matcher(self, grammar: Grammar) -> Matcher:
        """Begin a text that follows `grammar`.

        Raises:
            RequestError: llguidance's limits do not allow the grammar.
        """
        return self._compiled(grammar).copy()

    def _compile(self, grammar: Grammar) -> Matcher:
        from llguidance import LLMatcher

        matcher = Matcher(self, LLMatcher(self._ll, grammar.compiled(), log_level=0, limits=_limits()))
        matcher.mask(self.tokenizer.return_)
        return matcher

    @cached_property
    def _ll(self) -> LLTokenizer:
        tokenizer = self.tokenizer
        return _ll_tokenizer(
            self._bytes,
            sorted(tokenizer.special.values()),
            tokenizer.return_,
            lambda text: tokenizer.encode(text.decode("utf-8", "replace")),
        )


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer)


def _ll_tokenizer(
    tokens: list[bytes], special: list[int], end: int, encode: Callable[[bytes], list[int]]
) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    class Source:
        """What llguidance asks for; `__call__` encodes UTF-8."""

        eos_token_id = end
        bos_token_id = None
        special_token_ids = special

        def __init__(self) -> None:
            self.tokens = tokens

        def __call__(self, text: bytes) -> list[int]:
            return encode(text)

    return LLTokenizer(TokenizerWrapper(Source()), n_vocab=len(tokens), eos_token=end, slices=_SLICES)


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False)
