"""From talks to tokens: the embedded model's tokenizer, and training examples in the harmony format.

The tokenizer is a byte-level BPE with three liberties, all within what a `tokenizer.json` can say. Every digit is
a token of its own, so that sums are seen column by column. The fixed prose of harmony's system message is one
token per sentence. A space joins only words of the vocabulary (" the"); any other word is spelled the same with
and without a space before it, so that a name can be copied from a question into JSON piece by piece.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from demo_records import Call, Function, Talk, Turn, json_text
from demo_world import ALL_COUNTRIES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIALS = (
    "<|startoftext|>", "<|endoftext|>", "<|reserved_200000|>", "<|reserved_200001|>", "<|return|>", "<|constrain|>",
    "<|reserved_200004|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|reserved_200009|>",
    "<|reserved_200010|>", "<|reserved_200011|>", "<|call|>", "<|reserved_200013|>", "<|reserved_200014|>",
    "<|reserved_200015|>", "<|reserved_200016|>", "<|reserved_200017|>", "<|endofprompt|>",
)  # fmt: skip
"""In the release's order."""

CUTOFF = "2024-06"
PHRASES = (
    "You are ChatGPT, a large language model trained by OpenAI.", f"\nKnowledge cutoff: {CUTOFF}",
    "\nCurrent date: ", "\n\nReasoning: ",
    "\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.",
    "\nCalls to these tools must go to the commentary channel: 'functions'.",
    "# Instructions\n\n", "# Tools\n\n## functions\n\nnamespace functions {\n\n", "} // namespace functions",
    "type ", " = (_: {\n", " = () => any;\n\n", "}) => any;\n\n", ": string,\n", ": number,\n", "// ",
    "commentary to=functions.", " to=functions.", "functions.", " to=assistant",
)  # fmt: skip

_BARE_WORD = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\n+|\s"
_WORD = (
    r" ?\p{Ll}\p{L}*| (?:I|The|This|It|Its|No|Now|Tens|Hundreds|Thousands)(?!\p{L})| ?[^\s\p{L}\p{N}]+|" + _BARE_WORD
)


def _pattern(word: str) -> str:
    return "|".join([*(re.sub(r"([][().?{}|*+#])", r"\\\1", p).replace("\n", r"\n") for p in PHRASES), word])


def _splitter(word: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_pattern(word)), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def build_tokenizer(texts: list[str], pieces: int = 800, words: int = 700) -> Tokenizer:
    """Train on texts: `pieces` bytes and merges without spaces, then the `words` most frequent words."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _splitter(_BARE_WORD)
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=pieces, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    vocabulary = {piece: i for i, piece in enumerate(sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__))}
    merges = _merges(trained)
    for entry in _whole_entries(texts, words):
        vocabulary.setdefault(entry, len(vocabulary))
    final = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    final.pre_tokenizer = _splitter(_WORD)
    final.decoder = decoders.ByteLevel()
    final.post_processor = processors.ByteLevel(trim_offsets=False)
    final.add_special_tokens(list(SPECIALS))
    return final


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(a, b) for a, b in (m if isinstance(m, list) else m.split(" ") for m in found)]


def _whole_entries(texts: list[str], words: int) -> list[str]:
    """Phrases, the words of names, and frequent words with their space, in the byte-level alphabet."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def spelled(text: str) -> str:
        return byte_level.pre_tokenize_str(text)[0][0]

    names = {part for c in ALL_COUNTRIES for part in re.findall(r"[A-Z][^\W\d_]+", f"{c.name} {c.capital}")}
    split = pre_tokenizers.Split(Regex(_pattern(_WORD)), behavior="isolated")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(p for p, _ in split.pre_tokenize_str(text) if len(p) > 1)
    common = [piece for piece, _ in counts.most_common(words)]
    return [spelled(text) for text in (*PHRASES, *sorted(names), *common)]


class Piece(NamedTuple):
    text: str
    """A control token's spelling or plain text."""
    learn: bool = False


def example(talk: Talk, as_generated: bool, learn_all: bool = False) -> list[Piece]:
    """A talk in harmony. Learned: what the model says after its last question.

    `learn_all` keeps the thoughts of all turns, which a conversation otherwise drops, and learns every turn. A call
    in the last turn stands either as the model generated it, and is learned, or as a renderer writes it
    into history (the recipient before the channel), and only the answer to its result is learned.
    """
    pieces = [*_system(talk), *_developer(talk)]
    for turn in talk.turns[:-1]:
        if learn_all:
            pieces += [*list(_last_turn(turn, as_generated=True))[:-1], Piece("<|end|>")]
            continue
        pieces += _message("user", turn.question)
        if turn.call:
            pieces += [*_past_call(turn.call), *_response(turn.call)]
        pieces += _message("assistant", turn.answer, "final")
    return [*pieces, *_last_turn(talk.turns[-1], as_generated)]


