"""The engine: who joins, what is read and reused, what ends a sequence, threads, memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_engine import ALONE, MANY, REQUESTS, VOCABULARY, Alternating, engine, small_chunks, tiny, tokens

from checkpoints import Shape, build
from gptoss_mlx.engine import Engine, EngineOptions, Generated, Request, draft_model
from gptoss_mlx.engine.masks import Mask
from gptoss_mlx.errors import BusyError, GptOssError, RequestError
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.weights import load_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny(11)


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@pytest.fixture(scope="module")
def other() -> Model:
    return tiny(12)


class Failing(Alternating):
    """Gives up at its third token."""

    def mask(self) -> Mask:
        if len(self.taken) >= 5:
            raise RequestError("guide: lost")
        return super().mask()


def test_a_prompt_is_read_once(model: Model) -> None:
    shared = engine(model, MANY)
    first = [int(t) for t in np.random.default_rng(0).integers(0, VOCABULARY, 100)]
    list(shared.generate(Request(first, SamplingParams(temperature=0), 5, boundaries=[80])))
    again = shared.submit(Request([*first[:90], 1, 2, 3], SamplingParams(temperature=0), 5))
    list(shared.outputs(again))
    assert again.figures.cached_tokens == 90  # a checkpoint
    more = shared.submit(Request([*first, 7, 7], SamplingParams(temperature=0), 5))
    list(shared.outputs(more))
    assert more.figures.cached_tokens == 100


@pytest.mark.parametrize("exact", [True, False])
def test_what_decoding_left_is_reused_only_where_it_is_what_a_prompt_leaves(
    exact: bool, model: Model, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "exact", exact)
    shared, prompt = engine(model, MANY), [1, 2, 3, 4, 5, 6, 7, 8]
    found = tokens(shared.generate(Request(prompt, SamplingParams(seed=1), 12)))
    again = shared.submit(Request([*prompt, *found, 9], SamplingParams(seed=1), 3))
    assert tokens(shared.outputs(again)) == tokens(engine(model, ALONE).generate(again.request))
    assert again.figures.cached_tokens == (len(prompt) + len(found) - 1 if exact else len(prompt))


def test_repetitions_are_drafted_and_accepted(model: Model) -> None:
    shared = engine(model, EngineOptions(prefix_bytes=0))
    forced = SamplingParams(temperature=0, logit_bias={5: 1e4})
    sequence = shared.submit(Request([5] * 30, forced, 60))
    assert tokens(shared.outputs(sequence)) == [5] * 60
    assert sequence.figures.accepted_tokens > 20


def test_a_stop_token_ends(model: Model) -> None:
    request = Request([1, 2, 3], SamplingParams(temperature=0), 40)
    found = tokens(engine(model).generate(request))
    stop = found[7]
    steps = list(engine(model, stop=[stop]).generate(request))
    assert [step.token for step in steps] == found[: found.index(stop) + 1]
    assert [step.stopped for step in steps] == [False] * found.index(stop) + [True]


def test_the_context_s_end_ends(tmp_path: Any) -> None:
    model = load_model(build(tmp_path, Shape(seed=1)))[0]
    model.args = replace(model.args, max_position_embeddings=40)
    assert len(tokens(engine(model).generate(Request([1] * 33)))) == 7
    with pytest.raises(RequestError, match="at most 39 tokens fit"):
        engine(model).submit(Request([1] * 40))


def test_what_goes_wrong_with_one_sequence_ends_that_one(model: Model) -> None:
    shared = engine(model, MANY)
    request = Request([4, 5, 6], SamplingParams(seed=9), 20)
    good = shared.submit(request)
    with pytest.raises(GptOssError, match="lost"):
        list(shared.generate(Request([1, 2, 3], guide=Failing(), max_tokens=20)))
    assert tokens(shared.outputs(good)) == tokens(engine(model, ALONE).generate(request))
    assert shared.running == 0


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_logprobs_are_those_of_a_fresh_pass(count: int, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "exact", True)
    request = Request([1, 2, 3, 4], SamplingParams(temperature=0.8, seed=3), 6, logprobs=count)
    steps = list(engine(model).generate(request))
    for i, step in enumerate(steps):
        prefix = [1, 2, 3, 4, *(earlier.token for earlier in steps[:i])]
        logits = np.array(model(mx.array([prefix]))[0, -1]).astype(np.float64)
        wanted = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert step.logprobs is not None
        assert step.logprobs.logprob == pytest.approx(wanted[step.token], abs=1e-5)
        assert len(step.logprobs.top) == count
        assert [t for t, _ in step.logprobs.top] == np.argsort(-wanted)[:count].tolist()
        assert [p for _, p in step.logprobs.top] == pytest.approx(np.sort(wanted)[::-1][:count], abs=1e-5)


def test_what_is_forced_has_logprobs_as_well(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "exact", True)
    request = Request([1, 2, 3], SamplingParams(seed=2), 9)
    for count in (3, 9):  # it ends within what is forced, or behind it
        request = replace(request, max_tokens=count)
        plain = list(engine(model).generate(replace(request, guide=Alternating())))
        steps = list(engine(model).generate(replace(request, guide=Alternating(), logprobs=2)))
        assert [replace(step, logprobs=None) for step in steps] == plain
        free = list(engine(model).generate(replace(request, prompt=[1, 2, 3, plain[0].token], logprobs=20)))
        assert steps[1].logprobs is not None
        assert free[0].logprobs is not None
        assert np.allclose(steps[1].logprobs.top, free[0].logprobs.top[:2], atol=1e-5)
        assert all(step.logprobs is not None and step.logprobs.token == step.token for step in steps)


def test_what_is_forced_is_no_guess(model: Model) -> None:
    shared = engine(model, EngineOptions(prefix_bytes=0))
    sequence = shared.submit(Request([1, 2, 3], SamplingParams(seed=2), 9, guide=Alternating(), logprobs=0))
    assert len(list(shared.outputs(sequence))) == 9
    assert sequence.figures.accepted_tokens <= sequence.figures.drafted_tokens <= 5


def test_closing_the_iterator_frees_the_place(model: Model) -> None:
    shared = engine(model)
    steps = shared.generate(Request([1, 2, 3], max_tokens=100))
    next(steps)
    assert shared.running == 1
    steps.close()
    assert shared.running == shared.waiting == 0


def test_what_nobody_wants_any_more_is_dropped_by_whoever_drives(model: Model) -> None:
    shared, gone = engine(model, MANY), False
    unwanted = shared.submit(Request([1, 2, 3], max_tokens=100, cancelled=lambda: gone))
    wanted = shared.generate(Request([4, 5], max_tokens=6))
    next(wanted)
    assert shared.running == 2
    gone = True
    next(wanted)
    assert shared.running == 1
    assert len(list(wanted)) == 4
    assert len(list(shared.outputs(unwanted))) < 6


def test_threads_may_go_on_with_what_others_left(model: Model) -> None:
    shared, requests = engine(model), [Request([*range(20), i], SamplingParams(seed=i), 5) for i in range(3)]
    found: list[list[int]] = []
    for request in requests:
        thread = threading.Thread(target=lambda r=request: found.append(tokens(shared.generate(r))))
        thread.start()
        thread.join()
    assert found == [tokens(engine(model, ALONE).generate(request)) for request in requests]


def within(seconds: float, act: Callable[[], object]) -> bool:
    """Whether something is done in time, by a thread of its own."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


