"""The tokenizer of a model folder: byte-exact, and unable to mistake a user's text for control tokens.

gpt-oss marks the structure of a conversation with special tokens such as `<|start|>`. Their ids are looked up by
spelling in the folder's own tokenizer.json, because other checkpoints of the architecture (the embedded model)
number them differently. `Tokenizer.encode` treats every text as plain text: somebody who types `<|end|>` gets the
ordinary characters, never the control token. Only code that asks for a control token by name can have one.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import tokenizers

from .errors import TokenizerError

FILE_NAME = "tokenizer.json"
HARMONY_TOKENS = (
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>",
    "<|startoftext|>", "<|endoftext|>",
)  # fmt: skip


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table of one printable character per byte: printable Latin-1 stands for itself, the rest from 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER: Mapping[str, int] = MappingProxyType(_byte_alphabet())


class Tokenizer:
    """A byte-level BPE tokenizer with harmony's special tokens, read from one tokenizer.json."""

    def __init__(self, encoder: tokenizers.Tokenizer, name: str = FILE_NAME) -> None:
        """Take a `tokenizers.Tokenizer`; `name` is what error messages call it."""
        added = encoder.get_added_tokens_decoder()
        self._name = name
        self._added = {number: token.content.encode() for number, token in added.items()}
        self.special: Mapping[str, int] = MappingProxyType(
            {
                token.content: number
                for number, token in sorted(added.items())
                if token.special or token.content in HARMONY_TOKENS
            }
        )
        self._special_ids = frozenset(self.special.values())
        self._spellings = re.compile("|".join(map(re.escape, self.special)) or "(?!)")
        self.size = 1 + max(encoder.get_vocab(with_added_tokens=True).values(), default=-1)
        """Number of ids in the file: the first id that is unknown. A model may have more logits than this."""
        self._check(encoder)
        self._encoder = _without_added_tokens(encoder)
        self._bytes: dict[int, bytes] = {}

        self.start = self.special["<|start|>"]
        self.end = self.special["<|end|>"]
        self.message = self.special["<|message|>"]
        self.channel = self.special["<|channel|>"]
        self.constrain = self.special["<|constrain|>"]
        self.return_ = self.special["<|return|>"]
        self.call = self.special["<|call|>"]
        self.startoftext = self.special["<|startoftext|>"]
        self.endoftext = self.special["<|endoftext|>"]
        self.stop_tokens: frozenset[int] = frozenset((self.return_, self.call, self.endoftext))
        """Generation ends after one of these. `<|end|>` is not among them: it separates messages."""

    @classmethod
    def from_folder(cls, path: Path) -> Tokenizer:
        """Read `path/tokenizer.json`; TokenizerError if it is missing or does not serve gpt-oss."""
        return cls.from_file(Path(path) / FILE_NAME)

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read one tokenizer.json; TokenizerError if it is missing or does not serve gpt-oss."""
        path = Path(path)
        if not path.is_file():
            raise TokenizerError(f"{path}: no such file; copy {FILE_NAME} of the released model into the folder")
        try:
            encoder = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises the bare Exception for whatever is wrong with a file
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TokenizerError(f"{path}: cannot be read as a tokenizer: {reason}") from error
        return cls(encoder, str(path))

    def _check(self, encoder: tokenizers.Tokenizer) -> None:
        missing = [token for token in HARMONY_TOKENS if token not in self.special]
        if missing:
            raise TokenizerError(
                f"{self._name}: lacks the harmony tokens {', '.join(missing)}; "
                "expected the tokenizer.json of a gpt-oss model"
            )
        if any(encoder.token_to_id(character) is None for character in BYTE_OF_CHARACTER):
            raise TokenizerError(f"{self._name}: expected a byte-level BPE with all 256 bytes, found another kind")

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text: never a special token, whatever it spells. Lone surrogates become U+FFFD."""
        text = _without_surrogates(text)
        ids = self._encode(text)
        if self._special_ids.isdisjoint(ids):
            return ids
        # A vocabulary that lists the specials among its ordinary words too: cut the spellings, then none is whole.
        pieces = self._cut_spellings(text)
        return [number for piece in pieces for number in self._encode(piece)]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def _cut_spellings(self, text: str) -> list[str]:
        cuts = [0, *(match.start() + 1 for match in self._spellings.finditer(text)), len(text)]
        return [text[a:b] for a, b in pairwise(cuts)]

    def id_of(self, token: str) -> int:
        """Id of the token spelled `token` (a special, or an entry of the vocabulary in its file's alphabet)."""
        number = self.special.get(token)
        if number is None:
            number = self._encoder.token_to_id(token)
        if number is None:
            raise TokenizerError(f"{self._name}: has no token {token!r}")
        return int(number)

    def is_special(self, token: int) -> bool:
        """Whether `token` is one of the file's special tokens."""
        return token in self._special_ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for; a special's spelling; nothing for an id that the file does not know."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._look_up(token)
        return found

    def _look_up(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token]
        spelling = self._encoder.id_to_token(token) if 0 <= token < self.size else None
        try:
            return bytes(BYTE_OF_CHARACTER[character] for character in spelling or "")
        except KeyError:
            raise TokenizerError(f"{self._name}: token {token} expected to spell bytes, {spelling!r} found") from None

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`; specials as their spelling, invalid UTF-8 as U+FFFD, nothing for unknown ids."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")


def _without_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, which no UTF-8 and therefore no token can express."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _without_added_tokens(encoder: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same model as an encoder that finds no added token in a text.

    A switch of the package makes it pass over those that are flagged special, which is all of them in a gpt-oss
    file. It does not pass over others, so a file with such is built again without its list.
    """
    encoder.no_padding()
    encoder.no_truncation()
    encoder.encode_special_tokens = True
    if all(token.special for token in encoder.get_added_tokens_decoder().values()):
        return encoder
    description = json.loads(encoder.to_str())
    description["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(description))


class StreamDecoder:
    """Turns tokens into text one at a time, holding back the bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes, possibly none; invalid bytes give U+FFFD."""
        return self.push_bytes(self._tokenizer.token_bytes(token))

    def push_bytes(self, data: bytes) -> str:
        """The characters that `data` completes."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What was held back, as U+FFFD; the decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
