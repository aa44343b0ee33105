"""What models are compared on: plain text, conversations, random tokens, as token sequences.

A file of conversations has one JSON object per line: `messages` in OpenAI's chat form, and where wanted `effort`,
`instructions`, `tools` and `date` as `GptOss.chat` takes them. A file's own notes (`id`, `kind`, `call`, `result`,
`final`: those of the embedded model's held-out questions) are passed over; any other field is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptoss_mlx.errors import GptOssError, RequestError
from gptoss_mlx.harmony import Conversation, Message, Role, render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.runtime import GptOss
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer

from .scoring import Progress

FIELDS = {"messages": list, "effort": str, "instructions": str, "tools": list, "date": str}
NOTES = ("id", "kind", "call", "result", "final")
ANSWER_TOKENS = 512
"""Tokens at most of an answer that a conversation lacks."""


@dataclass(frozen=True)
class Passage:
    """Tokens that are run together, and the positions whose predictions count (of the token after each)."""

    tokens: Sequence[int]
    positions: Sequence[int]


@dataclass(frozen=True)
class Material:
    """What to compare models on: a file or random tokens.

    Attributes:
        text: plain text, or conversations if its name ends in .jsonl.
        tokens: so many random ones instead.
        limit: of a text only so many tokens, of conversations only so many.
        context: tokens of plain or random text that are run together.
        seed: of random tokens.

    Raises:
        RequestError: both or neither of `text` and `tokens`, or a file that cannot be read.
    """

    text: Path | None = None
    tokens: int | None = None
    limit: int | None = None
    context: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.text is None) == (self.tokens is None):
            raise RequestError("text: a file or a number of random tokens expected, one of the two")
        if self.text is not None:
            read_text(self.text)
        elif self.limit is not None:
            raise RequestError("limit: meant for a file; say how many random tokens instead")

    def passages(self, model: GptOss, progress: Progress | None = None) -> list[Passage]:
        """The passages to run; `model` answers conversations that lack an answer.

        Raises:
            RequestError: see `conversation_passages`.
        """
        if self.text is None:
            return text_passages(random_tokens(model.tokenizer, self.tokens or 1, self.seed), self.context)
        if self.text.suffix == ".jsonl":
            return conversation_passages(self.text, model, self.limit, progress)
        return text_passages(model.tokenizer.encode(read_text(self.text))[: self.limit], self.context)


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        RequestError: it is missing, empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: UTF-8 text expected, found another byte at {error.start}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.strip():
        raise RequestError(f"{path}: a text expected, nothing found")
    return text


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its place for error messages; blank lines are passed over.

    Raises:
        RequestError: a line is no JSON object; see `read_text` as well.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where}: one JSON object per line expected: {error}") from None
        if not isinstance(row, dict):
            raise RequestError(f"{where}: a JSON object expected, {type(row).__name__} found")
        yield where, row


def text_passages(tokens: Sequence[int], context: int) -> list[Passage]:
    """Plain text in pieces of `context` tokens, every position of which counts."""
    pieces = [tokens[first : first + context] for first in range(0, len(tokens), context)]
    return [Passage(piece, range(len(piece))) for piece in pieces]


def random_tokens(tokenizer: Tokenizer, count: int, seed: int) -> list[int]:
    """Random ids, the same for the same seed; for random models, which have no language to be good at."""
    found: list[int] = np.random.default_rng(seed).integers(0, tokenizer.size, count).tolist()
    return found


def conversation_passages(
    path: Path, model: GptOss, limit: int | None = None, progress: Progress | None = None
) -> list[Passage]:
    """Conversations of a file, in which what the assistant writes counts.

    Where a conversation ends before the assistant's turn, `model` answers it first, at temperature 0: its own
    thoughts and answers are what it is to be compared on.

    Args:
        path: see the module.
        model: gives the answers that are missing, at most ANSWER_TOKENS each.
        limit: take only so many conversations.
        progress: told (conversations done, conversations in all).

    Raises:
        RequestError: a bad row, named by its line.
    """
    conversations = [(where, _conversation(row, where)) for where, row in read_rows(path)][:limit]
    passages = []
    for number, (where, conversation) in enumerate(conversations, 1):
        try:
            passages.append(as_passage(_answered(conversation, model), model.tokenizer))
        except GptOssError as error:
            raise RequestError(f"{where}: {error}") from None
        if progress is not None:
            progress(number, len(conversations))
    return passages


def _conversation(row: dict[str, Any], where: str) -> Conversation:
    unknown = sorted(set(row) - {*FIELDS, *NOTES})
    if unknown:
        raise RequestError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    if not row.get("messages"):
        raise RequestError(f"{where}: messages: at least one expected, none found")
    for name, kind in FIELDS.items():
        if row.get(name) is not None and not isinstance(row[name], kind):
            raise RequestError(f"{where}: {name}: {kind.__name__} expected, {type(row[name]).__name__} found")
    for name in ("messages", "tools"):
        if not all(isinstance(item, dict) for item in row.get(name) or ()):
            raise RequestError(f"{where}: {name}: a list of JSON objects expected, others found")
    options = {name: value for name, value in row.items() if name in FIELDS and value is not None}
    try:
        return to_conversation(options.pop("messages"), **options)
    except GptOssError as error:
        raise RequestError(f"{where}: {error}") from None


def _answered(conversation: Conversation, model: GptOss) -> Conversation:
    last = conversation.messages[-1]
    if last.role is Role.ASSISTANT:
        return conversation
    greedy = SamplingParams(temperature=0.0)
    return model.chat(conversation, sampling=greedy, max_tokens=ANSWER_TOKENS, date=None).conversation


def as_passage(conversation: Sequence[Message] | Conversation, tokenizer: Tokenizer) -> Passage:
    """A conversation as the model reads and writes it: earlier turns without thoughts, the last one with its own."""
    *before, last = conversation
    tokens = render(before, tokenizer, None)
    tokens += render((last,), tokenizer, None, training=True)
    return Passage(tokens, spoken(tokens, tokenizer))


def spoken(tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Positions before tokens that the assistant writes: from its messages' channels to their closing tokens."""
    opening = [tokenizer.start, *tokenizer.encode("assistant")]
    closing = (tokenizer.end, tokenizer.call, tokenizer.return_)
    found, inside = [], False
    for position, token in enumerate(tokens):
        if token in closing:
            inside = False
        elif list(tokens[position + 1 - len(opening) : position + 1]) == opening:
            inside = True
        if inside:
            found.append(position)
    return found