class Once:
    """Asked whether a request is cancelled, it does something in the middle of a step, once."""

    def __init__(self, act: Callable[[], object], at: int = 2) -> None:
        self.act, self.at, self.asked = act, at, 0

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == self.at:
            self.act()
        return False


def test_a_token_that_comes_between_two_looks_is_not_lost(model: Model) -> None:
    shared = engine(model)
    sequence = shared.submit(Request([1, 2, 3], max_tokens=1))

    class Slow(deque[Generated]):
        def __bool__(self) -> bool:
            found = len(self) > 0
            if not found and not sequence.finished:
                shared.step()
            return found

    sequence.outbox = Slow()
    assert len(list(shared.outputs(sequence))) == 1


def test_a_request_joins_while_a_step_is_under_way(model: Model) -> None:
    shared, in_time = engine(model), list[bool]()
    join = Once(lambda: in_time.append(within(10, lambda: shared.submit(Request([1, 2], max_tokens=50)))))
    assert len(list(shared.generate(Request([1, 2, 3], max_tokens=8, cancelled=join)))) == 8
    assert in_time == [True]
    assert shared.running == 1


def test_an_iterator_may_be_closed_from_within_a_step(model: Model) -> None:
    """As by the garbage collector, which runs in whatever thread it likes."""
    shared = engine(model)
    gone = shared.generate(Request([4, 5], max_tokens=50))
    next(gone)
    close = Once(gone.close)
    assert within(10, lambda: list(shared.generate(Request([1, 2, 3], max_tokens=8, cancelled=close))))
    assert close.asked > 2
    assert shared.running == 0


