"""A model's tokens as messages, one token at a time, whatever the model writes.

The parser is total: any sequence of tokens gives messages, never an exception; no control token and no header ever
stands in a content; no text is lost. On well-formed output it agrees with the openai-harmony package. On anything
else it does what a reader would:

- `<|end|>`, `<|call|>`, `<|return|>`, `<|endoftext|>`, a new `<|start|>` and the end of the stream end a message;
  so does a `<|channel|>` whose complete header follows. Other control tokens in a text are passed over.
- A header may have its parts in any order, doubled or misspelt (module `header`). Where `<|message|>` is missing,
  the text begins at the first word that cannot be header.
- Text without any header, and a channel that nobody can read, belong to the answer if nothing more of the
  assistant follows, and to its thoughts otherwise. Text after `<|return|>` or `<|call|>` belongs to the thoughts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from ..tokenizer import StreamDecoder, Tokenizer
from .header import CHANNEL, CONSTRAIN, Header, Segment, closed_header, open_header
from .message import Author, Message, Role, TextContent

LOOKAHEAD = 16
"""Tokens behind a header that are still waited upon for a late `<|message|>`, when they cannot be header."""
MAX_HEADER = 64
"""Tokens after which a header without `<|message|>` counts as complete."""


@dataclass(frozen=True)
class MessageStarted:
    """A header has been read. `channel` is None where there is none, or where it is not known yet."""

    author: Author
    channel: str | None
    recipient: str | None
    content_type: str | None
    raw_header: str
    """The header's text as the model wrote it, without control tokens."""


@dataclass(frozen=True)
class ContentDelta:
    """More text of the message that started last; the deltas of a message join to its text."""

    text: str
    channel: str | None
    recipient: str | None


@dataclass(frozen=True)
class MessageCompleted:
    """A message is complete. `ended_by` is the token that ended it, None for the end of the stream."""

    message: Message
    ended_by: int | None


Event = MessageStarted | ContentDelta | MessageCompleted


class _State(Enum):
    HEADER = "header"
    """After `<|start|>` or `<|start|>role`."""
    CONTENT = "content"
    INLINE = "inline"
    """In a content, after a `<|channel|>` that may open a message whose `<|end|><|start|>` is missing."""
    BETWEEN = "between"
    """After a message: a `<|start|>` should come."""


