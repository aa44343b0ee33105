"""OpenAI's package for Python: both interfaces, streamed; Responses with and without the server's store."""

from __future__ import annotations

import json
from typing import Any

import openai
from talk import CITY, KEY, MODEL, TOOL, TOOL_SAYS, URL, WEATHER, Answer, Ask, Call, Checks

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
FUNCTION: dict[str, Any] = {"name": TOOL, "description": TOOL_SAYS, "parameters": CITY}


def chat() -> Ask:
    messages: list[Any] = []

    def ask(question: str) -> Answer:
        answer = Answer(thoughts="")
        messages.append({"role": "user", "content": question})
        while True:
            said = _chat_reply(messages, answer)
            messages.append(said)
            answer.text = said.content or ""
            if not said.tool_calls:
                return answer
            for call in said.tool_calls:
                arguments = json.loads(call.function.arguments)
                answer.calls.append(Call(call.id, call.function.name, arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": WEATHER[arguments["city"]]})

    return ask


def _chat_reply(messages: list[Any], answer: Answer) -> Any:
    tools: Any = [{"type": "function", "function": FUNCTION}]
    options: dict[str, Any] = {"temperature": 0, "stream_options": {"include_usage": True}}
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools, **options) as stream:
        for event in stream:
            if event.type == "chunk":
                for choice in event.chunk.choices:
                    answer.thoughts = (answer.thoughts or "") + (getattr(choice.delta, "reasoning", None) or "")
        made = stream.get_final_completion()
    answer.finishes.append(made.choices[0].finish_reason)
    assert made.usage is not None
    answer.tokens.append((made.usage.prompt_tokens, made.usage.completion_tokens))
    return made.choices[0].message


def stored() -> Ask:
    """Responses that go on from the one before."""
    previous: str | None = None

    def ask(question: str) -> Answer:
        nonlocal previous
        answer, items = Answer(thoughts=""), [{"role": "user", "content": question}]
        while items:
            made = _response(answer, input=items, previous_response_id=previous)
            previous, items = made.id, _results(made, answer)
        return answer

    return ask


def sent_back() -> Ask:
    """Responses that the server does not keep: the client sends all items every time."""
    items: list[Any] = []

    def ask(question: str) -> Answer:
        answer, more = Answer(thoughts=""), [{"role": "user", "content": question}]
        while more:
            items.extend(more)
            made = _response(answer, input=items, store=False, include=["reasoning.encrypted_content"])
            more = _results(made, answer)
            items.extend(made.output)
        return answer

    return ask


def _response(answer: Answer, **request: Any) -> Any:
    tools: Any = [{"type": "function", "strict": True, **FUNCTION}]
    with client.responses.stream(model=MODEL, tools=tools, temperature=0, **request) as stream:
        for event in stream:
            if event.type == "response.reasoning_text.delta":
                answer.thoughts = (answer.thoughts or "") + event.delta
        made = stream.get_final_response()
    answer.text = made.output_text
    answer.finishes.append(str(made.status))
    assert made.usage is not None
    answer.tokens.append((made.usage.input_tokens, made.usage.output_tokens))
    return made


def _results(made: Any, answer: Answer) -> list[Any]:
    calls = [item for item in made.output if item.type == "function_call"]
    answer.calls += [Call(call.call_id, call.name, json.loads(call.arguments)) for call in calls]
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": WEATHER[json.loads(call.arguments)["city"]]}
        for call in calls
    ]


if __name__ == "__main__":
    checks = Checks("openai (Python), chat")
    checks.conversations(chat, "tool_calls", "stop")
    for name, begin in (("stored", stored), ("sent back", sent_back)):
        checks.client = f"openai (Python), responses {name}"
        checks.conversations(begin, "completed", "completed")
    checks.exit()