def test_the_thread_that_pauses_cannot_step(model: Model) -> None:
    shared = engine(model)
    waiting = shared.generate(Request([1, 2], max_tokens=3))
    with shared.paused(), pytest.raises(RuntimeError, match="paused by the thread"):
        next(waiting)
    with shared.paused(), pytest.raises(RuntimeError, match="paused by the thread"):
        shared.step()
    assert shared.running == shared.waiting == 0


def test_a_pause_comes_in_time_and_holds(model: Model) -> None:
    shared, steps = engine(model), list[int]()
    running = shared.submit(Request([1, 2, 3], max_tokens=400))
    thread = threading.Thread(target=lambda: list(shared.outputs(running)))
    thread.start()
    for _ in range(5):
        with shared.paused():
            steps.append(running.figures.generated_tokens)
            time.sleep(0.002)
            assert running.figures.generated_tokens == steps[-1]
    thread.join()
    assert steps[0] < 400


def raising() -> bool:
    raise ZeroDivisionError("asked")


def test_a_request_whose_own_code_fails_ends_alone(model: Model) -> None:
    shared = engine(model, MANY)
    request = Request([4, 5, 6], SamplingParams(seed=9), 20)
    good, bad = shared.submit(request), shared.submit(Request([1, 2, 3], max_tokens=20, cancelled=raising))
    assert tokens(shared.outputs(good)) == tokens(engine(model, ALONE).generate(request))
    with pytest.raises(ZeroDivisionError, match="asked"):
        list(shared.outputs(bad))
    assert shared.running == 0


