"""The parameters that Chat Completions and Completions have in common."""

from __future__ import annotations

from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer

from .wire import Body

MAX_STOPS = 16
MAX_BIASES = 1024


class StreamOptions(Body):
    """What a stream has beside its choices."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Ignored: nothing is padded."""


class SamplingFields(Body):
    """How tokens are chosen: OpenAI's parameters, and those that other servers have added to them."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None

    user: Any = None
    """Ignored, as who asks changes nothing here."""

    def sampling(self, tokenizer: Tokenizer, choice: int = 0) -> SamplingParams:
        """How the tokens of one choice are chosen; choices have seeds one after the other.

        Raises:
            RequestError: a value is out of its range.
        """
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
                 "frequency_penalty")  # fmt: skip
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        seed = None if self.seed is None else (self.seed + choice) % (1 << 64)  # OpenAI's may be negative
        return SamplingParams(**given, seed=seed, stop=self._stop(), logit_bias=self._bias(tokenizer))

    def choices(self, most: int) -> int:
        """How many choices are asked for.

        Raises:
            RequestError: it is none, or more than `most`.
        """
        count = 1 if self.n is None else self.n
        if not 1 <= count <= most:
            raise RequestError(f"n: 1 to {most} expected, {count} found")
        return count

    @property
    def includes_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def _stop(self) -> list[str]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > MAX_STOPS:
            raise RequestError(f"stop: {MAX_STOPS} texts at most expected, {len(stop)} found")
        return stop

    def _bias(self, tokenizer: Tokenizer) -> dict[int, float]:
        bias = self.logit_bias or {}
        if len(bias) > MAX_BIASES:
            raise RequestError(f"logit_bias: {MAX_BIASES} tokens at most expected, {len(bias)} found")
        for token, value in bias.items():
            if not (token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < tokenizer.size):
                raise RequestError(f"logit_bias: token ids from 0 to {tokenizer.size - 1} expected, {token!r} found")
            if not -100 <= value <= 100:
                raise RequestError(f"logit_bias[{token}]: -100 to 100 expected, {value} found")
        return {int(token): value for token, value in bias.items()}
