"""OpenAI's Agents SDK for Python, streamed, over both interfaces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from talk import KEY, MODEL, TOOL_SAYS, URL, WEATHER, Answer, Ask, Call, Checks

Model = type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]


@function_tool(description_override=TOOL_SAYS)
def get_weather(city: str) -> str:
    return WEATHER[city]


def begin(model: Model) -> Ask:
    items: list[Any] = []

    def ask(question: str) -> Answer:
        items.append({"role": "user", "content": question})
        answer, history = asyncio.run(_run(model, list(items)))
        items[:] = history
        return answer

    return ask


async def _run(model: Model, items: list[Any]) -> tuple[Answer, list[Any]]:
    answer = Answer(thoughts="")
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as client:
        settings = ModelSettings(temperature=0, include_usage=True)
        agent = Agent("weather", tools=[get_weather], model=model(MODEL, client), model_settings=settings)
        result = Runner.run_streamed(agent, items)
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                _note(event.data, answer)
    answer.text = str(result.final_output)
    return answer, result.to_input_list()


def _note(event: Any, answer: Answer) -> None:
    match event.type:
        case "response.reasoning_text.delta":
            answer.thoughts = (answer.thoughts or "") + event.delta
        case "response.completed":
            usage, calls = event.response.usage, [o for o in event.response.output if o.type == "function_call"]
            answer.tokens.append((usage.input_tokens, usage.output_tokens))
            answer.finishes.append("call" if calls else "answer")
            answer.calls += [Call(call.call_id, call.name, json.loads(call.arguments)) for call in calls]


if __name__ == "__main__":
    set_tracing_disabled(True)
    checks = Checks("agents (Python), chat")
    checks.conversations(lambda: begin(OpenAIChatCompletionsModel), "call", "answer")
    checks.client = "agents (Python), responses"
    checks.conversations(lambda: begin(OpenAIResponsesModel), "call", "answer")
    checks.exit()
