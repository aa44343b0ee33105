"""Anthropic's package, streamed, and what agents that use it send: cached system blocks, thinking, counted tokens."""

from __future__ import annotations

import json
from typing import Any

import anthropic
from talk import CITY, KEY, MODEL, TOOL, TOOL_SAYS, URL, WEATHER, Answer, Ask, Call, Checks, holds, same

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
TOOLS: list[Any] = [{"name": TOOL, "description": TOOL_SAYS, "input_schema": CITY}]
COMMON: dict[str, Any] = {"model": MODEL, "max_tokens": 2000, "tools": TOOLS}
BODY: dict[str, Any] = {"temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 5000}}
CACHED = {"type": "ephemeral"}
OSLO: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]


def conversation() -> Ask:
    messages: list[Any] = []

    def ask(question: str) -> Answer:
        answer, content = Answer(thoughts=""), [{"type": "text", "text": question, "cache_control": CACHED}]
        while content:
            messages.append({"role": "user", "content": content})
            made = _reply(messages, answer)
            messages.append({"role": "assistant", "content": made.content})
            content = _results(made, answer)
        return answer

    return ask


def _reply(messages: list[Any], answer: Answer) -> Any:
    with client.messages.stream(messages=messages, extra_body=BODY, **COMMON) as stream:
        made = stream.get_final_message()
    answer.text = "".join(block.text for block in made.content if block.type == "text")
    answer.thoughts = (answer.thoughts or "") + "".join(b.thinking for b in made.content if b.type == "thinking")
    answer.finishes.append(str(made.stop_reason))
    usage = made.usage
    answer.tokens.append((usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens))
    return made


def _results(made: Any, answer: Answer) -> list[Any]:
    uses = [block for block in made.content if block.type == "tool_use"]
    answer.calls += [Call(use.id, use.name, use.input) for use in uses]
    return [{"type": "tool_result", "tool_use_id": use.id, "content": WEATHER[use.input["city"]]} for use in uses]


def events_of_a_call() -> None:
    """The input of a tool_use comes as deltas that add up to JSON; blocks begin and end in turn."""
    with client.messages.stream(messages=OSLO, extra_body=BODY, **COMMON) as stream:
        events: list[Any] = list(stream)
    raw = [e for e in events if e.type.startswith(("message_", "content_block_"))]
    same("first and last event", (raw[0].type, raw[-1].type), ("message_start", "message_stop"))
    begun = [e.content_block.type for e in raw if e.type == "content_block_start"]
    same("blocks", begun, ["thinking", "tool_use"])
    deltas = [e.delta for e in raw if e.type == "content_block_delta"]
    text = "".join(delta.partial_json for delta in deltas if delta.type == "input_json_delta")
    same("input", json.loads(text), {"city": "Oslo"})
    holds("a signature", any(delta.type == "signature_delta" for delta in deltas), deltas)


def system_of_cached_blocks() -> None:
    system: list[Any] = [{"type": "text", "text": text, "cache_control": CACHED} for text in ("Be brief.", "Be kind.")]
    tools: Any = [{**TOOLS[0], "cache_control": CACHED}]
    counted = client.messages.count_tokens(model=MODEL, messages=OSLO, system=system, tools=tools).input_tokens
    with client.messages.stream(
        messages=OSLO, system=system, tools=tools, model=MODEL, max_tokens=2000, metadata={"user_id": "someone"}
    ) as stream:
        usage = stream.get_final_message().usage
    same("tokens", usage.input_tokens + (usage.cache_read_input_tokens or 0), counted)


def result_of_blocks() -> None:
    """Results come as lists of blocks, marked as errors or not, with text beside them."""
    use = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {"city": "Oslo"}}
    thoughts = {"type": "thinking", "thinking": "The tool fits.", "signature": "x"}
    text = {"type": "text", "text": "7 C, snow"}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text], "is_error": False}
    messages: Any = [*OSLO, {"role": "assistant", "content": [thoughts, use]}, {"role": "user", "content": [result]}]
    answer = Answer()
    _reply(messages, answer)
    holds("the result in the answer", "7 C, snow" in answer.text, answer.text)


if __name__ == "__main__":
    checks = Checks("anthropic")
    checks.conversations(conversation, "tool_use", "end_turn")
    checks.check("events of a call", events_of_a_call)
    checks.check("cached system blocks and counted tokens", system_of_cached_blocks)
    checks.check("results as blocks", result_of_blocks)
    checks.exit()
