"""An engine that says what a test wrote down, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from gptoss_mlx.conversation import Backend
from gptoss_mlx.engine import Generated
from gptoss_mlx.engine.masks import is_allowed
from gptoss_mlx.engine.request import Request, TokenLogprobs
from gptoss_mlx.tokenizer import Tokenizer
from tiny_tokenizer import tiny_tokenizer

THOUGHT = "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant"
ANSWER = "<|channel|>final<|message|>It is so.<|return|>"


def call(recipient: str, arguments: str, channel: str = "commentary", end: str = "<|call|>") -> str:
    """A call as the model writes it."""
    return f"<|channel|>{channel} to={recipient} <|constrain|>json<|message|>{arguments}{end}"


def tokens_of(text: str, tokenizer: Tokenizer | None = None) -> list[int]:
    """Tokens of a text in which control tokens stand by their spelling."""
    tokenizer = tokenizer or tiny_tokenizer()
    pieces = re.split(r"(<\|\w+\|>)", text)
    return [token for piece in pieces for token in _piece(piece, tokenizer)]


def _piece(piece: str, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special[piece]] if piece in tokenizer.special else tokenizer.encode(piece)


class Script:
    """Says one text per turn. A guide's forced tokens come first; what the script says must be allowed by it."""

    def __init__(self, *turns: str, tokenizer: Tokenizer | None = None) -> None:
        self.tokenizer = tokenizer or tiny_tokenizer()
        self._turns = iter(turns)
        self.requests: list[Request] = []
        self.said: list[int] = []
        """Tokens of the last turn."""
        self.closed = 0

    def __call__(self, request: Request) -> Generator[Generated, None, None]:
        """The engine's side of it."""
        self.requests.append(request)
        self.said = []
        request.figures.cached_tokens = 7
        try:
            yield from self._steps(request, iter(tokens_of(next(self._turns), self.tokenizer)))
        finally:
            self.closed += 1

    def _steps(self, request: Request, script: Iterator[int]) -> Iterator[Generated]:
        for _ in range(request.max_tokens or 0):
            forced = request.guide.forced() if request.guide else []
            token = forced[0] if forced else next(script, None)
            if token is None:
                return
            if request.guide is not None:
                mask = request.guide.mask()
                assert mask is None or is_allowed(mask, token), self.tokenizer.decode([token])
                request.guide.accept(token)
            self.said.append(token)
            stopped = token in self.tokenizer.stop_tokens
            logprob = None if request.logprobs is None else TokenLogprobs(token, -1.0, ())
            yield Generated(token, stopped, bool(forced), logprob)
            if stopped:
                return

    def backend(self, context: int = 100_000) -> Backend:
        """The script as a model."""
        return Backend(self, self.tokenizer, context)