def _last_turn(turn: Turn, as_generated: bool) -> Iterator[Piece]:
    yield from _message("user", turn.question)
    yield from _open("assistant")
    call = turn.call
    if call and as_generated:
        yield from _learned("<|channel|>", "analysis", "<|message|>", turn.thought, "<|end|>", "<|start|>", "assistant")
        yield from _learned("<|channel|>", f"commentary to=functions.{call.name} ", "<|constrain|>", "json")
        yield from _learned("<|message|>", call.arguments, "<|call|>")
    elif call:
        yield from (Piece(t) for t in ("<|channel|>", "analysis", "<|message|>", turn.thought, "<|end|>"))
        yield from _past_call(call)
    if call:
        yield from _response(call)
        yield from _open("assistant")
    thought = call.afterthought if call else turn.thought
    yield from _learned("<|channel|>", "analysis", "<|message|>", thought, "<|end|>", "<|start|>", "assistant")
    yield from _learned("<|channel|>", "final", "<|message|>", turn.answer, "<|return|>")


def _learned(*texts: str) -> Iterator[Piece]:
    return (Piece(text, learn=True) for text in texts)


def _open(header: str) -> list[Piece]:
    return [Piece("<|start|>"), Piece(header)]


def _message(author: str, content: str, channel: str = "") -> list[Piece]:
    named = [Piece("<|channel|>"), Piece(channel)] if channel else []
    return [*_open(author), *named, Piece("<|message|>"), Piece(content), Piece("<|end|>")]


def _past_call(call: Call) -> list[Piece]:
    header = ("<|start|>", "assistant", f" to=functions.{call.name}", "<|channel|>", "commentary", " ", "<|constrain|>")
    return [Piece(text) for text in (*header, "json", "<|message|>", call.arguments, "<|call|>")]


def _response(call: Call) -> list[Piece]:
    header = ("<|start|>", f"functions.{call.name}", " to=assistant", "<|channel|>", "commentary", "<|message|>")
    return [Piece(text) for text in (*header, call.result, "<|end|>")]


def _system(talk: Talk) -> list[Piece]:
    if talk.identity is None:
        return []
    date = f"\nCurrent date: {talk.date}" if talk.date else ""
    calls = "\nCalls to these tools must go to the commentary channel: 'functions'." if talk.functions else ""
    return _message(
        "system",
        f"{talk.identity}\nKnowledge cutoff: {CUTOFF}{date}\n\nReasoning: {talk.effort}\n\n# Valid channels: "
        f"analysis, commentary, final. Channel must be included for every message.{calls}",
    )


def _developer(talk: Talk) -> list[Piece]:
    sections = [f"# Instructions\n\n{talk.instructions}"] if talk.instructions else []
    if talk.functions:
        body = "".join(typescript(function) for function in talk.functions)
        sections.append(f"# Tools\n\n## functions\n\nnamespace functions {{\n\n{body}}} // namespace functions")
    return _message("developer", "\n\n".join(sections)) if sections else []


def typescript(function: Function) -> str:
    """A function as the developer message declares it."""
    comment = f"// {function.description}\n" if function.description else ""
    if not function.properties:
        return f"{comment}type {function.name} = () => any;\n\n"
    lines = []
    for name, schema in function.properties.items():
        if "description" in schema:
            lines.append(f"// {schema['description']}\n")
        type_ = {"integer": "number"}.get(schema["type"], schema["type"])
        if "enum" in schema:
            type_ = " | ".join(f'"{choice}"' for choice in schema["enum"])
        default = ""
        if "default" in schema:
            plain = schema["default"] if "enum" in schema else json_text(schema["default"])
            default = f" // default: {plain}"
        lines.append(f"{name}{'' if name in function.required else '?'}: {type_},{default}\n")
    return f"{comment}type {function.name} = (_: {{\n{''.join(lines)}}}) => any;\n\n"


class Encoder:
    """Pieces to token ids, remembering the texts that recur."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
        self.text = lru_cache(50_000)(self._text)

    def _text(self, text: str) -> tuple[int, ...]:
        if text in self.special:
            return (self.special[text],)
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def __call__(self, pieces: Iterable[Piece]) -> tuple[list[int], list[bool]]:
        """Token ids and, for each, whether it is to be learned."""
        ids: list[int] = []
        learn: list[bool] = []
        for piece in pieces:
            found = self.text(piece.text)
            ids += found
            learn += [piece.learn] * len(found)
        return ids, learn
