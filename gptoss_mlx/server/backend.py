"""What the interfaces ask of a model, whichever it is and wherever it runs: the door between HTTP and the runtime.

An interface turns its request into a `TurnRequest`, a backend answers with the events of `gptoss_mlx.events`, and the
interface turns these into its reply. `local.LocalBackend` is the real one; tests have a scripted one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.events import Event
from gptoss_mlx.harmony.message import FUNCTIONS
from gptoss_mlx.history import History
from gptoss_mlx.runtime import Token
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import RunnableTool

T = TypeVar("T")


@dataclass(frozen=True)
class TurnRequest:
    """Everything that a reply needs, whatever interface asked for it. See `GptOss.dialogue` for what things mean."""

    messages: History
    effort: str | None = None
    instructions: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    """Functions whose calls the client answers, `{"type": "function", "function": {"name": ...}}`; `strict` in the
    latter holds arguments to the schema `parameters`."""
    built_in: Sequence[RunnableTool] = ()
    """What runs here, between the model's turns."""
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or the name of the function to call."""
    parallel_calls: bool = True
    """Whether the client takes more than one call at a time."""
    response_format: Any = None
    """What the answer must be, in OpenAI's form (`json_object`, `json_schema`); None: any text."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """Tokens of the whole reply at most, thoughts included; None: the backend's own limit."""
    reasoning_budget: int | None = None
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each token of the text; None: nothing."""
    date: str | None = "today"

    def is_for_client(self, recipient: str) -> bool:
        """Whether a call to `recipient` is the client's to answer; others are answered here."""
        declared = {f"{FUNCTIONS}.{tool['function']['name']}" for tool in self.tools}
        return recipient in declared


@dataclass(frozen=True)
class CompletionRequest:
    """Raw tokens to be continued, without harmony."""

    tokens: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each token; None: nothing."""


@dataclass(frozen=True)
class Load:
    """What a backend is doing."""

    loaded: bool = True
    """Whether the weights are in memory."""
    running: int = 0
    """Sequences that the engine is working on."""
    waiting: int = 0
    """Sequences that wait for a place."""


class Stream(Generic[T]):
    """Items of work that holds a place until it is over; `aclose` ends it early. A context manager that closes it.

    Args:
        items: the work. It need not have begun when it is closed.
        release: called once, at its end.
    """

    def __init__(self, items: AsyncGenerator[T, None], release: Callable[[], None] | None = None) -> None:
        self._items = items
        self._ends = [] if release is None else [release]
        self._watchers: list[Callable[[T], None]] = []

    def watch(self, see: Callable[[T], None], ended: Callable[[], None]) -> Stream[T]:
        """Let somebody see every item, and know when it is over; returns this stream."""
        self._watchers.append(see)
        self._ends.append(ended)
        return self

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            item = await self._items.__anext__()
        except BaseException:  # the end, an error, or a client that has gone: whatever it is, it is over
            self._end()
            raise
        for see in self._watchers:
            see(item)
        return item

    async def aclose(self) -> None:
        """End the work."""
        try:
            await self._items.aclose()
        finally:
            self._end()

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _end(self) -> None:
        while self._ends:
            self._ends.pop()()


class Backend(Protocol):
    """A model that answers."""

    @property
    def model_id(self) -> str:
        """What clients call it."""

    @property
    def created(self) -> int:
        """When its files were made, in seconds since 1970."""

    @property
    def context(self) -> int:
        """Tokens that a prompt and its continuation may have together."""

    @property
    def places(self) -> int:
        """Sequences that it takes at once, those that wait included."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; there without its weights."""

    @property
    def load(self) -> Load:
        """What it is doing."""

    async def prompt(self, request: TurnRequest) -> list[int]:
        """The prompt that `request` makes.

        Raises:
            RequestError, HarmonyError: it cannot be rendered.
        """

    async def start(self, request: TurnRequest) -> Stream[Event]:
        """Check a request, take a place for it, and give its events, the last of which is `Done`.

        Whoever gets the stream closes it. What can be known to be wrong is raised here, before there is any event.

        Raises:
            RequestError, HarmonyError: it cannot be rendered, enforced, or does not fit.
            ApiError: there could never be memory for it.
            BusyError: too many wait already.
            GptOssError: the model cannot be loaded.
        """

    async def complete(self, request: CompletionRequest) -> Stream[Token]:
        """The same for raw tokens."""

    async def score(self, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Log-probabilities of all `tokens` but the first under those before them, with the `top` likeliest ones.

        Raises:
            RequestError, BusyError, GptOssError: as `start`.
        """

    async def unload_if_idle(self, seconds: float) -> bool:
        """Let the weights go if nothing has been asked for so long; the next request loads them again."""

    async def close(self) -> None:
        """Let everything go."""