def test_a_pass_that_fails_ends_those_in_it_and_nobody_else(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, request = engine(model, ALONE), Request([1, 2, 3], SamplingParams(seed=1), 20)
    both = [shared.submit(request), shared.submit(replace(request, prompt=[4, 5, 6]))]
    for _ in range(4):
        shared.step()
    later = shared.submit(request)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_logits", lambda *_: 1 / 0)
        patch.setattr(Engine, "_read", lambda *_: None)
        shared.step()
    for sequence in both:
        with pytest.raises(ZeroDivisionError):
            list(shared.outputs(sequence))
    assert tokens(shared.outputs(later)) == tokens(engine(model, ALONE).generate(request))


def test_a_full_queue_refuses(model: Model) -> None:
    shared = engine(model, EngineOptions(max_sequences=1, max_waiting=2))
    held = [shared.submit(Request([1], max_tokens=3)) for _ in range(3)]
    with pytest.raises(BusyError, match="3 requests wait"):
        shared.submit(Request([1]))
    for sequence in held:
        assert len(tokens(shared.outputs(sequence))) == 3
    assert len(tokens(shared.generate(Request([1], max_tokens=3)))) == 3


def test_memory_decides_who_is_admitted(model: Model) -> None:
    running: list[int] = []

    def fits(count: int) -> bool:
        if count > 50:
            raise RequestError(f"context: {count} tokens do not fit")
        return len(running) == 0

    shared = Engine(model, VOCABULARY, (), None, fits)
    with pytest.raises(RequestError, match="60 tokens do not fit"):
        shared.submit(Request([1] * 50, max_tokens=10))
    first, second = (shared.submit(Request([1], max_tokens=5)) for _ in range(2))
    running.append(1)
    shared.step()
    assert (shared.running, shared.waiting) == (1, 1)
    running.clear()
    assert [len(tokens(shared.outputs(s))) for s in (first, second)] == [5, 5]


def test_threads_share_the_engine(model: Model) -> None:
    shared = engine(model, MANY)
    requests = [Request([i, i + 1], SamplingParams(seed=i), 25) for i in range(8)]
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i, r=r: found.__setitem__(i, tokens(shared.generate(r))))
        for i, r in enumerate(requests)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == [tokens(engine(model, ALONE).generate(r)) for r in requests]


def test_a_long_prompt_does_not_stall_others(model: Model) -> None:
    shared = engine(model, MANY)
    quick = shared.submit(Request([1, 2], max_tokens=30))
    shared.step()
    slow = shared.submit(Request([1] * 300, max_tokens=1))
    for _ in range(12):
        shared.step()
    assert len(quick.outbox) >= 13
    assert not slow.outbox


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: Request([1], max_tokens=0), "max_tokens"),
        (lambda: Request([1], logprobs=21), "logprobs: 0 to 20"),
        (lambda: EngineOptions(max_sequences=0), "max_sequences"),
        (lambda: EngineOptions(prefix_bytes=-1), "prefix_bytes"),
    ],
)
def test_out_of_range(bad: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        bad()


@settings(max_examples=25, deadline=None)
@given(request=REQUESTS, own=st.booleans())
def test_a_draft_model_changes_no_token(request: Request, own: bool, model: Model, other: Model) -> None:
    """Neither the model itself, whose guesses are right, nor another one, whose guesses are not."""
    drafting = Engine(model, VOCABULARY, (), EngineOptions(prefix_bytes=0), draft=model if own else other)
    sequence = drafting.submit(request)
    assert tokens(drafting.outputs(sequence)) == tokens(engine(model, ALONE).generate(request))


def test_a_draft_model_reads_a_long_prompt_in_parts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it stalls nobody; its guesses are right from then on."""
    monkeypatch.setattr(draft_model, "PREFILL_CHUNK", 8)
    drafter, prompt = draft_model.DraftModel(model, VOCABULARY), list(range(30))
    found = tokens(engine(model, ALONE).generate(Request(prompt, SamplingParams(temperature=0), 6)))
    assert [drafter.draft([*prompt, found[0]], 3) for _ in range(4)] == [[], [], [], found[1:4]]
    assert drafter.draft([*prompt, *found[:3]], 3) == found[3:6]
    assert drafter.draft([*prompt, *found[:3], found[3] + 1, 5], 3) != found[3:6]
    again = draft_model.DraftModel(model, VOCABULARY)
    while not (guess := again.draft([*prompt, *found[:3], found[3] + 1, 5], 3)):
        pass
    assert drafter.draft([*prompt, *found[:3], found[3] + 1, 5], 3) == guess


def test_good_guesses_of_a_draft_model_are_accepted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_mlx.engine.drafts.MARGIN", 0.0)
    drafting = Engine(model, VOCABULARY, (), EngineOptions(prefix_bytes=0), draft=model)
    sequence = drafting.submit(Request([1, 2, 3], SamplingParams(temperature=0), 60))
    list(drafting.outputs(sequence))
    assert sequence.figures.accepted_tokens == sequence.figures.drafted_tokens > 10
