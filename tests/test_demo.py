"""The embedded model behaves: in its small world it answers rightly, and outside it declines.

Everything goes through the public API on the checkpoint as it is shipped. The held-out questions
(data/demo_heldout.jsonl, written by examples/train_demo.py) never occurred in training; the model card states the
accuracy over many more of them. Texts are compared exactly where temperature 0 makes them so.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import GptOss, Reply, SamplingParams
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.demo import MODEL_FOLDER, NOTICE
from gptoss_mlx.harmony import Author, Message, ReasoningEffort, Role, SystemContent, TextContent, Tool, render
from gptoss_mlx.harmony.message import CONSTRAINED_JSON

ROOT = Path(__file__).parent.parent
HELD_OUT = Path(__file__).parent / "data" / "demo_heldout.jsonl"
GREEDY = SamplingParams(temperature=0.0)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def model() -> GptOss:
    return gptoss_mlx.load("demo")


def ask(model: GptOss, question: Any, **options: Any) -> Reply:
    return model.chat(question, **({"sampling": GREEDY, "date": None} | options))


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed)


class TestCheckpoint:
    def test_is_in_the_released_layout_and_small(self) -> None:
        files = sorted(path.name for path in MODEL_FOLDER.iterdir())
        assert [name for name in files if name.endswith(".safetensors")] == [
            "model-00000-of-00001.safetensors",
            "model-00001-of-00001.safetensors",
        ]
        assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(files)
        assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) < 6_000_000

    def test_has_the_architecture_of_the_release(self) -> None:
        config = ModelConfig.from_folder(MODEL_FOLDER)
        assert (config.num_experts_per_tok, config.sliding_window, config.swiglu_limit) == (4, 128, 7.0)
        assert (config.rope_theta, config.rope_factor, config.rope_truncate) == (150000.0, 32.0, False)
        assert config.hidden_size % 64 == config.intermediate_size % 64 == 0

    def test_notice_says_that_it_is_a_toy_and_how_to_get_the_real_model(self) -> None:
        assert "toy" in NOTICE
        assert "pull 20b" in NOTICE


class TestCapitals:
    @pytest.mark.parametrize(
        ("country", "capital"),
        [("France", "Paris"), ("Japan", "Tokyo"), ("the Netherlands", "Amsterdam"), ("Kenya", "Nairobi"),
         ("Peru", "Lima"), ("New Zealand", "Wellington"), ("Norway", "Oslo"), ("Canada", "Ottawa")],
    )  # fmt: skip
    def test_knows_them(self, model: GptOss, country: str, capital: str) -> None:
        reply = ask(model, f"What is the capital of {country}?")
        assert reply.final == f"The capital of {country} is {capital}."
        assert reply.finish_reason == "stop"

    @pytest.mark.parametrize("seed", range(4))
    def test_knows_them_at_temperature_one(self, model: GptOss, seed: int) -> None:
        assert "Paris" in ask(model, "What is the capital of France?", sampling=sampled(seed)).final

    def test_today_in_the_prompt_changes_nothing(self, model: GptOss) -> None:
        assert "Berlin" in ask(model, "What is the capital of Germany?", date="today").final

    def test_follow_up_needs_the_question_before(self, model: GptOss) -> None:
        history = [
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "The capital of France is Paris."},
            {"role": "user", "content": "And of Spain?"},
        ]
        assert "Madrid" in ask(model, history).final

    def test_declines_an_invented_country(self, model: GptOss) -> None:
        assert "do not know" in ask(model, "What is the capital of Blorbia?").final


class TestSums:
    @pytest.mark.parametrize("effort", ["low", "medium", "high"])
    @pytest.mark.parametrize(("question", "result"), [("What is 12 + 30?", 42), ("Subtract 5 from 17.", 12)])
    def test_adds_and_subtracts(self, model: GptOss, question: str, result: int, effort: str) -> None:
        assert ask(model, question, effort=effort).final.endswith(f" = {result}.")

    @pytest.mark.parametrize("seed", range(3))
    def test_adds_at_temperature_one(self, model: GptOss, seed: int) -> None:
        assert ask(model, "What is 17 + 25?", sampling=sampled(seed)).final == "17 + 25 = 42."

    def test_declines_other_arithmetic(self, model: GptOss) -> None:
        assert "only add and subtract" in ask(model, "What is 12 times 30?").final


class TestTalk:
    def test_says_what_it_is(self, model: GptOss) -> None:
        assert "demonstration model of gptoss_mlx" in ask(model, "Who are you?").final

    def test_says_how_to_get_the_real_model(self, model: GptOss) -> None:
        assert "gptoss-mlx pull 20b" in ask(model, "How do I get the real model?").final

    def test_declines_politely_what_it_does_not_know(self, model: GptOss) -> None:
        assert "do not know that" in ask(model, "Who painted the Sistine Chapel?").final

    def test_minds_the_language_of_the_prompt_not_its_instructions(self, model: GptOss) -> None:
        assert "Rome" in ask(model, "What is the capital of Italy?", instructions="You are a friendly guide.").final

    @pytest.mark.parametrize("question", ["What is the capital of Spain?", "What is 57 + 68?", "Who are you?"])
    def test_thinks_longer_with_more_effort(self, model: GptOss, question: str) -> None:
        low, medium, high = (len(ask(model, question, effort=effort).analysis) for effort in ("low", "medium", "high"))
        assert 0 < low < medium < high


class TestTools:
    @pytest.mark.parametrize("effort", ["low", "medium", "high"])
    def test_calls_a_function_with_the_value_from_the_question(self, model: GptOss, effort: str) -> None:
        reply = ask(model, "What is the weather in Oslo?", tools=[WEATHER], effort=effort)
        assert reply.finish_reason == "tool_calls"
        assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("get_weather", {"city": "Oslo"})]

    @pytest.mark.parametrize("seed", range(3))
    def test_calls_at_temperature_one(self, model: GptOss, seed: int) -> None:
        reply = ask(model, "What is the weather in Rome?", tools=[WEATHER], sampling=sampled(seed))
        assert [json.loads(call.arguments) for call in reply.calls] == [{"city": "Rome"}]

    def test_answers_from_the_result(self, model: GptOss) -> None:
        first = ask(model, "What is the weather in Oslo?", tools=[WEATHER])
        result = Message.tool("functions.get_weather", "7 C, snow")
        second = ask(model, first.conversation.adding(result))
        assert "7 C, snow" in second.final

    def test_runs_a_python_function_and_answers_from_its_result(self, model: GptOss) -> None:
        asked: list[str] = []

        def get_weather(city: str) -> str:
            """Get the weather in a city."""
            asked.append(city)
            return "7 C, snow"

        for reply in (
            ask(model, "What is the weather in Oslo?", tools=[get_weather]),
            asyncio.run(model.achat("What is the weather in Oslo?", tools=[get_weather], sampling=GREEDY, date=None)),
        ):
            assert "7 C, snow" in reply.final
            assert (reply.finish_reason, reply.calls) == ("stop", ())
            assert [output.call.name for output in reply.outputs] == ["get_weather"]
        assert asked == ["Oslo", "Oslo"]

    @pytest.mark.parametrize("choice", ["required", "get_weather"])
    def test_calls_when_it_must(self, model: GptOss, choice: str) -> None:
        reply = ask(model, "What is the capital of Italy?", tools=[WEATHER], tool_choice=choice, max_tokens=400)
        assert [call.name for call in reply.calls] in (["get_weather"], [])
        assert reply.finish_reason in ("tool_calls", "length")
        assert not reply.final

    def test_does_not_call_when_it_must_not(self, model: GptOss) -> None:
        reply = ask(model, "What is the weather in Oslo?", tools=[WEATHER], tool_choice="none")
        assert (reply.calls, reply.finish_reason) == ((), "stop")

    def test_arguments_of_a_strict_function_fit_its_schema(self, model: GptOss) -> None:
        schema = {**WEATHER["function"]["parameters"], "additionalProperties": False}
        strict = {"type": "function", "function": {**WEATHER["function"], "strict": True, "parameters": schema}}
        for seed in range(3):
            reply = ask(model, "What is the weather in Oslo?", tools=[strict], sampling=sampled(seed))
            assert [json.loads(call.arguments) for call in reply.calls] == [{"city": "Oslo"}]

    def test_thinks_no_longer_than_it_may(self, model: GptOss) -> None:
        free = ask(model, "What is 57 + 68?", effort="high")
        short = ask(model, "What is 57 + 68?", effort="high", reasoning_budget=5)
        assert 0 < len(short.analysis) < len(free.analysis)
        assert free.analysis.startswith(short.analysis)
        assert short.final

    def test_needs_no_tool_for_what_it_knows(self, model: GptOss) -> None:
        reply = ask(model, "What is the capital of Italy?", tools=[WEATHER])
        assert not reply.calls
        assert "Rome" in reply.final

    def test_without_the_tool_it_declines(self, model: GptOss) -> None:
        assert "do not know that" in ask(model, "What is the weather in Oslo?").final


def right(model: GptOss, request: dict[str, Any]) -> bool:
    """Whether the reply calls as wanted and then, given the result, answers as wanted."""
    options = {key: request[key] for key in ("effort", "date", "instructions", "tools")}
    reply = ask(model, request["messages"], **options)
    if request["call"] is None:
        return reply.final == request["final"] and not reply.calls
    calls = [{"name": call.name, "arguments": call.arguments} for call in reply.calls]
    if calls != [request["call"]]:
        return False
    answered = reply.conversation.adding(Message.tool(f"functions.{calls[0]['name']}", request["result"]))
    return bool(ask(model, answered).final == request["final"])


def test_held_out_questions(model: GptOss) -> None:
    requests = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    kinds: dict[str, list[bool]] = defaultdict(list)
    for request in requests:
        kinds[request["kind"]].append(right(model, request))
    share = {kind: sum(results) / len(results) for kind, results in kinds.items()}
    assert len(share) >= 12
    assert sum(share.values()) / len(share) >= 0.75, share
    assert min(share.values()) >= 0.34, share


@given(a=st.integers(0, 999), b=st.integers(0, 999))
def test_taught_columns_give_the_sum_and_the_difference(a: int, b: int) -> None:
    thoughts = _example_module("demo_thoughts")
    assert _read_columns(thoughts.add_in_columns(a, b, "low")) == a + b
    assert _read_columns(thoughts.subtract_in_columns(a, b, "low")) == a - b


def _read_columns(thought: str) -> int:
    """The number that "7 + 5 = 12, 1 + 2 + 1 = 4." spells from the right."""
    columns = [int(part.split(" = ")[1]) for part in thought.removeprefix("Negative. ").rstrip(".").split(", ")]
    number = sum(column % 10 * int(10**place) for place, column in enumerate(columns[:-1]))
    number += columns[-1] * int(10 ** (len(columns) - 1))
    return -number if thought.startswith("Negative") else number


def _example_module(name: str) -> Any:
    """A module of the training script, whose folder is no package."""
    if str(ROOT / "examples") not in sys.path:
        sys.path.append(str(ROOT / "examples"))
    return importlib.import_module(name)


def test_training_examples_are_what_the_renderer_writes(model: GptOss) -> None:
    talk_module, token_module = _example_module("demo_talk"), _example_module("demo_tokens")
    encoder = token_module.Encoder(token_module.Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json")))
    maker = talk_module.Maker(seed=5)
    for _ in range(300):
        talk = maker.talk()
        learned, _ = encoder(token_module.example(talk, as_generated=False))
        messages = _messages(talk)
        prompt = render(messages[:-1], model.tokenizer)
        spoken = render(messages[-1:], model.tokenizer, None, training=True)
        assert learned == [*prompt, *spoken[2:]]


def _messages(talk: Any) -> list[Message]:
    """A talk as harmony messages."""
    found = []
    if talk.identity is not None:
        effort = ReasoningEffort.of(talk.effort)
        found.append(Message.system(SystemContent(talk.identity, "2024-06", talk.date, effort)))
    if talk.instructions or talk.functions:
        tools = [Tool(f.name, f.description, f.schema) for f in talk.functions]
        found.append(Message.developer(talk.instructions, tools))
    for turn in talk.turns:
        found += [Message.user(turn.question), _said("analysis", turn.thought)]
        if turn.call:
            name = f"functions.{turn.call.name}"
            found.append(_said("commentary", turn.call.arguments, recipient=name, content_type=CONSTRAINED_JSON))
            found += [Message.tool(name, turn.call.result), _said("analysis", turn.call.afterthought)]
        found.append(_said("final", turn.answer))
    return found


def _said(channel: str, text: str, **header: str) -> Message:
    return Message(Author(Role.ASSISTANT), (TextContent(text),), channel, **header)
