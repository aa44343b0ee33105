"""Random schedules: whatever happens around a sequence, its tokens are those of a fresh run by itself.

Sequences join at any step and are cancelled, drafts come true or are rewound, states are evicted from a small store,
written to a folder, and restored by an engine that begins anew; all with each kind of cache.
"""

from __future__ import annotations

from itertools import accumulate, chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from small_engine import ALONE, VOCABULARY, engine, small_chunks, tiny, tokens

from gptoss_mlx.engine import Engine, EngineOptions, Request
from gptoss_mlx.engine.drafts import LENGTHS, Costs, Speculation
from gptoss_mlx.engine.sequence import Sequence
from gptoss_mlx.sampling import SamplingParams

KINDS = ("float32", "float16", "q8", "q4")
WORDS = ([0] * 17, [1, 2, 3] * 8, [2, 0], [3, 3, 1, 0] * 4)
FEW = dict.fromkeys(range(4), 30.0)
"""A bias towards tokens that prompts are made of, so that what comes next can often be looked up, and often wrongly."""


def to_request(words: list[list[int]], temperature: float, seed: int, count: int) -> Request:
    """Prompts that begin alike, with boundaries between their words."""
    sampling = SamplingParams(temperature=temperature, seed=seed, logit_bias=FEW)
    return Request(list(chain(*words)), sampling, count, list(accumulate(map(len, words))))


REQUESTS = st.builds(
    to_request,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 9),
    st.integers(1, 30),
)
STEPS = st.one_of(
    st.tuples(st.just("join"), REQUESTS),
    st.tuples(st.just("join"), REQUESTS),
    st.tuples(st.just("step"), st.integers(1, 8)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("save"), st.none()),
    st.tuples(st.just("anew"), st.none()),
)
OPTIONS = st.fixed_dictionaries(
    {
        "prefix_bytes": st.sampled_from([0, 60_000, 200_000, 1 << 30]),
        "prompt_cache_bytes": st.sampled_from([100_000, 1 << 30]),
        "max_sequences": st.integers(1, 4),
        "speculate": st.booleans(),
    }
)


class Schedule:
    """An engine that is begun anew now and then, and all sequences that it was ever given."""

    def __init__(self, folder: Path, options: dict[str, Any], draft: int | None) -> None:
        self.folder = folder
        self.options = EngineOptions(prompt_cache=folder, **options)
        self.draft = draft
        self.joined: list[Sequence] = []
        self.anew(None)

    def anew(self, _: None) -> None:
        draft = None if self.draft is None else tiny(self.draft)
        self.engine = Engine(tiny(11), VOCABULARY, (), self.options, draft=draft, report=pytest.fail)
        self.present: list[Sequence] = []  # whose tokens somebody still wants

    def join(self, request: Request) -> None:
        self.present.append(self.engine.submit(request))
        self.joined.append(self.present[-1])

    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    def cancel(self, number: int) -> None:
        if self.present:
            self.engine.cancel(self.present.pop(number % len(self.present)))

    def save(self, _: None) -> None:
        self.engine.save()

    def finish(self) -> None:
        while self.engine.running or self.engine.waiting:
            self.engine.step()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What caches keep. Whether it pays or not, as much is drafted as there is."""

    def longest(self: Speculation, allowed: int, rows: int, costs: Costs) -> int:
        return max(length for length in LENGTHS if length <= allowed)

    small_chunks(monkeypatch)
    monkeypatch.setenv("GPTOSS_CACHE", request.param)
    monkeypatch.setattr(Speculation, "_length", longest)
    return str(request.param)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=10, max_size=40), options=OPTIONS, draft=st.sampled_from([None, None, 11, 12]))
def test_tokens_are_those_of_fresh_runs(steps: Any, options: Any, draft: int | None, kind: str) -> None:
    with TemporaryDirectory() as folder:
        schedule = Schedule(Path(folder), options, draft)
        for act, argument in steps:
            getattr(schedule, act)(argument)
        schedule.finish()
    for sequence in schedule.joined:
        wanted = tokens(engine(tiny(11), ALONE).generate(sequence.request))
        found = [step.token for step in sequence.outbox]
        assert found == wanted[: len(found)]
        if sequence in schedule.present:
            assert found == wanted
        event(f"reused: {sequence.figures.cached_tokens > 0}")
        event(f"rewound: {sequence.figures.accepted_tokens < sequence.figures.drafted_tokens}")


def test_a_schedule_restores_evicts_and_rewinds(kind: str, tmp_path: Path) -> None:
    """That the above is about something: with these options all of it happens."""
    options = {"prefix_bytes": 200_000, "prompt_cache_bytes": 1 << 30, "max_sequences": 2, "speculate": True}
    schedule = Schedule(tmp_path, options, None)
    prompts = [[first, *range(2, 62)] for first in range(12)]
    for number in (0, 0, *range(12)):
        schedule.join(Request(prompts[number], max_tokens=3))
        schedule.finish()
    states = schedule.engine.prefixes.stats.states
    schedule.save(None)
    schedule.anew(None)
    schedule.join(Request([*prompts[11], 1], max_tokens=3))
    schedule.finish()
    assert schedule.joined[-1].figures.cached_tokens == 61
    assert 0 < states < 12 * 6
    schedule.join(to_request([WORDS[1]] * 3, 1.0, 0, 30))
    schedule.finish()
    figures = schedule.joined[-1].figures
    assert 0 < figures.accepted_tokens < figures.drafted_tokens
