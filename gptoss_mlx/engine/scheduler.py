"""The scheduler: many sequences over one pass of the weights.

A step reads a chunk of one prompt, if one waits to be read, and gives every sequence that is decoding its next token,
all in one pass: sequences join and leave at every step. Of those who wait for tokens one thread leads and steps the
engine for all (module `leader`). The work itself is done in a thread of the engine's own, because MLX's arrays cannot
leave the thread that began to compute them, and sequences share them.

Warm equals cold: what a sequence gives does not depend on its company, on the sizes of chunks, on what was found in
the store of prefixes, or on drafts. On a CPU with native kernels that holds to the last bit: products of a prompt
round in one way and those of decoding in another (`kernels.rounding`), whatever stands beside them, so what a prompt
left behind serves every later prompt. What decoding left behind is not what a prompt would have left behind, and is
used again only where the two agree: in exact mode, and on a GPU as far as anything does there.
"""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

import mlx.core as mx
import numpy as np

from gptoss_mlx import kernels
from gptoss_mlx.cache import Cache, Segments
from gptoss_mlx.errors import BusyError, ContextError
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import Logits

from .draft_model import DraftModel
from .drafts import Costs, PromptLookup
from .leader import Leadership
from .options import EngineOptions
from .persist import PromptFolder
from .prefill import PREFILL_CHUNK, check_tokens
from .prefix import PrefixStore
from .request import Generated, Request
from .sequence import Sequence, number

CHECKPOINT = 4096
"""Tokens of a prompt after which its state is remembered even without a boundary."""

PATIENCE = 0.5
"""Seconds that reading a prompt may keep decoding sequences waiting per step."""

SMALLEST_CHUNK = 32


