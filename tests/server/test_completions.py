"""Completions, tokens and models against the embedded model."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx
import numpy as np
import pytest
from openai.types import Completion, Model

import gptoss_mlx
from gptoss_mlx import SamplingParams

PATH = "/v1/completions"
TEXT = "The capital"


def ask(demo: httpx.Client, **body: Any) -> dict[str, Any]:
    """The answer to a request, which the openai package must know in every field."""
    response = demo.post(PATH, json={"prompt": TEXT, "temperature": 0, "max_tokens": 6, **body})
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    check(told)
    return told


def check(told: dict[str, Any]) -> None:
    """The package's types do not know what OpenAI's server says before the end, and of a first token."""
    known = copy.deepcopy(told)
    for choice in known["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        for name in ("token_logprobs", "top_logprobs"):
            values = (choice["logprobs"] or {}).get(name)
            if values and values[0] is None:
                values[0] = 0.0 if name == "token_logprobs" else {}
    assert Completion.model_validate(known).model_dump(exclude_unset=True) == known


def test_a_text_goes_on_as_the_library_has_it(demo: httpx.Client) -> None:
    model = gptoss_mlx.load()
    tokens = model.tokenizer.encode(TEXT)
    expected = "".join(token.text for token in model.generate(tokens, SamplingParams(temperature=0), 6))
    told = ask(demo)
    assert (told["choices"][0]["text"], told["choices"][0]["finish_reason"]) == (expected, "length")
    assert told["usage"] == {"prompt_tokens": len(tokens), "completion_tokens": 6, "total_tokens": len(tokens) + 6}
    assert ask(demo, prompt=tokens)["choices"] == told["choices"]
    assert ask(demo, prompt=[tokens, tokens], n=2)["choices"] == [{**told["choices"][0], "index": i} for i in range(4)]


def test_a_stream_brings_the_same(demo: httpx.Client) -> None:
    body = {"prompt": [TEXT, "What"], "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    for logprobs in (None, 1):
        whole = ask(demo, **{**body, "stream": None, "stream_options": None, "logprobs": logprobs, "max_tokens": 16})
        response = demo.post(PATH, json={**body, "logprobs": logprobs})
        lines = response.text.strip().split("\n\n")
        assert lines.pop() == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
        for chunk in chunks:
            check(chunk)
        assert chunks.pop()["usage"] == whole["usage"]
        for choice in whole["choices"]:
            own = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice["index"]]
            assert "".join(each["text"] for each in own) == choice["text"]
            assert [each["finish_reason"] for each in own] == [*[None] * (len(own) - 1), choice["finish_reason"]]
            if logprobs is not None:
                for name, values in choice["logprobs"].items():
                    assert [value for each in own for value in each["logprobs"][name]] == values


def test_a_stop_text_ends_it(demo: httpx.Client) -> None:
    whole = ask(demo)["choices"][0]["text"]
    told = ask(demo, stop=[whole[4:8]])["choices"][0]
    assert (told["text"], told["finish_reason"]) == (whole[:4], "stop")


def test_echo_tells_how_likely_the_prompt_is(demo: httpx.Client) -> None:
    model = gptoss_mlx.load()
    tokens = model.tokenizer.encode("What is the capital of France?")
    told = ask(demo, prompt=tokens, echo=True, logprobs=3, max_tokens=0)
    [choice] = told["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("What is the capital of France?", "length")
    logits = model.logits(tokens).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logprobs -= logits.max(-1, keepdims=True)
    expected = [logprobs[i, token] for i, token in enumerate(tokens[1:])]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    assert choice["logprobs"]["tokens"] == [model.tokenizer.decode([token]) for token in tokens]
    assert all(len(top) <= 3 for top in choice["logprobs"]["top_logprobs"][1:])
    for text, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(text)
    assert told["usage"]["completion_tokens"] == 0
    assert ask(demo, echo=True)["choices"][0]["text"] == TEXT + ask(demo)["choices"][0]["text"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x"] * 257}, "prompt"),
        ({"prompt": [-1]}, "tokens"),
        ({"prompt": [10**9]}, "tokens"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True, "stream": True}, "echo"),
        ({"temperature": 1e9}, "temperature"),
        ({"messages": []}, "messages"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_followed_is_refused_by_name(
    demo: httpx.Client, change: dict[str, Any], param: str, streamed: bool
) -> None:
    response = demo.post(PATH, json={"prompt": TEXT, "stream": streamed, **change})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_tokens_and_back(demo: httpx.Client) -> None:
    tokens = demo.post("/tokenize", json={"prompt": "hé <|end|>"}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert demo.post("/detokenize", json={"tokens": tokens["tokens"]}).json() == {"prompt": "hé <|end|>"}
    end = gptoss_mlx.load().tokenizer.end
    assert end not in tokens["tokens"]
    prompt = demo.post("/tokenize", json={"messages": [{"role": "user", "content": "hé"}], "reasoning_effort": "low"})
    text = demo.post("/detokenize", json={"tokens": prompt.json()["tokens"]}).json()["prompt"]
    assert "Reasoning: low" in text
    assert text.endswith("<|start|>user<|message|>hé<|end|><|start|>assistant")


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {}), ("/tokenize", {"prompt": "x", "messages": []}), ("/detokenize", {"tokens": [10**12]})],
)
def test_tokens_that_make_no_sense(demo: httpx.Client, path: str, body: dict[str, Any]) -> None:
    assert demo.post(path, json=body).status_code == 400


def test_models(demo: httpx.Client) -> None:
    listed = demo.get("/v1/models").json()
    [model] = listed["data"]
    assert (listed["object"], Model.model_validate(model).id, model["max_model_len"]) == ("list", "demo", 131072)
    assert demo.get("/v1/models/demo").json() == model
    missing = demo.get("/v1/models/openai/gpt-oss-20b")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
