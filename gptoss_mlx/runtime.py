"""GptOss: a loaded model with its tokenizer, and what one does with it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from . import __version__, hub, kernels, memory
from .answer_format import AnswerFormat
from .cache import Cache
from .config import ModelConfig
from .conversation import MAX_TOKENS, MAX_TURNS, Backend, Confirm, Dialogue, Settings
from .engine import PREFILL_CHUNK, Engine, EngineOptions, Generated, Request, StopText, TokenLogprobs, check_tokens
from .errors import RequestError, TokenizerError
from .events import Event, Reply
from .history import TODAY, History, resolved_date
from .memory import CONTEXT
from .model import Model
from .sampling import SamplingParams
from .session import ChatSession
from .tokenizer import FILE_NAME, StreamDecoder, Tokenizer
from .toolbox import Toolbox, ToolLike
from .weights import identity, load_model

if TYPE_CHECKING:
    from .jupyter import ChatWidget

LOGITS_ROWS = 32
"""Positions whose logits are held at once: 26 MB with the released vocabulary."""

P = ParamSpec("P")
R = TypeVar("R")


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
    context: int = CONTEXT,
    force: bool = False,
    options: EngineOptions | None = None,
    draft: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GptOss:
    """Load a model.

    Args:
        name: a folder, `demo`, an alias (`20b`, `120b`) or a Hugging Face id. Nothing is downloaded.
        exact: on a CPU, float32 throughout, for which prompts take about twice the time. None: as the environment's
            GPTOSS_EXACT says, else False.
        context: tokens that must fit in memory beside the model; longer conversations are not refused.
        force: load even a model that does not fit, and let sequences grow beyond what fits.
        options: what the engine may take: sequences that run together, memory for earlier prompts, drafts.
        draft: a smaller model with the same tokenizer, whose guesses at the next tokens are verified together. None
            looks guesses up in the text so far. Neither changes a token.
        progress: told (bytes loaded, bytes in all).

    Raises:
        ModelNotFoundError: the name leads to nothing on this machine.
        ConfigError, CheckpointError, TokenizerError: the folder is not a whole gpt-oss model.
        MemoryLimitError: it does not fit this machine; the message says what would.
    """
    guesser = None if draft is None else GptOss.from_folder(hub.find(draft), exact=exact, context=context, force=force)
    return GptOss.from_folder(
        hub.find(name), exact=exact, context=context, force=force, options=options, draft=guesser, progress=progress
    )


def _fingerprint(folder: Path, model: Model) -> str:
    """Names a model and all that its prompt states depend on: another release may round differently."""
    with kernels.exactly(model.exact):
        exact, kind = kernels.exact(), kernels.cache_kind()
    software = f"gptoss-mlx {__version__} mlx {version('mlx')}"
    return f"{identity(folder)} {software} {kernels.describe()} {kind} {exact}"


def _taking(
    prepare: Callable[Concatenate[GptOss, P], Dialogue],
) -> Callable[[Callable[[GptOss, Dialogue], R]], Callable[Concatenate[GptOss, P], R]]:
    """Let a method take what `prepare` takes, and get what it returns."""

    def decorate(method: Callable[[GptOss, Dialogue], R]) -> Callable[Concatenate[GptOss, P], R]:
        @functools.wraps(method)
        def taking(self: GptOss, /, *args: P.args, **options: P.kwargs) -> R:
            return method(self, prepare(self, *args, **options))

        signature = inspect.signature(prepare)
        returned = inspect.signature(method).return_annotation
        taking.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        return taking

    return decorate


class GptOss:
    """A model ready to run."""

    def __init__(
        self,
        model: Model,
        config: ModelConfig,
        tokenizer: Tokenizer,
        folder: Path,
        options: EngineOptions | None = None,
        machine: memory.Machine | None = None,
        draft: GptOss | None = None,
    ) -> None:
        """Take a loaded model; `machine` is what its sequences must fit on, None lets them grow as they like."""
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.folder = folder
        options = options or EngineOptions()
        fits = None
        if machine is not None:
            used = memory.Need.of_folder(folder).resident(machine) + options.prefix_bytes
            fits = memory.admission(config, machine, used=used, running=lambda: self.engine.reserved)
        self.engine = Engine(
            model,
            tokenizer.size,
            tokenizer.stop_tokens,
            options,
            fits,
            draft=None if draft is None else draft.model,
            fingerprint=_fingerprint(folder, model) if options.prompt_cache is not None else "",
        )

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        exact: bool | None = None,
        context: int = CONTEXT,
        force: bool = False,
        options: EngineOptions | None = None,
        draft: GptOss | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> GptOss:
        """Load the model in a folder; see `load`."""
        if draft is not None and (folder / FILE_NAME).read_bytes() != (draft.folder / FILE_NAME).read_bytes():
            raise RequestError(f"draft: a model with the tokenizer of {folder} expected, {draft.folder} has another")
        tokenizer = Tokenizer.from_folder(folder)
        with kernels.exactly(exact):  # decides what caches keep
            machine = memory.Machine.measure()
            model, config = load_model(folder, progress, context=context, force=force)
        model.exact = exact
        if tokenizer.size > config.vocab_size:
            raise TokenizerError(
                f"{folder}: the tokenizer has {tokenizer.size} ids, the model only {config.vocab_size}; "
                "do both come from the same model?"
            )
        return cls(model, config, tokenizer, folder, options, None if force else machine, draft)

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
    ) -> Generator[Token, None, None]:
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

    def dialogue(
        self,
        messages: History,
        *,
        effort: str | None = None,
        instructions: str | None = None,
        tools: Sequence[ToolLike] = (),
        tool_choice: str = "auto",
        response_format: Any = None,
        sampling: SamplingParams | None = None,
        max_tokens: int = MAX_TOKENS,
        reasoning_budget: int | None = None,
        max_turns: int = MAX_TURNS,
        logprobs: int | None = None,
        confirm: Confirm | None = None,
        cancelled: Callable[[], bool] | None = None,
        date: str | None = TODAY,
    ) -> Dialogue:
        """Prepare a reply to a conversation; `stream`, `chat`, `astream` and `achat` take the same and run it.

        Args:
            messages: a question, chat dictionaries in OpenAI's form, harmony messages or a Conversation.
            effort: low, medium (the default) or high: how long to think.
            instructions: what the model should keep to (harmony's developer message).
            tools: what the model may call. Python callables and `RunnableTool`s run here, and the model goes on with
                their results; calls of functions that are only declared (OpenAI's dictionaries, harmony's `Tool`) end
                the reply, for the caller to answer.
            tool_choice: `auto`, `none`, `required`, or the name of the function to call first. Arguments are valid
                under the schema of a function that is declared as strict.
            response_format: what the answer must be: a JSON Schema, `{"type": "json_object"}`, a pydantic model or a
                dataclass. `Reply.parsed` is then its value.
            sampling: how tokens are chosen; stop texts apply to the answer, not to thoughts.
            max_tokens: tokens at most of all turns together, thoughts included.
            reasoning_budget: tokens of thoughts at most; then the answer begins. Unless it is `max_tokens`, a quarter
                of these, but no more than 1024 tokens, is kept for the answer in any case. None: no other limit.
            max_turns: how often the model may speak, results of calls in between. After the last time its calls are
                still answered, and the finish reason is `length`: going on with the reply's conversation is possible.
            logprobs: how many of the likeliest tokens to tell with each token of the text; None: nothing.
            confirm: asked before a call runs here; where it says no, the model is told. May be asynchronous.
            cancelled: asked at each token; where it says yes, the reply ends there, with finish reason `cancelled`.
            date: YYYY-MM-DD, "today", or None for no date in the prompt.

        Raises:
            RequestError, HarmonyError: the request cannot be rendered, enforced, or does not fit.
        """
        box, form = Toolbox(tools), AnswerFormat.of(response_format)
        conversation = box.conversation(
            messages,
            effort=effort,
            instructions=instructions,
            date=resolved_date(date),
            formats=() if form is None else (form.declared,),
        )
        first, later = box.rules(tool_choice, conversation, None if form is None else form.grammar)
        settings = Settings(
            sampling=sampling or SamplingParams(),
            max_tokens=max_tokens,
            reasoning_budget=reasoning_budget,
            max_turns=max_turns,
            logprobs=logprobs,
            first=first,
            later=later,
            parse=None if form is None else form.parse,
            confirm=confirm,
            cancelled=cancelled,
        )
        context = self.model.args.max_position_embeddings
        return Dialogue(Backend(self._generate, self.tokenizer, context), conversation, box, settings)

    @_taking(dialogue)
    def stream(self, dialogue: Dialogue) -> Generator[Event, None, None]:
        """Answer piece by piece: events as they happen, at last `Done` with the Reply. Arguments as `dialogue`'s.

        Closing the iterator ends the work.
        """
        return dialogue.events()

    @_taking(dialogue)
    def chat(self, dialogue: Dialogue) -> Reply:
        """Answer at once; the arguments are those of `dialogue`."""
        return dialogue.reply()

    @_taking(dialogue)
    def astream(self, dialogue: Dialogue) -> AsyncGenerator[Event, None]:
        """Answer piece by piece without blocking the event loop; the arguments are those of `dialogue`."""
        return dialogue.aevents()

    @_taking(dialogue)
    async def achat(self, dialogue: Dialogue) -> Reply:
        """Answer at once without blocking the event loop; the arguments are those of `dialogue`."""
        return await dialogue.areply()

    def session(self, **settings: Any) -> ChatSession:
        """Begin a conversation that is kept from question to question; see `ChatSession` for its settings."""
        return ChatSession(self, **settings)

    def chat_widget(self, **settings: Any) -> ChatWidget:
        """Begin a conversation in a notebook, where answers are shown while they come; settings as `session`'s."""
        from .jupyter import ChatWidget

        return ChatWidget(self.session(**settings))

    def _generate(self, request: Request) -> Generator[Generated, None, None]:
        """The one place where conversations meet the engine."""
        sequence = self.engine.submit(request)
        try:
            yield from self.engine.outputs(sequence)
        finally:
            vars(request.figures).update(vars(sequence.figures))
