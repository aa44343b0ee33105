"""A small byte-level BPE with every harmony special token, built in a moment without any network.

It has the shape of the released tokenizer.json (ranks as ids, splits on words, `ignore_merges`), other ids, and a
few merged words, so that tests see tokens of one byte, of parts of characters and of whole words.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from gptoss_mlx import tokenizer as ours

SPECIALS = (*ours.HARMONY_TOKENS, "<|reserved_a|>", "<|endofprompt|>")
WORDS = (
    "assistant", "user", "system", "developer", "tool", "analysis", "commentary", "final", " to", "functions",
    "json", " json", " code", " the", " of", " is", "ing", "é", "日本", "🙂",
)  # fmt: skip
_PATTERN = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def _mapped(text: str) -> str:
    characters = {byte: character for character, byte in ours.BYTE_OF_CHARACTER.items()}
    return "".join(characters[byte] for byte in text.encode())


@cache
def tiny_tokenizer_json() -> str:
    """The text of the file. Ordinary ids come first, then the specials in the order of `SPECIALS`."""
    vocabulary = {character: byte for byte, character in enumerate(map(str, ours.BYTE_OF_CHARACTER))}
    merges: list[tuple[str, str]] = []
    for word in map(_mapped, WORDS):
        left = word[0]
        for right in word[1:]:
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
            left += right
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    text: str = built.to_str(pretty=True)
    return text


def write_tiny_tokenizer(folder: Path) -> Path:
    """Write `folder/tokenizer.json` and give its path."""
    path = Path(folder) / ours.FILE_NAME
    path.write_text(tiny_tokenizer_json(), encoding="utf-8")
    return path


@cache
def tiny_tokenizer() -> ours.Tokenizer:
    """The tokenizer itself, one for all tests (it is never changed)."""
    return ours.Tokenizer(Tokenizer.from_str(tiny_tokenizer_json()), "the tiny tokenizer")
