"""Rules for a whole turn: grammars hold where they should, the model is free elsewhere, and nothing gets around."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from random_turns import allowed, choose, follow, spelled, write
from schemas import PERSON, REALISTIC, closed

import gptoss_mlx
from gptoss_mlx import hub
from gptoss_mlx.engine import Engine, EngineOptions, Request, prefill
from gptoss_mlx.engine.budget import ReasoningBudget
from gptoss_mlx.engine.grammar import Grammar, Vocabulary
from gptoss_mlx.engine.masks import apply_mask
from gptoss_mlx.engine.structure import Constraint, Rules
from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import HarmonyParser, Message, render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer

DEMO = Tokenizer.from_folder(hub.find(hub.DEMO))
VOCABULARY = Vocabulary.of(DEMO)
TIDE, WHO = "functions.tide_at", "functions.get-user.v2"
PORT = closed({"port": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 9}})
ANSWER = Grammar.json_schema(PERSON)
CALLS = {TIDE: Grammar.json_schema(PORT), WHO: None, "python": None, "browser.search": Grammar.json_object()}
ALL = Rules(answer=ANSWER, calls=CALLS)
RULES = st.sampled_from(
    (
        ALL,
        Rules(answer=ANSWER),
        Rules(),
        Rules(answer=Grammar.regex("[a-c]{2,30}")),
        Rules(calls=CALLS, must_call=True),
        Rules(calls={TIDE: CALLS[TIDE]}, must_call=True),
        Rules(calls={WHO: None}),
    )
)
SEEDS = st.integers(0, 10_000)


def constraint(rules: Rules, begun: str = "", vocabulary: Vocabulary = VOCABULARY) -> Constraint:
    """A constraint behind `<|start|>assistant` and what has `begun` after it."""
    return follow(Constraint(vocabulary, rules), spelled(vocabulary.tokenizer, begun))


def headers(rules: Rules, vocabulary: Vocabulary = VOCABULARY) -> set[str]:
    """Every header that the rules allow, as text."""
    found: set[str] = set()
    one = Constraint(vocabulary, rules)

    def walk(text: str) -> None:
        for token in allowed(one.mask()):
            if token == vocabulary.tokenizer.message:
                found.add(text)
                continue
            one.accept(token)
            walk(text + vocabulary.tokenizer.decode([token]))
            one.rollback(1)

    walk("")
    return found


def read(tokens: list[int], tokenizer: Tokenizer = DEMO) -> tuple[Message, ...]:
    parser = HarmonyParser(tokenizer, tools=tuple(CALLS))
    for token in tokens:
        parser.push(token)
    parser.finish()
    return parser.messages


def check_turn(rules: Rules, tokens: list[int], tokenizer: Tokenizer = DEMO) -> None:
    """What the parser makes of a turn that ended by itself is what the rules ask for."""
    *before, last = read(tokens, tokenizer)
    for message in before:
        assert message.channel in (("analysis", "commentary") if rules.calls else ("analysis",))
        assert message.recipient is None
    if last.recipient is None:
        assert (last.channel, tokens[-1]) == ("final", tokenizer.return_)
        assert not rules.must_call
        grammar = rules.answer
    else:
        assert (last.recipient in rules.calls, tokens[-1]) == (True, tokenizer.call)
        assert last.channel in ("analysis", "commentary")
        grammar = rules.calls[last.recipient]
    assert last.content_type in (None, "json", "<|constrain|>json", "code", "<|constrain|>code")
    if grammar is not None and grammar.is_json:
        Draft202012Validator(json.loads(grammar.text)).validate(json.loads(last.text))


@given(rules=RULES, seed=SEEDS)
def test_a_turn_that_ends_is_as_the_rules_say(rules: Rules, seed: int) -> None:
    tokens = write(Constraint(VOCABULARY, rules), VOCABULARY, seed)
    if tokens is not None:
        check_turn(rules, tokens)


def test_most_turns_end() -> None:
    """Otherwise the property above would say nothing."""
    turns = [write(Constraint(VOCABULARY, ALL), VOCABULARY, seed) for seed in range(60)]
    ended = [read(turn)[-1].recipient for turn in turns if turn is not None]
    assert len(ended) > 50
    assert set(ended) == {None, *CALLS}


def test_turns_in_the_real_vocabulary(real_tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.of(real_tokenizer)
    for seed in range(20):
        tokens = write(Constraint(vocabulary, ALL), vocabulary, seed)
        assert tokens is not None
        check_turn(ALL, tokens, real_tokenizer)


def test_headers_of_an_answer() -> None:
    plain, json_marked = "<|channel|>final", "<|channel|>final <|constrain|>json"
    assert headers(Rules()) == {"<|channel|>analysis", plain}
    assert headers(Rules(answer=Grammar.regex("a"))) == {"<|channel|>analysis", plain}
    assert headers(Rules(answer=ANSWER)) == {"<|channel|>analysis", plain, json_marked}


def test_headers_of_calls_in_both_orders() -> None:
    found = headers(Rules(calls={TIDE: CALLS[TIDE]}))
    assert f" to={TIDE}<|channel|>commentary <|constrain|>json" in found
    assert f"<|channel|>commentary to={TIDE} <|constrain|>json" in found
    assert f"<|channel|>commentary to={TIDE} code" not in found  # its arguments are JSON
    assert " to=python<|channel|>analysis code" in headers(Rules(calls={"python": None}))
    assert found - {header for header in found if TIDE in header} == {
        "<|channel|>analysis",
        "<|channel|>commentary",
        "<|channel|>final",
    }


def test_a_named_function_must_be_called() -> None:
    found = headers(Rules(answer=ANSWER, calls={TIDE: None}, must_call=True))
    assert {header for header in found if TIDE not in header} == {"<|channel|>analysis", "<|channel|>commentary"}
    assert len(found) > 2


@pytest.mark.parametrize("rules", [ALL, Rules(calls=CALLS, must_call=True)])
def test_every_header_is_read_as_it_is_meant(rules: Rules) -> None:
    for header in headers(rules):
        end = DEMO.call if "to=" in header else DEMO.return_
        (message,) = read([*spelled(DEMO, f"{header}<|message|>{{}}"), end])
        named = [name for name in CALLS if f"to={name}" in header.replace("<", " <").replace("  ", " ")]
        assert message.text == "{}"
        assert message.recipient == (max(named, key=len) if named else None)
        assert message.channel is not None
        assert f"<|channel|>{message.channel}" in header


def test_headers_are_spelled_as_the_model_was_trained(real_tokenizer: Tokenizer) -> None:
    """The same tokens as those of a rendered call."""
    prompt = to_conversation("hi", date=None)
    one = constraint(Rules(calls={TIDE: Grammar.json_object()}), vocabulary=Vocabulary.of(real_tokenizer))
    opened = len(render(prompt, real_tokenizer))
    for channel in ("commentary", "analysis"):
        for kind in ("<|constrain|>json", "json", None):
            call = prompt.adding(Message.call(TIDE, "{}", channel, kind))
            tokens = render(call, real_tokenizer)[opened:-2]  # without `<|start|>assistant`
            assert tokens[-1] == real_tokenizer.call
            assert one.validate(tokens) == len(tokens)


def test_thoughts_are_free() -> None:
    one = constraint(ALL, "<|channel|>analysis<|message|>{")
    assert set(allowed(one.mask())) == {*allowed(VOCABULARY.text), DEMO.end}
    follow(one, allowed(VOCABULARY.text))
    assert set(allowed(one.mask())) == {*allowed(VOCABULARY.text), DEMO.end}


def test_after_thoughts_the_assistant_goes_on() -> None:
    one = constraint(Rules(answer=ANSWER), "<|channel|>analysis<|message|>so<|end|>")
    assert one.forced() == spelled(DEMO, "<|start|>assistant<|channel|>")
    follow(one, spelled(DEMO, "<|start|>assistant<|channel|>analysis<|message|>more<|end|>"))
    follow(one, spelled(DEMO, '<|start|>assistant<|channel|>final<|message|>{"name":"a","age":1}'))
    assert one.forced() == [DEMO.return_]
    assert not one.finished
    one.accept(DEMO.return_)
    assert (one.finished, allowed(one.mask()), one.forced()) == (True, [], [])


@pytest.mark.parametrize(
    "refused",
    ["<|channel|>final<|message|>", " to=functions.other<|channel|>", "<|channel|>comments", "<|start|>", "Sure",
     "<|channel|>analysis to=", "<|channel|>analysis<|message|><|return|>", "<|channel|>analysis<|message|><|channel|>",
     "<|channel|>analysis<|message|><|end|><|start|>user", "<|return|>", "<|endoftext|>",
     f" to={TIDE}<|channel|>commentary<|message|><|call|>", f" to={TIDE}<|channel|>commentary<|message|>text"],
)  # fmt: skip
def test_what_the_rules_do_not_allow(refused: str) -> None:
    one = constraint(Rules(calls={TIDE: CALLS[TIDE]}, must_call=True))
    tokens = spelled(DEMO, refused)
    assert one.validate(tokens) < len(tokens)
    tokens = tokens[: one.validate(tokens) + 1]
    follow(one, tokens[:-1])
    before = allowed(one.mask())
    for token in (tokens[-1], -1, DEMO.size, 10**9):
        with pytest.raises(RequestError, match=f"token {token} is not among those"):
            one.accept(token)
    assert allowed(one.mask()) == before


@given(rules=RULES, seed=SEEDS, data=st.data())
def test_a_rollback_is_a_fresh_replay(rules: Rules, seed: int, data: st.DataObject) -> None:
    tokens = write(Constraint(VOCABULARY, rules), VOCABULARY, seed, most=150)
    tokens = tokens or []
    one = follow(Constraint(VOCABULARY, rules), tokens)
    for _ in range(3):
        kept = data.draw(st.integers(0, len(tokens)))
        one.rollback(len(tokens) - kept)
        fresh = follow(Constraint(VOCABULARY, rules), tokens[:kept])
        assert (one.mask() == fresh.mask()).all()
        assert one.forced() == fresh.forced()
        assert one.validate(tokens[kept:]) == len(tokens) - kept
        follow(one, tokens[kept:])
    assert one.finished == bool(tokens)


@given(rules=RULES, seed=SEEDS, steps=st.integers(0, 100))
def test_another_way_after_a_rollback(rules: Rules, seed: int, steps: int) -> None:
    """What was taken back leaves no trace: the same constraint, on another way, is as one that never went the first."""
    rng = random.Random(seed)
    one, kept = Constraint(VOCABULARY, rules), list[int]()
    for step in range(steps):
        tried = list[int]()
        while not one.finished and len(tried) < 5:
            tried.append(choose(rng, VOCABULARY, one.mask(), step))
            one.accept(tried[-1])
        keep = rng.randint(0, len(tried))
        one.rollback(len(tried) - keep)
        kept += tried[:keep]
    fresh = follow(Constraint(VOCABULARY, rules), kept)
    assert (one.mask() == fresh.mask()).all()


@given(rules=RULES, seed=SEEDS, at=st.integers(0, 60))
def test_a_copy_goes_its_own_way(rules: Rules, seed: int, at: int) -> None:
    tokens = write(Constraint(VOCABULARY, rules), VOCABULARY, seed, most=150) or []
    one = follow(Constraint(VOCABULARY, rules), tokens[:at])
    two = one.copy()
    follow(two, tokens[at:])
    one.rollback(len(tokens[:at]))
    assert two.finished == bool(tokens)
    assert one.validate(tokens) == len(tokens)
    two.rollback(len(tokens))
    assert two.validate(tokens) == len(tokens)


@given(rules=RULES, seed=SEEDS)
def test_forced_tokens_are_the_only_ones(rules: Rules, seed: int) -> None:
    check_forced(VOCABULARY, rules, seed)


def test_forced_tokens_of_the_real_vocabulary(real_tokenizer: Tokenizer) -> None:
    for seed in range(8):
        check_forced(Vocabulary.of(real_tokenizer), ALL, seed)


def check_forced(vocabulary: Vocabulary, rules: Rules, seed: int) -> None:
    one = Constraint(vocabulary, rules)
    for token in write(one.copy(), vocabulary, seed, most=150) or []:
        forced = one.forced()
        for next_token in forced:
            assert allowed(one.mask()) == [next_token]
            one.accept(next_token)
        one.rollback(len(forced))
        one.accept(token)


def test_drafts_are_held_against_the_rules() -> None:
    one = constraint(Rules(answer=ANSWER), "<|channel|>final<|message|>")
    good = spelled(DEMO, '{"name":"a","age":12}<|return|>')
    assert one.validate([]) == 0
    assert one.validate(good) == len(good)
    assert one.validate([*good, DEMO.start]) == len(good)
    assert one.validate([*good[:-3], DEMO.return_]) == len(good) - 3
    assert one.validate(good) == len(good)


def test_no_more_is_rolled_back_than_there_is() -> None:
    one = constraint(ALL, "<|channel|>")
    for count in (2, -1):
        with pytest.raises(RequestError, match=f"rollback: 0 to 1 tokens expected, {count} found"):
            one.rollback(count)
    one.rollback(1)
    assert allowed(one.mask()) == allowed(Constraint(VOCABULARY, ALL).mask())


@pytest.mark.parametrize("name", ["", "a b", "functions.f<|channel|>final", "to=x", "all", "assistant", "é\n"])
def test_recipients_fit_in_a_header(name: str) -> None:
    with pytest.raises(RequestError, match=r"calls: a recipient such as functions\.tide_at expected"):
        Rules(calls={name: None})


def test_a_demanded_call_needs_a_function() -> None:
    with pytest.raises(RequestError, match="must_call: at least one recipient expected in calls, none found"):
        Rules(must_call=True)


def test_rules_do_not_change_with_what_they_were_made_of() -> None:
    calls: dict[str, Any] = {TIDE: None}
    rules = Rules(calls=calls)
    calls.clear()
    assert list(rules.calls) == [TIDE]


def run(model: gptoss_mlx.GptOss, question: str, rules: Rules, most: int = 200, **settings: Any) -> list[int]:
    """The turn that the model writes when it takes the likeliest of the tokens that the rules allow."""
    cache = model.model.make_cache()
    logits = prefill(model.model, render(to_conversation(question, date=None, **settings), model.tokenizer), cache)
    one, tokens = Constraint(Vocabulary.of(model.tokenizer), rules), list[int]()
    while not one.finished and len(tokens) < most:
        tokens.append(int(np.argmax(np.array(apply_mask(logits, one.mask())))))
        one.accept(tokens[-1])
        logits = model.model(mx.array([[tokens[-1]]]), cache)[0, -1]
    assert one.finished
    return tokens


def test_the_embedded_model_answers_in_json() -> None:
    model = gptoss_mlx.load()
    schema = closed({"capital": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}})
    tokens = run(model, "What is the capital of France?", Rules(answer=Grammar.json_schema(schema)))
    *thoughts, answer = read(tokens, model.tokenizer)
    assert [message.channel for message in thoughts] == ["analysis"]
    assert answer.channel == "final"
    Draft202012Validator(schema).validate(json.loads(answer.text))


def test_the_embedded_model_must_call() -> None:
    model = gptoss_mlx.load()
    tokens = run(model, "What is the capital of France?", Rules(calls={TIDE: CALLS[TIDE]}, must_call=True))
    call = read(tokens, model.tokenizer)[-1]
    assert call.recipient == TIDE
    Draft202012Validator(PORT).validate(json.loads(call.text))


WILD = SamplingParams(
    temperature=100,
    seed=7,
    repetition_penalty=0.01,
    logit_bias={**dict.fromkeys(range(0, DEMO.size, 3), 1e6), **dict.fromkeys(DEMO.special.values(), 1e6)},
)
COLD = SamplingParams(temperature=0, logit_bias=dict.fromkeys(DEMO.special.values(), -1e6))


@pytest.mark.parametrize("logprobs", [None, 3])
def test_no_sampling_leaves_the_rules(logprobs: int | None) -> None:
    """Several at once, with drafts, and with a bias for and against everything that ends or begins a message."""
    model = gptoss_mlx.load(hub.DEMO)
    engine = Engine(model.model, DEMO.size, DEMO.stop_tokens, EngineOptions(prefix_bytes=0))
    rules = {name: Rules(answer=Grammar.json_schema(REALISTIC[name])) for name in ("person", "enums", "variants")}
    prompt = render(to_conversation("Who are you?"), DEMO)
    running = [
        (name, engine.submit(Request(prompt, sampling, 300, guide=budget(rules[name]), logprobs=logprobs)))
        for name in rules
        for sampling in (WILD, replace(WILD, seed=8, temperature=5), COLD)
    ]
    ended = 0
    for name, sequence in running:
        steps = list(engine.outputs(sequence))
        assert all((step.logprobs is not None) == (logprobs is not None) for step in steps)
        guide = Constraint(VOCABULARY, rules[name])
        assert guide.validate([step.token for step in steps]) == len(steps)
        if steps[-1].stopped:
            ended += 1
            text = DEMO.decode([step.token for step in steps[:-1]]).rpartition("<|message|>")[2]
            Draft202012Validator(REALISTIC[name]).validate(json.loads(text))
    assert ended > 3


def budget(rules: Rules) -> ReasoningBudget:
    return ReasoningBudget(DEMO, 20, Constraint(VOCABULARY, rules))
