"""LangChain's ChatOpenAI, streamed, over both interfaces."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from talk import KEY, MODEL, TOOL_SAYS, URL, WEATHER, Answer, Ask, Call, Checks


@tool(description=TOOL_SAYS)
def get_weather(city: str) -> str:
    return WEATHER[city]


def begin(responses: bool) -> Ask:
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{URL}/v1",
        api_key=KEY,
        use_responses_api=responses,
        stream_usage=True,
        temperature=0,
        max_retries=0,
    ).bind_tools([get_weather])
    messages: list[Any] = []

    def ask(question: str) -> Answer:
        answer = Answer()
        messages.append(HumanMessage(question))
        while True:
            said = _reply(model, messages, answer)
            messages.append(said)
            if not said.tool_calls:
                return answer
            answer.calls += [Call(str(call["id"]), call["name"], call["args"]) for call in said.tool_calls]
            messages.extend(get_weather.invoke(call) for call in said.tool_calls)

    return ask


def _reply(model: Any, messages: list[Any], answer: Answer) -> AIMessageChunk:
    chunks = list(model.stream(messages))
    said: AIMessageChunk = sum(chunks[1:], chunks[0])
    answer.text = said.text
    told = said.response_metadata
    answer.finishes.append(told["finish_reason"] if "finish_reason" in told else told["status"])
    assert said.usage_metadata is not None
    answer.tokens.append((said.usage_metadata["input_tokens"], said.usage_metadata["output_tokens"]))
    return said


if __name__ == "__main__":
    checks = Checks("langchain, chat")
    checks.conversations(lambda: begin(responses=False), "tool_calls", "stop")
    checks.client = "langchain, responses"
    checks.conversations(lambda: begin(responses=True), "completed", "completed")
    checks.exit()
