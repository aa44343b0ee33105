"""What comes out depends on nothing but the request: not on company, chunks, reuse, restores or drafts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_engine import ALONE, MANY, REQUESTS, engine, plain_loop, small_chunks, tiny, tokens

from gptoss_mlx.engine import Request
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import SamplingParams


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny(11)


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@settings(max_examples=30)
@given(request=REQUESTS)
def test_one_sequence_is_the_plain_loop(request: Request, model: Model) -> None:
    assert tokens(engine(model, ALONE).generate(request)) == plain_loop(model, request)


@settings(max_examples=40, deadline=None)
@given(requests=st.lists(st.tuples(REQUESTS, st.integers(0, 6), st.booleans()), min_size=1, max_size=6), data=st.data())
def test_company_reuse_and_drafts_change_no_token(requests: list[Any], data: st.DataObject, model: Model) -> None:
    """Sequences that join at random steps, some cancelled on the way, with a store that all of them fill and use."""
    shared, joined = engine(model, MANY), []
    for request, later, cancelled in requests:
        for _ in range(later):
            shared.step()
        sequence = shared.submit(request)
        joined.append((request, sequence, cancelled))
        if cancelled:
            for _ in range(data.draw(st.integers(0, 5))):
                shared.step()
            shared.cancel(sequence)
    while shared.running or shared.waiting:
        shared.step()
    for request, sequence, cancelled in joined:
        wanted = tokens(engine(model, ALONE).generate(request))
        found = [step.token for step in sequence.outbox]
        assert found == wanted[: len(found)]
        assert cancelled or found == wanted


@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=2, max_size=5), data=st.data())
def test_later_turns_reuse_and_give_what_a_fresh_run_gives(turns: Any, data: st.DataObject, model: Model) -> None:
    """A conversation that grows, and that goes back behind what was said, as harmony does with old thoughts."""
    shared = engine(model, MANY)
    prompt: list[int] = []
    boundaries: list[int] = []
    for turn in turns:
        prompt = prompt[: data.draw(st.sampled_from([0, *boundaries, len(prompt)]))]
        boundaries = [b for b in boundaries if b < len(prompt)] + [len(prompt)]
        prompt = [*prompt, *turn]
        request = Request(prompt, SamplingParams(seed=1), 9, boundaries)
        found = tokens(shared.generate(request))
        assert found == tokens(engine(model, ALONE).generate(request))
        prompt = prompt + found
