"""The adapter on a stand-in for lm-eval's base class: what each kind of request gives, raw and as a chat.

Where lm-eval is installed, one test has it run a task of its own.
"""

from __future__ import annotations

import abc
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gptoss_mlx.errors import RequestError
from gptoss_mlx.evaluation import lm_eval
from gptoss_mlx.evaluation.lm_eval import sampling, token_limit

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}


@dataclass
class Hook:
    """What lm-eval caches answers with."""

    seen: list[tuple[str, Any, Any]] = field(default_factory=list)

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        self.seen.append((kind, arguments, answer))


class LM(abc.ABC):
    """The part of lm-eval's base class that the evaluator relies on."""

    def __init__(self) -> None:
        self.cache_hook = Hook()

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def loglikelihood_rolling(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...


@dataclass
class Request:
    args: tuple[Any, ...]


def requests(*arguments: tuple[Any, ...]) -> list[Request]:
    return [Request(found) for found in arguments]


@pytest.fixture(scope="module")
def registered() -> Iterator[dict[str, Any]]:
    """Stand-ins for lm-eval's modules; what was registered, by name."""
    models: dict[str, Any] = {}

    def register_model(name: str) -> Any:
        def decorate(cls: type) -> type:
            assert issubclass(cls, LM)
            models[name] = cls
            return cls

        return decorate

    base, registry = ModuleType("lm_eval.api.model"), ModuleType("lm_eval.api.registry")
    base.__dict__["LM"], registry.__dict__["register_model"] = LM, register_model
    modules = {"lm_eval": ModuleType("lm_eval"), "lm_eval.api": ModuleType("lm_eval.api")}
    modules |= {module.__name__: module for module in (base, registry)}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        models["returned"] = lm_eval.register()
        yield models


@pytest.fixture(scope="module")
def model(registered: dict[str, Any]) -> Any:
    return registered["gptoss_mlx"](pretrained="demo", exact=True, effort="low", batch_size="1", device="cuda:0")


def test_it_is_registered_by_name(registered: dict[str, Any], model: Any) -> None:
    assert registered["returned"] is registered["gptoss_mlx"]
    assert LM in type(model).__mro__
    assert model.tokenizer_name == "gptoss_mlx the embedded demonstration model"


def direct(model: Any, prompt: list[int], ending: list[int]) -> tuple[float, bool]:
    rows = model.runtime.logits([*prompt, *ending])[len(prompt) - 1 : -1].astype(np.float64)
    logprobs = (
        rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
    )
    return float(sum(row[token] for row, token in zip(logprobs, ending, strict=True))), bool(
        (rows.argmax(1) == ending).all()
    )


def test_loglikelihood(model: Any) -> None:
    tokenizer = model.runtime.tokenizer
    asked = requests(("The capital of", " Italy is"), ("The capital of", " Peru"), ("", "Rome"), ("The capital ", "of"))
    found = model.loglikelihood(asked)
    prompt = tokenizer.encode("The capital of")
    for answer, text in zip(found, (" Italy is", " Peru"), strict=False):
        logprob, greedy = direct(model, prompt, tokenizer.encode(f"The capital of{text}")[len(prompt) :])
        assert answer == (pytest.approx(logprob, rel=1e-4), greedy)
    assert found[2][0] == pytest.approx(direct(model, [tokenizer.startoftext], tokenizer.encode("Rome"))[0], rel=1e-4)
    words = tokenizer.encode("The capital")
    assert found[3][0] == pytest.approx(
        direct(model, words, tokenizer.encode("The capital of")[len(words) :])[0], rel=1e-4
    )
    assert [seen[:2] for seen in model.cache_hook.seen[-4:]] == [("loglikelihood", request.args) for request in asked]


def test_loglikelihood_of_a_chat_is_that_of_the_final_message(model: Any) -> None:
    chat = model.apply_chat_template([{"role": "user", "content": "What is the capital of Italy?"}])
    right, wrong = (f"The capital of Italy is {city}." for city in ("Rome", "Oslo"))
    (good, _), (bad, _) = model.loglikelihood(requests((chat, right), (chat, wrong)))
    assert good > bad + 3
    begun = model.apply_chat_template(
        [{"role": "user", "content": "What is the capital of Italy?"}, {"role": "assistant", "content": "The capital"}],
        False,
    )
    ((rest, _),) = model.loglikelihood(requests((begun, right.removeprefix("The capital"))))
    assert rest > -1e-3


def test_loglikelihood_rolling_in_windows(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The capital of Italy is Rome. The capital of Peru is Lima."
    tokens = [model.runtime.tokenizer.startoftext, *model.runtime.tokenizer.encode(text)]
    whole = direct(model, tokens[:1], tokens[1:])[0]
    assert model.loglikelihood_rolling(requests((text,), ("",))) == [pytest.approx(whole, rel=1e-4), 0.0]
    monkeypatch.setattr(model, "max_length", 8)
    parts, end = direct(model, tokens[:1], tokens[1:9])[0], 8
    while end < len(tokens) - 1:
        step = min(8, len(tokens) - 1 - end)
        begin = end + step - 8
        parts += direct(model, tokens[begin : end + 1], tokens[end + 1 : end + step + 1])[0]
        end += step
    assert model.loglikelihood_rolling(requests((text,))) == [pytest.approx(parts, rel=1e-4)]


def test_what_is_too_long_loses_its_beginning(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "max_length", 4)
    tokenizer = model.runtime.tokenizer
    ((found, _),) = model.loglikelihood(requests(("one two three four five six", " seven")))
    words = tokenizer.encode("one two three four five six")
    ending = tokenizer.encode("one two three four five six seven")[len(words) :]
    assert found == pytest.approx(direct(model, words[-(4 - len(ending) + 1) :], ending)[0], rel=1e-4)


def test_generation_of_a_chat_gives_the_final_channel(model: Any) -> None:
    chat = model.apply_chat_template([{"role": "user", "content": "What is 17 + 25?"}])
    found = model.generate_until(
        requests((chat, {"until": ["\n\n"], "max_gen_toks": 3}), (chat, {"until": [" ="], "do_sample": False}))
    )
    assert found == ["17 + 25 = 42.", "17 + 25"]
    assert model.cache_hook.seen[-1][2] == "17 + 25"


def test_generation_of_raw_text(model: Any) -> None:
    tokens = model.runtime.tokenizer.encode("The capital of")
    expected = "".join(token.text for token in model.runtime.generate(tokens, sampling({}), 6))
    assert model.generate_until(requests(("The capital of", {"max_gen_toks": 6}))) == [expected]
    assert len(model.generate_until(requests(("", {"max_new_tokens": 1})))) == 1


def test_a_begun_answer_cannot_be_continued_by_thinking(model: Any) -> None:
    begun = model.apply_chat_template([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], False)
    with pytest.raises(RequestError, match="gen_prefix"):
        model.generate_until(requests((begun, {})))


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"temperature": 0.5}, 0.5),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
        ({"temperature": 0.0, "do_sample": False, "until": None}, 0.0),
    ],
)
def test_settings(settings: dict[str, Any], temperature: float) -> None:
    assert sampling(settings).temperature == temperature


