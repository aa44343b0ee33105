"""The public API on a random model: what comes out is consistent, whatever the model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import GptOss, SamplingParams
from gptoss_mlx.errors import ModelNotFoundError, RequestError, TokenizerError
from gptoss_mlx.events import CallDelta, Done, Event, TextDelta
from gptoss_mlx.harmony import Message, Role
from toy import write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> GptOss:
    return gptoss_mlx.load(write_toy(tmp_path_factory.mktemp("toy")))


def biased(toy: GptOss, text: str, names: tuple[str, ...]) -> list[int]:
    """Tokens of a text with the named control tokens put between its pieces (cut at `|`)."""
    tokens: list[int] = []
    for piece in text.split("|"):
        tokens += [toy.tokenizer.special[f"<|{piece}|>"]] if piece in names else toy.tokenizer.encode(piece)
    return tokens


class Scripted:
    """Stands in for the sampler: says given tokens, then ends."""

    def __init__(self, tokens: list[int]) -> None:
        self.left = list(tokens)

    def choose(self, *_: object) -> int:
        return self.left.pop(0)


def scripted(toy: GptOss, monkeypatch: pytest.MonkeyPatch, text: str, **options: object) -> list[Event]:
    names = ("start", "end", "message", "channel", "constrain", "return", "call")
    tokens = biased(toy, text, names)
    monkeypatch.setattr("gptoss_mlx.engine.sequence.Sampler", lambda params, size: Scripted(tokens))
    return list(toy.stream("q", max_tokens=len(tokens), **options))  # type: ignore[arg-type]


def reply_of(events: list[Event]) -> gptoss_mlx.Reply:
    last = events[-1]
    assert isinstance(last, Done)
    return last.reply


THOUGHT = "|channel|analysis|message|I think.|end||start|assistant"


def test_names_are_few() -> None:
    assert gptoss_mlx.__all__ == [
        "Conversation", "GptOss", "GptOssError", "Message", "Reply", "SamplingParams", "__version__", "load",
    ]  # fmt: skip
    assert all(hasattr(gptoss_mlx, name) for name in gptoss_mlx.__all__)


def test_an_answer_with_thoughts(toy: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    events = scripted(toy, monkeypatch, THOUGHT + "|channel|final|message|Paris é 日本.|return|")
    reply = reply_of(events)
    assert (reply.analysis, reply.final, str(reply)) == ("I think.", "Paris é 日本.", "Paris é 日本.")
    assert reply.finish_reason == "stop"
    assert [m.channel for m in reply.messages] == ["analysis", "final"]
    assert reply.conversation.messages[-2:] == reply.messages
    for channel, text in (("analysis", reply.analysis), ("final", reply.final)):
        deltas = [event.text for event in events if isinstance(event, TextDelta) and event.channel == channel]
        assert "".join(deltas) == text
        assert len(deltas) > 1
    assert 0 < reply.usage.reasoning_tokens < reply.usage.completion_tokens
    assert "<details>" in reply._repr_markdown_()


def test_a_call(toy: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = {"name": "tide", "description": "Tide."}
    text = '|channel|commentary to=functions.tide |constrain|json|message|{"port":"BES"}|call|'
    events = scripted(toy, monkeypatch, THOUGHT + text, tools=[tool])
    reply = reply_of(events)
    assert [(call.name, call.arguments) for call in reply.calls] == [("tide", '{"port":"BES"}')]
    assert (reply.final, reply.finish_reason) == ("", "tool_calls")
    assert "".join(e.text for e in events if isinstance(e, CallDelta)) == '{"port":"BES"}'


def test_cut_off(toy: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = reply_of(scripted(toy, monkeypatch, THOUGHT + "|channel|final|message|It is"))
    assert (reply.final, reply.finish_reason) == ("It is", "length")
    reply = reply_of(scripted(toy, monkeypatch, "|channel|analysis|message|It is"))
    assert (reply.final, reply.analysis, reply.finish_reason) == ("", "It is", "length")


def test_stop_texts_apply_to_the_answer_only(toy: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "|channel|analysis|message|no STOP here|end||start|assistant|channel|final|message|one STOP two|return|"
    events = scripted(toy, monkeypatch, text, sampling=SamplingParams(stop=["STOP"]))
    reply = reply_of(events)
    assert (reply.analysis, reply.final, reply.finish_reason) == ("no STOP here", "one ", "stop")
    assert "".join(e.text for e in events if isinstance(e, TextDelta) and e.channel == "final") == "one "


def test_markup_never_reaches_the_answer(toy: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (
        "|channel|final hello|return|",
        "|message|hello|return|",
        "hello|end|",
        "|channel|final|message|hello",
    ):
        reply = reply_of(scripted(toy, monkeypatch, broken))
        assert reply.final == "hello", broken


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


def test_a_second_turn_goes_on(toy: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reply_of(scripted(toy, monkeypatch, THOUGHT + "|channel|final|message|Paris.|return|"))
    monkeypatch.undo()
    second = toy.chat(first.conversation.adding(Message.user("And?")), max_tokens=5)
    roles = [m.role for m in second.conversation][:5]
    assert roles == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.ASSISTANT, Role.USER]


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
