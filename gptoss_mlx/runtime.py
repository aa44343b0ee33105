"""GptOss: a loaded model with its tokenizer, and what one does with it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from . import hub
from .cache import Cache
from .config import ModelConfig
from .conversation import Turn
from .engine import PREFILL_CHUNK, Engine, EngineOptions, Request, StopText, TokenLogprobs, check_tokens
from .errors import TokenizerError
from .events import Done, Event, Reply
from .history import History, ToolLike, to_conversation
from .model import Model
from .sampling import SamplingParams
from .tokenizer import StreamDecoder, Tokenizer
from .weights import load_model

LOGITS_ROWS = 32
"""Positions whose logits are held at once: 26 MB with the released vocabulary."""
TODAY = "today"
MAX_TOKENS = 16384
"""Tokens of one chat answer, thoughts included, unless asked otherwise."""


@dataclass(frozen=True)
class Token:
    """A generated token with the text that became complete with it (often, not always, its own)."""

    id: int
    text: str
    stopped: bool = False
    """Whether this is the end that the model or a stop text has set."""
    logprobs: TokenLogprobs | None = None


def load(
    name: str | Path = hub.DEMO,
    *,
    exact: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GptOss:
    """Load a model.

    Args:
        name: a folder, `demo`, an alias (`20b`, `120b`) or a Hugging Face id. Nothing is downloaded.
        exact: on a CPU, float32 throughout, for which prompts take about twice the time. None: as the environment's
            GPTOSS_EXACT says, else False.
        progress: told (bytes loaded, bytes in all).

    Raises:
        ModelNotFoundError: the name leads to nothing on this machine.
        ConfigError, CheckpointError, TokenizerError: the folder is not a whole gpt-oss model.
    """
    return GptOss.from_folder(hub.find(name), exact=exact, progress=progress)


class GptOss:
    """A model ready to run."""

    def __init__(
        self,
        model: Model,
        config: ModelConfig,
        tokenizer: Tokenizer,
        folder: Path,
        options: EngineOptions | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.folder = folder
        self.engine = Engine(model, tokenizer.size, tokenizer.stop_tokens, options)

    @classmethod
    def from_folder(
        cls, folder: Path, *, exact: bool | None = None, progress: Callable[[int, int], None] | None = None
    ) -> GptOss:
        """Load the model in a folder; see `load`."""
        tokenizer = Tokenizer.from_folder(folder)
        model, config = load_model(folder, progress)
        model.exact = exact
        if tokenizer.size > config.vocab_size:
            raise TokenizerError(
                f"{folder}: the tokenizer has {tokenizer.size} ids, the model only {config.vocab_size}; "
                "do both come from the same model?"
            )
        return cls(model, config, tokenizer, folder)

    @property
    def name(self) -> str:
        """What to call the model in front of a person."""
        return hub.display_name(self.folder)

    def __repr__(self) -> str:
        c = self.config
        return f"<GptOss {self.name}: {c.num_hidden_layers} layers, {c.num_local_experts} experts>"

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of every position.

        Args:
            tokens: T ids.

        Returns:
            (T, vocabulary) in float32.

        Raises:
            RequestError: no tokens, ids out of range, or more than the context holds.
        """
        return np.concatenate(list(self.logits_blocks(tokens)))

    def logits_blocks(
        self, tokens: Sequence[int], positions: Sequence[int] | None = None, cache: Sequence[Cache] | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Logits of some positions, a few at a time: those of a long text would fill the memory.

        Args:
            tokens: T ids.
            positions: ascending indices into `tokens`; None means all.
            cache: what came before; holds the tokens too when the last block has been taken. None: nothing.

        Yields:
            (at most LOGITS_ROWS, vocabulary) in float32, together one row for each position.

        Raises:
            RequestError: no tokens, ids out of range, or more than the context holds.
        """
        cache = self.model.make_cache() if cache is None else cache
        check_tokens(self.model, tokens, cache[0].offset)
        wanted = np.arange(len(tokens)) if positions is None else np.asarray(positions, np.int64)
        for first in range(0, len(tokens), PREFILL_CHUNK):
            chunk = mx.array(list(tokens[first : first + PREFILL_CHUNK]))[None]
            hidden = self.model.hidden(chunk, cache)
            mx.eval(hidden, [layer.state for layer in cache])
            rows = wanted[(wanted >= first) & (wanted < first + chunk.shape[1])] - first
            for start in range(0, len(rows), LOGITS_ROWS):
                block = hidden[:, mx.array(rows[start : start + LOGITS_ROWS])]
                yield np.array(self.model.logits(block)[0].astype(mx.float32))

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingParams | None = None,
        max_tokens: int | None = None,
        logprobs: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Token]:
        """Continue raw tokens until a stop token, a stop text, `max_tokens` or the end of the context.

        Stop tokens (`<|return|>`, `<|call|>`, `<|endoftext|>`) are yielded with an empty text; other special
        tokens carry their spelling. Closing the iterator ends the work.

        Args:
            tokens: what to continue.
            sampling: how tokens are chosen.
            max_tokens: how many at most.
            logprobs: how many of the likeliest tokens to tell with each token; None: nothing.
            cancelled: asked before each step; where it says yes, the tokens end there.

        Raises:
            RequestError: the prompt is empty or too long, or a setting is out of its range.
        """
        sampling = sampling or SamplingParams()
        decoder, stop = StreamDecoder(self.tokenizer), StopText(sampling.stop)
        last: Token | None = None
        request = Request(tokens, sampling, max_tokens, logprobs=logprobs, cancelled=cancelled)
        with closing(self.engine.generate(request)) as steps:
            for step in steps:
                if last is not None:
                    yield last
                text = "" if step.stopped else decoder.push(step.token)
                last = Token(step.token, stop.push(text), step.stopped or stop.hit is not None, step.logprobs)
                if stop.hit is not None:
                    break
        if last is not None:
            rest = "" if stop.hit is not None else stop.push(decoder.flush()) + stop.flush()
            yield replace(last, text=last.text + rest)

    def stream(
        self,
        messages: History,
        *,
        effort: str | None = None,
        instructions: str | None = None,
        tools: Sequence[ToolLike] = (),
        sampling: SamplingParams | None = None,
        max_tokens: int = MAX_TOKENS,
        date: str | None = TODAY,
    ) -> Iterator[Event]:
        """Answer a conversation piece by piece: `TextDelta` and `CallDelta` events, at last a `Done` with the Reply.

        Args:
            messages: a question, chat dictionaries in OpenAI's form, harmony messages or a Conversation.
            effort: low, medium (the default) or high: how long to think.
            instructions: what the model should keep to (harmony's developer message).
            tools: functions that the model may call; the caller runs them.
            sampling: how tokens are chosen; stop texts apply to the answer, not to thoughts.
            max_tokens: tokens at most, thoughts included.
            date: YYYY-MM-DD, "today", or None for no date in the prompt.

        Raises:
            RequestError, HarmonyError: the request cannot be rendered or does not fit.
        """
        if date == TODAY:
            date = datetime.date.today().isoformat()
        conversation = to_conversation(messages, effort=effort, instructions=instructions, tools=tools, date=date)
        turn = Turn(self.engine, self.tokenizer, conversation)
        return turn.run(sampling or SamplingParams(), max_tokens)

    def chat(
        self,
        messages: History,
        *,
        effort: str | None = None,
        instructions: str | None = None,
        tools: Sequence[ToolLike] = (),
        sampling: SamplingParams | None = None,
        max_tokens: int = MAX_TOKENS,
        date: str | None = TODAY,
    ) -> Reply:
        """Answer a conversation at once; the arguments are those of `stream`.

        Returns:
            The Reply: `.final`, `.analysis`, `.calls`, `.messages`, `.usage`, `.conversation`.
        """
        *_, last = self.stream(
            messages,
            effort=effort,
            instructions=instructions,
            tools=tools,
            sampling=sampling,
            max_tokens=max_tokens,
            date=date,
        )
        if not isinstance(last, Done):
            raise RuntimeError("a turn ended without its Done event")
        return last.reply