class Engine:
    """Continues sequences with one model. Any thread may ask.

    Args:
        model: any.
        vocabulary: ids that the tokenizer knows; others are never chosen.
        stop_tokens: ids that end a sequence.
        options: what the engine may take.
        fits: whether a sequence of so many tokens may be admitted now, beside those that run; raises GptOssError
            where it never could.
        draft: a smaller model with the same ids, whose guesses are verified; None looks guesses up in the text.
        fingerprint: names the model and how it computes, for the files of `options.prompt_cache`.
        report: told in one line about each file there that is ignored.

    Raises:
        GptOssError: that folder cannot be written to.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: int,
        stop_tokens: Collection[int],
        options: EngineOptions | None = None,
        fits: Callable[[int], bool] | None = None,
        *,
        draft: Model | None = None,
        fingerprint: str = "",
        report: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.model = model
        self.draft = draft
        self.options = options or EngineOptions()
        self.prefixes = PrefixStore(self.options.prefix_bytes)
        self._folder: PromptFolder | None = None
        if self.options.prompt_cache is not None:
            budget = self.options.prompt_cache_bytes
            self._folder = PromptFolder(
                self.options.prompt_cache, fingerprint, model.make_cache, budget=budget, report=report
            )
        self._vocabulary = vocabulary
        self._stop_tokens = frozenset(stop_tokens)
        self._fits = fits or (lambda _: True)
        self._lead = Leadership()
        self._queue = threading.Lock()  # held while a request finds its place in `_waiting`
        self._thread = ThreadPoolExecutor(1, "gptoss-mlx engine")
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # touched by the engine's thread alone, as are the sequences' caches
        self._dropped = False  # whether a sequence may have been cancelled since `_retire` looked
        self._costs = Costs()
        self._prefill_speed = 0.0  # tokens per second, as last seen

    @property
    def running(self) -> int:
        """Sequences that have been admitted and are not finished."""
        return len(self._running)

    @property
    def reserved(self) -> list[int]:
        """Tokens that each running sequence may reach, as far as it was told how many."""
        return [sequence.reach for sequence in self._running]

    @property
    def waiting(self) -> int:
        """Sequences that are not admitted yet."""
        return len(self._waiting)

    def check(self, request: Request) -> int:
        """Refuse what could never run, before anybody waits for it.

        Returns:
            Tokens that the context has room for behind the prompt.

        Raises:
            RequestError: the prompt is empty, too long (ContextError), or has ids that the model does not know.
            GptOssError: there can never be memory for it.
        """
        check_tokens(self.model, request.prompt)
        context, length = self.model.args.max_position_embeddings, len(request.prompt)
        if length >= context:
            raise ContextError("tokens", length, context - 1)
        self._fits(min(context, length + (request.max_tokens or 0)))
        return context - length

    def submit(self, request: Request) -> Sequence:
        """Queue a request; `outputs` gives its tokens.

        Raises:
            RequestError, GptOssError: as `check`.
            BusyError: too many wait already.
        """
        sequence = Sequence(request, self._vocabulary, self.check(request), self._stop_tokens)
        with self._queue:
            places = max(0, self.options.max_sequences - len(self._running))
            if len(self._waiting) >= self.options.max_waiting + places:
                raise BusyError(f"{len(self._waiting)} requests wait already; try again later")
            self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Let a sequence go; it takes no part in further steps. Waits for none that is under way."""
        sequence.cancel()
        self._dropped = True
        if self._lead.seize():  # else whoever leads sees to it
            self._resign()

    def outputs(self, sequence: Sequence) -> Generator[Generated, None, None]:
        """The tokens of a sequence as they come. Closing the iterator cancels what is left.

        Raises:
            GptOssError: the sequence could not go on.
            Exception: whatever the request's own `cancelled` or guide raised.
        """
        try:
            while True:
                over = sequence.is_over  # asked first: what comes from now on is looked at in the next round
                while sequence.outbox:
                    yield sequence.outbox.popleft()
                if sequence.error is not None:
                    raise sequence.error
                if over:
                    return
                if self._lead.follow(lambda: bool(sequence.outbox) or sequence.is_over):
                    self._led(self._step)
        finally:
            if not sequence.finished:
                self.cancel(sequence)

    def generate(self, request: Request) -> Generator[Generated, None, None]:
        """`submit` and `outputs` at once."""
        return self.outputs(self.submit(request))

    def save(self) -> None:
        """Write the states of prompts to the folder that `options.prompt_cache` names, if it names one.

        Raises:
            GptOssError: the disk does not take them.
        """
        folder = self._folder
        if folder is not None:
            self._lead.claim()
            self._led(lambda: folder.save(self.prefixes))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let nobody step meanwhile, for other work with the model."""
        self._lead.claim()
        try:
            self._work(lambda: None)  # a step goes on when Ctrl-C has taken its leader away
            yield
        finally:
            self._resign()

    def step(self) -> None:
        """Read a chunk of a prompt, and give every decoding sequence its next token."""
        self._lead.claim()
        self._led(self._step)

    def _led(self, act: Callable[[], None]) -> None:
        """Do something as the leader, and resign."""
        try:
            self._work(act)
        finally:
            self._resign()

    def _resign(self) -> None:
        try:
            if self._dropped:
                self._work(self._retire)
        finally:
            self._lead.resign()

    def _work(self, act: Callable[[], None]) -> None:
        """Let the engine's thread do something, as the caller's context has it (see `kernels.exactly`)."""
        self._thread.submit(copy_context().run, act).result()

    def _step(self) -> None:
        self._retire()
        self._admit()
        decoding = [sequence for sequence in self._running if sequence.is_decoding]
        reading = next((sequence for sequence in self._running if not sequence.is_decoding), None)
        if reading is not None:
            self._guarded([reading], self._read, reading, self._chunk(bool(decoding)))
            self._running.remove(reading)  # the next one's turn
            self._running.append(reading)
        if decoding:
            self._decode(decoding)
        self._retire()

    def _retire(self) -> None:
        self._dropped = False
        for sequence in [sequence for sequence in self._waiting if self._is_over(sequence)]:
            self._waiting.remove(sequence)
        for sequence in [sequence for sequence in self._running if self._is_over(sequence)]:
            if sequence.finished and not sequence.error and self._steps_serve_prompts():
                sequence.settle()
                self.prefixes.add(sequence.tokens[: sequence.offset], sequence.caches)
            self._running.remove(sequence)
            sequence.release()

    def _is_over(self, sequence: Sequence) -> bool:
        self._guarded([sequence], sequence.ask)
        return sequence.is_over

    def _steps_serve_prompts(self) -> bool:
        exact = kernels.exact() if self.model.exact is None else self.model.exact
        return exact or not kernels.native()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.options.max_sequences:
            sequence = self._waiting[0]
            if self._running and not self._fits(sequence.reach):
                return
            self._waiting.popleft()
            self._guarded([sequence], self._begin, sequence)
            if not sequence.is_over:
                self._running.append(sequence)

    def _begin(self, sequence: Sequence) -> None:
        if self._folder is not None:
            self._folder.recall(self.prefixes, sequence.tokens, sequence.prompt - 1)
        found = self.prefixes.find(sequence.tokens, sequence.prompt - 1)
        position, sequence.caches = found if found is not None else (0, self.model.make_cache())
        sequence.figures.cached_tokens = position
        if self.options.speculate:
            sequence.speculate(DraftModel(self.draft, self._vocabulary) if self.draft else PromptLookup())

    def _chunk(self, others: bool) -> int:
        if not others or not self._prefill_speed:
            return PREFILL_CHUNK if not others else SMALLEST_CHUNK
        return max(SMALLEST_CHUNK, min(PREFILL_CHUNK, int(self._prefill_speed * PATIENCE)))

    def _read(self, sequence: Sequence, chunk: int) -> None:
        """Read the next tokens of a prompt, remember the states that later prompts may want, choose the first token."""
        first, last = sequence.offset, min(sequence.offset + chunk, sequence.prompt)
        started = time.perf_counter()
        with kernels.rounding("prompt"):
            hidden = self.model.hidden(mx.array([sequence.tokens[first:last]]), sequence.caches)
        logits = self._logits(hidden[:, -1:]) if last == sequence.prompt else None
        mx.eval(hidden, [cache.state for cache in sequence.caches])
        self._prefill_speed = (last - first) / (time.perf_counter() - started)
        self._remember(sequence, first, last)
        if logits is not None:
            sequence.take(list(logits), [])

    def _remember(self, sequence: Sequence, first: int, last: int) -> None:
        if not self.options.prefix_bytes:
            return
        wanted = {*sequence.request.boundaries, *range(0, sequence.prompt, CHECKPOINT), sequence.prompt}
        for position in sorted(p for p in wanted if first < p <= last):
            states: list[Cache] = [cache.at(position) for cache in sequence.caches]
            self.prefixes.add(sequence.tokens[:position], states)

    def _decode(self, sequences: list[Sequence]) -> None:
        if len(sequences) == 1 and len(self._running) == 1 and not self._waiting and self._runs_ahead(sequences[0]):
            self._guarded(sequences, self._decode_ahead, sequences[0])
            return
        for sequence in sequences:
            self._guarded([sequence], sequence.settle)
        ready = [sequence for sequence in sequences if not sequence.finished]
        if ready:
            self._guarded(ready, self._decode_together, ready)

    def _decode_together(self, sequences: list[Sequence]) -> None:
        pending = [sequence.tokens[sequence.offset :] for sequence in sequences]
        rows = sum(map(len, pending))
        drafts = [sequence.draft(rows, self._costs) for sequence in sequences]
        parts = [tokens + drafted for tokens, drafted in zip(pending, drafts, strict=True)]
        ends = list(itertools.accumulate(map(len, parts)))
        wanted = [i for end, drafted in zip(ends, drafts, strict=True) for i in range(end - 1 - len(drafted), end)]
        started = time.perf_counter()
        hidden = self._hidden([token for part in parts for token in part], sequences, [len(part) for part in parts])
        logits = iter(self._logits(hidden[:, mx.array(wanted)] if len(wanted) < ends[-1] else hidden))
        self._costs.record(ends[-1], time.perf_counter() - started)
        for sequence, drafted in zip(sequences, drafts, strict=True):
            own = list(itertools.islice(logits, 1 + len(drafted)))
            self._guarded([sequence], sequence.take, own, drafted)

    def _hidden(self, tokens: list[int], sequences: list[Sequence], lengths: list[int]) -> mx.array:
        caches: list[Cache] | list[Segments] = sequences[0].caches
        if len(sequences) > 1:
            caches = [Segments(layer, lengths) for layer in zip(*(s.caches for s in sequences), strict=True)]
        with kernels.rounding("step"):
            return self.model.hidden(mx.array([tokens]), caches)

    def _logits(self, hidden: mx.array) -> Logits:
        """Logits (T, vocabulary) of hidden (1, T, hidden), where NumPy can see them."""
        with kernels.rounding("step"):
            return np.array(self.model.logits(hidden)[0].astype(mx.float32), copy=False)

    def _runs_ahead(self, sequence: Sequence) -> bool:
        """Whether the next step can be under way before this one's token is known."""
        cheap = kernels.on_gpu() or sequence.request.sampling.temperature == 0  # else NumPy chooses faster
        return cheap and sequence.is_plain and not sequence.wants_draft(self._costs)

    def _decode_ahead(self, sequence: Sequence) -> None:
        token, sequence.ahead = sequence.ahead, None
        if token is None:
            token = self._start(sequence, mx.array(sequence.tokens[sequence.offset :]), 0)
        if sequence.left > 1:
            sequence.ahead = self._start(sequence, token, 1)
        sequence.follow(number(token))
        if sequence.finished:
            sequence.ahead = None

    def _start(self, sequence: Sequence, tokens: mx.array, further: int) -> mx.array:
        with kernels.rounding("step"):
            logits = self.model(tokens[None], sequence.caches, positions=slice(-1, None))[0, -1]
        token = sequence.choose_lazily(logits, further)
        mx.async_eval(token)
        return token

    def _guarded(self, sequences: list[Sequence], act: Callable[..., None], *arguments: object) -> None:
        """Let what goes wrong end those whom it concerns, and nobody else."""
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001  a request's own code may raise anything; `outputs` does
            for sequence in sequences:
                sequence.fail(error)
