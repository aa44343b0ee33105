"""The openai package talks to the embedded model: what its users see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jsonschema
import openai
import pytest

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Get the {what} in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name, what in (("get_weather", "weather"), ("get_time", "time"))
]


@pytest.fixture
def client(demo_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_url}/v1", api_key="any", max_retries=0) as client:
        yield client


def create(client: openai.OpenAI, question: str | list[Any], **options: Any) -> Any:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return client.chat.completions.create(**({"model": "demo", "messages": messages, "temperature": 0} | options))


def collect(chunks: Any) -> dict[str, Any]:
    """The message that a stream makes, as agents put it together."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": ""}
    for chunk in chunks:
        for choice in chunk.choices:
            message["content"] += choice.delta.content or ""
            message["reasoning_content"] += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or ():
                calls = message.setdefault("tool_calls", [])
                if call.index == len(calls):
                    calls.append({"id": call.id, "type": "function", "function": {"name": call.function.name}})
                    calls[-1]["function"]["arguments"] = ""
                calls[call.index]["function"]["arguments"] += call.function.arguments
            message["finish_reason"] = choice.finish_reason or message.get("finish_reason")
    return message


def test_a_streamed_conversation_with_a_call(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    said = collect(create(client, messages, tools=TOOLS, stream=True))
    assert said.pop("finish_reason") == "tool_calls"
    assert said["reasoning_content"]
    [call] = said["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Oslo"})
    messages += [said, {"role": "tool", "tool_call_id": call["id"], "content": '{"temperature": 7, "sky": "rain"}'}]
    said = collect(create(client, messages, tools=TOOLS, stream=True))
    assert said.pop("finish_reason") == "stop"
    assert "7" in said["content"]
    messages += [said, {"role": "user", "content": "What is the capital of France?"}]
    assert collect(create(client, messages, tools=TOOLS, stream=True))["content"] == "The capital of France is Paris."


def test_what_was_read_before_is_remembered(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of Peru?"}]
    first = create(client, messages)
    messages += [first.choices[0].message.to_dict(), {"role": "user", "content": "And of Spain?"}]
    second = create(client, messages)
    assert "Madrid" in second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > 20
    assert 0 < second.usage.completion_tokens_details.reasoning_tokens < second.usage.completion_tokens


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_a_call_that_is_demanded_comes(client: openai.OpenAI, choice: Any, seed: int) -> None:
    reply = create(client, "Who are you?", tools=TOOLS, tool_choice=choice, temperature=1.5, seed=seed, max_tokens=400)
    [choice_] = reply.choices
    if choice_.finish_reason == "length":
        pytest.fail("the call did not end")
    [call] = choice_.message.tool_calls
    assert call.function.name in (("get_time",) if isinstance(choice, dict) else ("get_time", "get_weather"))


def test_no_call_comes_where_none_may(client: openai.OpenAI) -> None:
    reply = create(client, "What is the weather in Oslo?", tools=TOOLS, tool_choice="none")
    assert reply.choices[0].message.tool_calls is None
    assert reply.choices[0].finish_reason == "stop"


SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 12}, "sure": {"type": "boolean"}},
    "required": ["capital", "sure"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("streamed", [False, True])
def test_answers_are_held_to_a_schema(client: openai.OpenAI, seed: int, streamed: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    options: dict[str, Any] = {"response_format": wanted, "temperature": 1.3, "seed": seed}
    options["extra_body"] = {"reasoning_budget": 60}
    reply = create(client, "What is the capital of Peru?", stream=streamed, **options)
    message = collect(reply) if streamed else reply.choices[0].message.to_dict()
    jsonschema.validate(json.loads(message["content"]), SCHEMA)


@pytest.mark.parametrize("seed", range(3))
def test_arguments_of_strict_functions_are_held_to_their_schema(client: openai.OpenAI, seed: int) -> None:
    parameters = {**SCHEMA, "properties": {**SCHEMA["properties"], "sure": {"enum": [True]}}}  # type: ignore[dict-item]
    tool = {"type": "function", "function": {"name": "tell", "strict": True, "parameters": parameters}}
    reply = create(client, "Who are you?", tools=[tool], tool_choice="required", temperature=1.5, seed=seed)
    jsonschema.validate(json.loads(reply.choices[0].message.tool_calls[0].function.arguments), parameters)


def test_a_schema_that_cannot_be_held_to_is_refused(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="uniqueItems"):
            create(client, "q", response_format=wanted, stream=stream)


def test_thoughts_never_use_up_the_answer(client: openai.OpenAI) -> None:
    reply = create(client, "What is 2 + 3?", reasoning_effort="none")
    assert (reply.choices[0].message.reasoning_content if "reasoning_content" in reply.choices[0].message.to_dict()
            else "") == ""  # fmt: skip
    assert reply.choices[0].message.content
    cut = create(client, "What is 2 + 3?", max_tokens=5)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)


def test_seeds_repeat_and_choices_differ(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 2.0, "seed": 4, "max_tokens": 80, "n": 3, "logprobs": True}
    options["extra_body"] = {"repetition_penalty": 3.0}
    one, two = (create(client, "Tell me something.", **options) for _ in range(2))
    assert [choice.to_dict() for choice in one.choices] == [choice.to_dict() for choice in two.choices]
    assert len({choice.message.to_json() for choice in one.choices}) == 3


def test_stop_texts_and_biases(client: openai.OpenAI) -> None:
    assert create(client, "What is 2 + 3?", stop=[" ="]).choices[0].message.content == "2 + 3"
    encoded = client.post("/../tokenize", body={"prompt": "5"}, cast_to=dict[str, Any])
    banned = create(client, "What is 2 + 3?", logit_bias={str(encoded["tokens"][0]): -100})
    assert not banned.choices[0].message.content.endswith("= 5.")


def test_errors_are_the_packages_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        create(client, "q", model="gpt-5")
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]"):
        create(client, [{"role": "robot", "content": "q"}])
    with pytest.raises(openai.BadRequestError, match="text only"):
        create(client, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}])
    with pytest.raises(openai.BadRequestError, match="context"):
        create(client, "x " * 140_000)


def ask_something(client: openai.OpenAI, number: int) -> tuple[str, str]:
    """What the model answers to the question of this number, and what it should."""
    first, second = 11 + number % 80, 30 + 2 * (number % 80)
    if number % 2:
        reply = create(client, f"What is {first} + {second}?")
        return reply.choices[0].message.content, f"{first} + {second} = {first + second}."
    country, capital = CAPITALS[number // 2 % len(CAPITALS)]
    reply = collect(create(client, f"What is the capital of {country}?", stream=True))
    return reply["content"], f"The capital of {country} is {capital}."


CAPITALS = [("France", "Paris"), ("Japan", "Tokyo"), ("Kenya", "Nairobi"), ("Norway", "Oslo")]


def test_many_clients_get_their_own_answers(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(32) as clients:
        for found, expected in clients.map(partial(ask_something, client), range(32)):
            assert found == expected


@pytest.mark.slow
def test_many_clients_for_a_while_with_some_that_go_away(client: openai.OpenAI) -> None:
    def act(number: int) -> None:
        if number % 5 == 0:
            stream = create(client, "Who are you?", stream=True, temperature=2)
            next(iter(stream))
            stream.close()
            return
        found, expected = ask_something(client, number)
        assert found == expected

    with ThreadPoolExecutor(32) as clients:
        assert len(list(clients.map(act, range(1000)))) == 1000
