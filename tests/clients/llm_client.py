"""The program `llm`, with the server as one of its models: as a library, and as the command that people type."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llm
from talk import KEY, MODEL, URL, WEATHER, Answer, Ask, Call, Checks, holds

CONFIGURATION = f"""
- model_id: gptoss
  model_name: {MODEL}
  api_base: {URL}/v1
  supports_tools: true
  supports_schema: true
"""
FUNCTIONS = f'''
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return {WEATHER!r}[city]
'''


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return WEATHER[city]


def conversation() -> Ask:
    model = llm.get_model("gptoss")
    model.key = KEY
    talk = model.conversation(tools=[get_weather])

    def ask(question: str) -> Answer:
        answer = Answer()
        for reply in talk.chain(question, options={"temperature": 0}).responses():
            pieces = list(reply)  # as they are streamed
            answer.text = "".join(pieces)
            calls = reply.tool_calls()
            answer.calls += [Call(call.tool_call_id, call.name, call.arguments) for call in calls]
            answer.finishes.append("call" if calls else "answer")
            usage = reply.usage()
            answer.tokens.append((usage.input, usage.output))
        return answer

    return ask


def command() -> None:
    """A call, then two questions that go on from it."""
    said = _llm("-m", "gptoss", "-o", "temperature", "0", "--functions", FUNCTIONS, "What is the weather in Oslo?")
    holds("the result in the answer", WEATHER["Oslo"] in said, said)
    said = _llm("-c", "What is 20 + 22?")
    holds("42 in the answer", "42" in said, said)
    said = _llm("-c", "And 3 more?")
    holds("45 in the answer", "45" in said, said)
    said = _llm("-m", "gptoss", "--schema", "result int", "What is 20 + 22?")
    holds("JSON of the schema", said.startswith('{"result":'), said)
    said = _llm("logs", "-c", "--short")
    holds("the conversation in the logs", "20 + 22" in said, said)


def _llm(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "llm", *arguments], capture_output=True, text=True, timeout=120)
    holds("success", done.returncode == 0, done.stderr)
    return done.stdout


def _prepare(folder: Path) -> None:
    (folder / "extra-openai-models.yaml").write_text(CONFIGURATION)
    os.environ.update(LLM_USER_PATH=str(folder), OPENAI_API_KEY=KEY)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        _prepare(Path(home))
        checks = Checks("llm, library")
        checks.conversations(conversation, "call", "answer")
        checks.client = "llm, command"
        checks.check("a call, going on, a schema, logs", command)
    checks.exit()