class HarmonyParser:
    """Reads tokens into messages; `push` each token, then `finish`.

    `role` is that of the message that the prompt has opened (None: the tokens begin with `<|start|>`). `tools` are
    the recipients that calls may have, for instance `functions.tide_at` or `python`: with them a call's recipient
    is corrected to the declared name.
    """

    def __init__(
        self, tokenizer: Tokenizer, role: Role | str | None = "assistant", tools: Collection[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._tools = tuple(tools)
        self._decoder = StreamDecoder(tokenizer)
        self._stops = frozenset((*tokenizer.stop_tokens, tokenizer.end))
        self._markers = {tokenizer.channel: CHANNEL, tokenizer.constrain: CONSTRAIN}
        self.tokens: list[int] = []
        """Every token that was pushed, for diagnosis."""
        self._messages: list[Message] = []
        self._events: list[Event] = []
        self._state = _State.HEADER
        self._role = None if role is None else Role.of(role)
        self._segments: list[tuple[str, bytearray]] = [("", bytearray())]
        self._length = self._beyond = 0
        self._unused = ""  # headers that no message came of; they are shown with the next one's
        self._header = Header(Author(Role.ASSISTANT))
        self._started: MessageStarted | None = None
        self._text: list[str] = []
        self._held: MessageCompleted | None = None
        self._over = False  # after a token that should have ended the generation

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that are complete."""
        return tuple(self._messages)

    @property
    def current(self) -> MessageStarted | None:
        """The message whose text the next token may belong to; None in a header and between messages."""
        return self._started if self._state in (_State.CONTENT, _State.INLINE) else None

    def push(self, token: int) -> list[Event]:
        """Read one token; what it brought about, often nothing. Any integer is accepted."""
        self.tokens.append(token)
        if token == self._tokenizer.start:
            self._on_start()
        elif token in self._stops:
            self._on_stop(token)
        elif token == self._tokenizer.message:
            self._on_message()
        elif token in self._markers:
            self._on_marker(self._markers[token])
        elif not self._tokenizer.is_special(token):
            self._on_text(self._tokenizer.token_bytes(token))
        return self._take_events()

    def finish(self) -> list[Event]:
        """The stream is over: complete what is open. Calling it again does nothing."""
        self._end(None)
        self._release(final=True)
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # What each kind of token does

    def _on_start(self) -> None:
        self._end(None)
        self._open(None)
        self._over = False

    def _on_stop(self, token: int) -> None:
        self._end(token)
        self._state = _State.BETWEEN
        if token != self._tokenizer.end:
            self._release(final=True)
            self._over = True

    def _on_message(self) -> None:
        if self._state is _State.CONTENT:
            return None
        if self._state is _State.BETWEEN:
            self._open(Role.ASSISTANT)
        header = closed_header(self._decoded(), self._role, self._tools)
        if self._state is _State.INLINE:
            if header.channel is None:
                return self._resume()
            self._complete(None)
        return self._begin(header, self._bytes())

    def _on_marker(self, marker: str) -> None:
        if self._state is _State.BETWEEN:
            self._open(Role.ASSISTANT)
        if self._state is _State.CONTENT:
            if marker != CHANNEL:
                return
            self._open(Role.ASSISTANT)
            self._state = _State.INLINE
        self._segments.append((marker, bytearray()))
        self._count()

    def _on_text(self, data: bytes) -> None:
        if self._state is _State.CONTENT:
            return self._say(self._decoder.push_bytes(data))
        if self._state is _State.BETWEEN:
            self._open(Role.ASSISTANT)
        self._segments[-1][1].extend(data)
        return self._count()

    # Headers

    def _open(self, role: Role | None) -> None:
        """Begin to collect a header; `role` is known when the last message's author goes on."""
        if self._state is _State.HEADER:
            self._unused += _text_of(self._bytes())
        self._state, self._role = _State.HEADER, role
        self._segments = [("", bytearray())]
        self._length = self._beyond = 0

    def _bytes(self) -> bytes:
        return b"".join(text for _, text in self._segments)

    def _decoded(self) -> list[Segment]:
        return [(marker, text.decode("utf-8", "surrogateescape")) for marker, text in self._segments]

    def _count(self) -> None:
        """After each token of a header: go on to the text if it is certain, or likely enough, that it began."""
        self._length += 1
        header = open_header(self._decoded(), self._role, self._tools, ended=False)
        full = self._length > MAX_HEADER
        if self._state is _State.INLINE:
            if header.rest is not None or full or header.author.role is not Role.ASSISTANT:
                self._resume()
            return
        self._beyond += header.rest is not None
        if self._beyond > (0 if _is_bare(header) else LOOKAHEAD) or full:
            begun = self._begin_without_message(ended=full)
            if full and not begun:
                self._open(self._role)

    def _begin_without_message(self, *, ended: bool) -> bool:
        """Begin the message of a header that has no `<|message|>`; False if there is nothing to begin."""
        header = open_header(self._decoded(), self._role, self._tools, ended=ended)
        if header.rest is None and header.channel is None and header.recipient is None:
            return False
        rest = (header.rest or "").encode("utf-8", "surrogateescape")
        if _is_bare(header):
            header = replace(header, settled=False)
        self._begin(header, self._bytes().removesuffix(rest))
        self._say(self._decoder.push_bytes(rest))
        return True

    def _resume(self) -> None:
        """What followed a `<|channel|>` in a text is no header: it is text."""
        self._state = _State.CONTENT
        self._say(self._decoder.push_bytes(self._bytes()))

    # Messages

    def _begin(self, header: Header, raw: bytes) -> None:
        same = header.author.role is Role.ASSISTANT
        self._release(final=not same)
        if not header.settled and self._over:
            header = replace(header, channel="analysis", settled=True)
        self._state, self._header, self._text = _State.CONTENT, header, []
        shown, self._unused = self._unused + _text_of(raw), ""
        self._started = MessageStarted(header.author, header.channel, header.recipient, header.content_type, shown)
        self._events.append(self._started)

    def _say(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._events.append(ContentDelta(text, self._header.channel, self._header.recipient))

    def _end(self, token: int | None) -> None:
        """End whatever is open: a text, or a header that has no `<|message|>`."""
        if self._state is _State.INLINE:
            self._resume()
        if self._state is _State.HEADER:
            self._end_header(token)
        elif self._state is _State.CONTENT:
            self._complete(token)

    def _end_header(self, token: int | None) -> None:
        header = open_header(self._decoded(), self._role, self._tools, ended=True)
        # Cut off inside a header: no message. Closed by a token: a message without text, such as a bare call.
        if (header.rest is not None or token is not None) and self._begin_without_message(ended=True):
            self._complete(token)
        else:
            self._open(Role.ASSISTANT)
            self._state = _State.BETWEEN

    def _complete(self, token: int | None) -> None:
        self._say(self._decoder.flush())
        header = self._header
        content = (TextContent("".join(self._text)),)
        message = Message(header.author, content, header.channel, header.recipient, header.content_type)
        self._state, self._text = _State.BETWEEN, []
        self._held = MessageCompleted(message, token)
        if header.settled:
            self._release(final=False)

    def _release(self, *, final: bool) -> None:
        """Give out the last message; if its channel is not settled, it is final or analysis as the caller knows."""
        held, self._held = self._held, None
        if held is None:
            return
        if not self._header.settled:
            channel = "final" if final else "analysis"
            held = replace(held, message=replace(held.message, channel=channel))
        self._messages.append(held.message)
        self._events.append(held)


def _is_bare(header: Header) -> bool:
    """Whether there is nothing of a header at all, only text."""
    nothing = header.channel is None and header.recipient is None and header.settled
    return nothing and header.author.role is Role.ASSISTANT


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")