def test_settings_that_are_passed_on_or_refused() -> None:
    found = sampling({"until": "x", "top_p": 0.9, "top_k": 5, "do_sample": True, "max_gen_toks": 3})
    assert (found.stop, found.top_p, found.top_k) == (("x",), 0.9, 5)
    assert token_limit({"max_tokens": 3, "max_gen_toks": 4}) == 4
    assert token_limit({}) is None
    with pytest.raises(RequestError, match="unknown 'beams'"):
        sampling({"beams": 4})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 8}, "batch_size 1"),
        ({"batch_size": "auto"}, "batch_size 1"),
        ({"max_batch_size": 8}, "batch_size 1"),
        ({"max_length": 0}, "max_length: 1 to 131072"),
        ({"max_length": 200_000}, "max_length: 1 to 131072"),
    ],
)
def test_refusals(registered: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        registered["gptoss_mlx"](**options)


def test_an_empty_continuation_is_refused(model: Any) -> None:
    with pytest.raises(RequestError, match="continuation: a text expected"):
        model.loglikelihood(requests(("x", "")))


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.api.model", raising=False)
    with pytest.raises(RequestError, match=r"pip install 'gptoss-mlx\[lm-eval\]'"):
        lm_eval.register()


def test_scores_are_plain_numbers(model: Any) -> None:
    ((logprob, greedy),) = model.loglikelihood(requests(("x", "y")))
    assert type(logprob) is float
    assert type(greedy) is bool
    assert math.isfinite(logprob)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval brings torch, which nothing else here needs")
def test_lm_eval_itself(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is the capital of {country}?", "choices": list(CAPITALS.values()), "label": number}
        for number, country in enumerate(CAPITALS)
    ]
    (tmp_path / "capitals.json").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    task = {
        "task": "capitals", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "capitals.json")}},
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "capitals.yaml").write_text(json.dumps(task), "utf-8")  # JSON is YAML
    options = [
        "--model",
        "gptoss_mlx",
        "--model_args",
        "pretrained=demo",
        "--tasks",
        "capitals",
        "--apply_chat_template",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "gptoss_mlx.evaluation.lm_eval", "run", *options, "--include_path", str(tmp_path)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("|capitals"))
    assert [cell.strip() for cell in row.split("|")][5:9] == ["acc", "↑", "1", "±"]
