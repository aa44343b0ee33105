"""Prefill, decode and stop texts."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import Shape, build
from gptoss_mlx.engine import StopText, generate, prefill
from gptoss_mlx.errors import RequestError
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import Sampler, SamplingParams
from gptoss_mlx.weights import load_model

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(build(tmp_path_factory.mktemp("tiny"), Shape(seed=11)))[0]


@given(chunk=st.integers(1, 20))
@settings(max_examples=10)
def test_the_chunk_changes_nothing(chunk: int, model: Model) -> None:
    whole = np.array(prefill(model, TOKENS, model.make_cache()))
    parts = np.array(prefill(model, TOKENS, model.make_cache(), chunk=chunk))
    assert np.abs(parts - whole).max() <= 2e-5 * np.abs(whole).max()


def test_progress_of_the_prefill(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    prefill(model, TOKENS, model.make_cache(), chunk=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]


def greedy(model: Model, count: int, stop: tuple[int, ...] = ()) -> list[int]:
    sampler = Sampler(SamplingParams(temperature=0), 128)
    return [step.token for step in generate(model, TOKENS, sampler, stop_tokens=stop, max_tokens=count)]


def test_decoding_continues_as_a_fresh_pass_would(model: Model) -> None:
    found = greedy(model, 12)
    for i, token in enumerate(found):
        logits = model(mx.array([TOKENS + found[:i]]))[0, -1]
        assert int(np.argmax(np.array(logits))) == token


def test_a_stop_token_ends(model: Model) -> None:
    found = greedy(model, 12)
    stop = found[4]
    ended = greedy(model, 12, (stop,))
    assert ended == found[: found.index(stop) + 1]


def test_seeded_output_repeats(model: Model) -> None:
    runs = []
    for _ in range(2):
        sampler = Sampler(SamplingParams(seed=5), 128)
        runs.append([s.token for s in generate(model, TOKENS, sampler, stop_tokens=(), max_tokens=20)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("tokens", "says"), [([], "at least one"), ([5, 128], "128 found"), ([-1], "-1 found")])
def test_bad_tokens(model: Model, tokens: list[int], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        prefill(model, tokens, model.make_cache())


def test_more_than_the_context(model: Model) -> None:
    limit = model.args.max_position_embeddings
    with pytest.raises(RequestError, match=f"at most {limit}"):
        prefill(model, [1] * (limit + 1), model.make_cache())
    with pytest.raises(RequestError, match="max_tokens"):
        next(generate(model, TOKENS, Sampler(SamplingParams(), 128), stop_tokens=(), max_tokens=0))


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_text_streams_what_a_search_finds(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stopper = StopText(stops)
    out = ""
    for piece in pieces:
        out += stopper.push(piece)
        if stopper.hit is not None:
            break
    if stopper.hit is None:
        out += stopper.flush()
    assert not any(stop in out for stop in stops)
    assert text.startswith(out)
    if stopper.hit is None:
        assert out == text
    else:
        assert text.startswith(out + stopper.hit)


def test_stop_text_holds_back_only_beginnings() -> None:
    stopper = StopText(["END"])
    assert [stopper.push(piece) for piece in ("an E", "x", "EN", "", "De")] == ["an ", "Ex", "", "", ""]
    assert stopper.hit == "END"
