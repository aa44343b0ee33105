"""The public API on a random model: what comes out is consistent, whatever the model says."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import Conversation, GptOss, Reply, SamplingParams
from gptoss_mlx.errors import ModelNotFoundError, RequestError, TokenizerError
from gptoss_mlx.events import Done, Event, TextDelta
from gptoss_mlx.harmony import Message, Role
from toy import write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> GptOss:
    return gptoss_mlx.load(write_toy(tmp_path_factory.mktemp("toy")))


def reply_of(events: list[Event]) -> gptoss_mlx.Reply:
    last = events[-1]
    assert isinstance(last, Done)
    return last.reply


def test_names_are_few() -> None:
    assert gptoss_mlx.__all__ == [
        "Conversation", "GptOss", "GptOssError", "Message", "Reply", "SamplingParams", "__version__", "load",
    ]  # fmt: skip
    assert all(hasattr(gptoss_mlx, name) for name in gptoss_mlx.__all__)


@given(seed=st.integers(0, 10_000), effort=st.sampled_from(["low", "medium", "high"]))
@settings(max_examples=15)
def test_random_output_becomes_messages(toy: GptOss, seed: int, effort: str) -> None:
    sampling = SamplingParams(seed=seed, temperature=3.0)
    events = list(toy.stream("hello", effort=effort, sampling=sampling, max_tokens=40, date=None))
    reply = reply_of(events)
    assert all(isinstance(message, Message) for message in reply.messages)
    assert "".join(e.text for e in events if isinstance(e, TextDelta) and e.channel == "final") == "".join(
        m.text for m in reply.messages if m.channel == "final" and m.recipient is None
    )
    again = toy.chat("hello", effort=effort, sampling=sampling, max_tokens=40, date=None)
    assert again.messages == reply.messages
    for message in reply.messages:
        assert message.role in Role
        assert "<|" not in message.text


def test_a_second_turn_goes_on(toy: GptOss) -> None:
    said = (Message.assistant("I think.", "analysis"), Message.assistant("Paris."))
    second = toy.chat(Conversation((Message.user("q"), *said, Message.user("And?"))), max_tokens=5)
    roles = [m.role for m in second.conversation][:5]
    assert roles == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.ASSISTANT, Role.USER]


def test_every_form_takes_the_same_and_says_so(toy: GptOss) -> None:
    options: dict[str, Any] = {"sampling": SamplingParams(seed=2), "max_tokens": 30, "date": None}
    expected = toy.chat("hello", **options)

    async def ask() -> tuple[list[Event], Reply]:
        events = [event async for event in toy.astream("hello", **options)]
        return events, await toy.achat("hello", **options)

    events, reply = asyncio.run(ask())
    assert expected.messages == reply.messages == reply_of(events).messages
    wanted = list(inspect.signature(toy.dialogue).parameters)
    for form in (toy.stream, toy.chat, toy.astream, toy.achat):
        assert list(inspect.signature(form).parameters) == wanted
        assert "dialogue" in (form.__doc__ or "")
        with pytest.raises(TypeError, match="efort"):
            form("hello", efort="low")  # type: ignore[call-arg]


def test_logprobs_come_with_the_text(toy: GptOss) -> None:
    options: dict[str, Any] = {"sampling": SamplingParams(seed=2), "max_tokens": 30, "date": None}
    events = list(toy.stream("hello", logprobs=3, **options))
    told = [entry for event in events if isinstance(event, TextDelta) for entry in event.logprobs]
    assert told
    for entry in told:
        assert len(entry.top) == 3
        assert 0 >= entry.top[0][1] >= entry.logprob
    plain = list(toy.stream("hello", **options))
    assert reply_of(plain).messages == reply_of(events).messages
    assert not any(event.logprobs for event in plain if isinstance(event, TextDelta))


def test_generate_yields_the_text_of_its_tokens(toy: GptOss) -> None:
    prompt = toy.tokenizer.encode("the json")
    tokens = list(toy.generate(prompt, SamplingParams(seed=4), max_tokens=50))
    ids = [token.id for token in tokens if token.id not in toy.tokenizer.stop_tokens]
    assert "".join(token.text for token in tokens) == toy.tokenizer.decode(ids)
    assert all(token.id < toy.tokenizer.size for token in tokens)


def test_generate_stops_before_a_stop_text(toy: GptOss) -> None:
    prompt = toy.tokenizer.encode("the json")
    whole = "".join(t.text for t in toy.generate(prompt, SamplingParams(seed=4), max_tokens=50))
    stop = whole[20:23]
    params = SamplingParams(seed=4, stop=(stop,))
    cut = "".join(t.text for t in toy.generate(prompt, params, max_tokens=50))
    assert cut == whole[: whole.index(stop)]


def test_logits_of_every_position(toy: GptOss) -> None:
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 400, 700)]  # longer than one chunk
    logits = toy.logits(tokens)
    assert logits.shape == (700, 400)
    assert logits.dtype.name == "float32"
    assert np.abs(toy.logits(tokens[:600])[-1] - logits[599]).max() <= 2e-5 * np.abs(logits).max()
    with pytest.raises(RequestError):
        toy.logits([400])


def test_a_prompt_that_does_not_fit(toy: GptOss) -> None:
    with pytest.raises(RequestError, match="shorten the conversation"):
        toy.chat("x" * 140_000, max_tokens=1)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        gptoss_mlx.load("nobody/nothing-here")
    with pytest.raises(TokenizerError):
        gptoss_mlx.load(tmp_path)
    with pytest.raises(TokenizerError, match="only 100"):
        gptoss_mlx.load(write_toy(tmp_path, vocab=100))
