"""The reasoning budget closes thoughts after so many tokens, and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.engine.budget import ReasoningBudget, closing_tokens
from gptoss_mlx.engine.grammar import Grammar, Vocabulary
from gptoss_mlx.engine.masks import is_allowed
from gptoss_mlx.engine.request import Guide
from gptoss_mlx.engine.structure import Constraint, Rules
from gptoss_mlx.errors import RequestError
from scripted import tokens_of
from tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CLOSING = tokens_of("<|end|><|start|>assistant<|channel|>final<|message|>")
ANALYSIS = "<|channel|>analysis<|message|>"
AGAIN = "<|end|><|start|>assistant"


PIECES = st.sampled_from([ANALYSIS, "a", "the", AGAIN, "<|channel|>final<|message|>", "<|channel|>", "<|return|>"])


def feed(guide: Guide, tokens: Sequence[int]) -> None:
    for token in tokens:
        guide.accept(token)


def after(text: str, budget: int) -> ReasoningBudget:
    guide = ReasoningBudget(TOKENIZER, budget)
    feed(guide, tokens_of(text))
    return guide


def test_the_whole_header_of_the_answer_is_forced() -> None:
    guide = after(ANALYSIS + "abc", 4)
    assert (guide.forced(), guide.mask()) == ([], None)
    guide.accept(tokens_of("d")[0])
    assert guide.reasoning_tokens == 4
    for i, token in enumerate(CLOSING):
        assert guide.forced() == CLOSING[i:]
        mask = guide.mask()
        assert mask is not None
        assert [t for t in range(TOKENIZER.size) if is_allowed(mask, t)] == [token]
        with pytest.raises(RequestError, match="is not the one that ends the thoughts"):
            guide.accept(token + 1)
        guide.accept(token)
    assert (guide.forced(), guide.mask(), guide.reasoning_tokens) == ([], None, 4)
    feed(guide, tokens_of("the answer may be long"))
    assert guide.forced() == []


@pytest.mark.parametrize(
    ("text", "spent"),
    [
        ("<|channel|>final<|message|>xxxxxxxx", 0),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>xxxxxxxx", 0),
        ("<|channel|>analysis to=python code<|message|>xxxxxxxx", 0),
        (" to=functions.f<|channel|>analysis<|message|>xxxxxxxx", 0),
        ("<|channel|>commentary<|message|>xxxxxxxx", 0),
        ("<|message|>xxxxxxxx", 0),
        ("x" * 80, 0),
        (ANALYSIS + "xx" + AGAIN + "<|channel|>final<|message|>xxxxxxxx", 2),
        (ANALYSIS + "xx<|channel|>final<|message|>xxxxxxxx", 4),  # a header that comes late counts until it is whole
    ],
)
def test_only_thoughts_are_counted(text: str, spent: int) -> None:
    guide = after(text, 8)
    assert (guide.forced(), guide.reasoning_tokens) == ([], spent)


@pytest.mark.parametrize(
    "text",
    [
        ANALYSIS + "xxxx" + AGAIN + ANALYSIS + "xxxx",
        "<|channel|>analysis " + "x" * 60,
        ANALYSIS + "xxxx<|channel|>analysis<|message|>xxxx",
        "<|channel|>analysys<|message|>xxxxxxxx",
        "x" * 60 + AGAIN + ANALYSIS + "xxxxxxxx",
    ],
)
def test_thoughts_in_any_form_end(text: str) -> None:
    guide = ReasoningBudget(TOKENIZER, 8)
    for token in tokens_of(text):
        if guide.forced():
            break
        guide.accept(token)
    assert guide.forced() == CLOSING
    assert guide.reasoning_tokens == 8


def test_thoughts_that_begin_when_the_budget_is_spent_stay_empty() -> None:
    assert after("<|channel|>", 0).forced() == []
    assert after("<|channel|>commentary to=functions.f<|message|>x", 0).forced() == []
    assert after(ANALYSIS, 0).forced() == CLOSING
    guide = after(ANALYSIS + "xx" + AGAIN + ANALYSIS, 3)
    assert guide.forced() == []
    guide.accept(tokens_of("x")[0])
    assert guide.forced() == CLOSING


def test_how_long_it_has_no_say() -> None:
    assert [after(text, 5).idle() for text in ("", ANALYSIS + "xx", ANALYSIS + "xxxxx")] == [5, 3, 0]
    assert constrained(Rules(), 5).idle() == 0


@given(st.lists(st.integers(0, TOKENIZER.size), max_size=40), st.integers(0, 5))
def test_while_it_has_no_say_nothing_is_forced(tokens: list[int], budget: int) -> None:
    guide = ReasoningBudget(TOKENIZER, budget)
    silent = guide.idle()
    for i, token in enumerate(tokens):
        if i < silent:
            assert (guide.forced(), guide.mask()) == ([], None)
            silent = max(silent, i + guide.idle())
        forced = guide.forced()
        guide.accept(forced[0] if forced else token)


@given(st.lists(PIECES, max_size=40), st.integers(0, 30), st.integers(0, 60))
def test_at_the_deadline_thoughts_end_however_many_there_were(pieces: list[str], budget: int, deadline: int) -> None:
    guide = ReasoningBudget(TOKENIZER, budget, deadline=deadline)
    silent, thinking = guide.idle(), 0
    for i, token in enumerate(tokens_of("".join(pieces))):
        forced = guide.forced()
        if i < silent:
            assert not forced
        spent = guide.reasoning_tokens
        guide.accept(forced[0] if forced else token)
        thinking = max(thinking, i + 1 if guide.reasoning_tokens > spent else 0)
    assert thinking <= deadline  # the last token of a thought


def test_empty_thoughts_come_to_an_end() -> None:
    guide = ReasoningBudget(TOKENIZER, 1000, deadline=20)
    for token in tokens_of((ANALYSIS + AGAIN) * 9):
        if guide.forced():
            break
        guide.accept(token)
    assert guide.forced() == CLOSING
    assert guide.reasoning_tokens == 0


def test_a_negative_budget() -> None:
    with pytest.raises(RequestError, match="reasoning_budget: 0 or more tokens expected, -1 found"):
        ReasoningBudget(TOKENIZER, -1)


def constrained(rules: Rules, budget: int, closing: Sequence[int] | None = None) -> ReasoningBudget:
    return ReasoningBudget(TOKENIZER, budget, Constraint(Vocabulary.of(TOKENIZER), rules), closing)


def test_a_grammar_holds_in_the_answer_that_the_budget_opens() -> None:
    guide = constrained(Rules(answer=Grammar.json_schema({"enum": [True]})), 2)
    feed(guide, tokens_of(ANALYSIS + "ab"))
    assert guide.forced() == CLOSING
    feed(guide, CLOSING)
    assert guide.forced()[:4] == tokens_of("true")
    mask = guide.mask()
    assert mask is not None
    assert not is_allowed(mask, tokens_of("x")[0])


def test_what_the_inner_guide_forbids_is_not_forced() -> None:
    rules = Rules(calls={"functions.f": None}, must_call=True)
    guide = constrained(rules, 2)
    feed(guide, tokens_of(ANALYSIS + "ab"))
    assert guide.forced() == CLOSING[: CLOSING.index(TOKENIZER.channel) + 1]  # `final` is not allowed after it
    opened = closing_tokens(TOKENIZER, TOKENIZER.encode(" to=functions.f"))
    guide = constrained(rules, 2, opened)
    feed(guide, tokens_of(ANALYSIS + "ab"))
    assert guide.forced() == list(opened)


def test_a_token_that_the_inner_guide_refuses_changes_nothing() -> None:
    guide = constrained(Rules(), 5)
    with pytest.raises(RequestError, match="not among those"):
        guide.accept(TOKENIZER.call)
    feed(guide, tokens_of(ANALYSIS))


def state(guide: ReasoningBudget) -> tuple[list[int], bytes | None, int]:
    mask = guide.mask()
    return guide.forced(), None if mask is None else mask.tobytes(), guide.reasoning_tokens


@given(st.lists(PIECES, max_size=12), st.integers(0, 6), st.data())
def test_rollback_is_exact(pieces: list[str], budget: int, data: st.DataObject) -> None:
    guide = ReasoningBudget(TOKENIZER, budget)
    states = [state(guide)]
    for token in tokens_of("".join(pieces)):
        forced = guide.forced()
        guide.accept(forced[0] if forced else token)
        states.append(state(guide))
    while len(states) > 1:
        count = data.draw(st.integers(0, len(states) - 1))
        guide.rollback(count)
        states = states[: len(states) - count]
        assert state(guide) == states[-1]
        if count == 0:
            break
    with pytest.raises(RequestError, match="rollback"):
        guide.rollback(len(states))


@given(st.data())
def test_rollback_takes_the_inner_guide_along(data: st.DataObject) -> None:
    rules = Rules(answer=Grammar.json_schema({"type": "array", "items": {"enum": ["a", True]}, "maxItems": 2}))
    guide = constrained(rules, 3)
    states = [state(guide)]
    for _ in range(40):
        mask = guide.mask()
        assert mask is not None
        allowed = [token for token in range(TOKENIZER.size) if is_allowed(mask, token)]
        if not allowed:
            break
        if len(states) > 1 and data.draw(st.booleans()):
            count = data.draw(st.integers(1, len(states) - 1))
            guide.rollback(count)
            states = states[:-count]
            assert state(guide) == states[-1]
            continue
        guide.accept(data.draw(st.sampled_from(allowed)))
        states.append(state(guide))


@given(st.lists(st.integers(-1, TOKENIZER.size), max_size=60), st.integers(0, 5))
def test_any_tokens_are_followed_and_thoughts_stay_within_the_budget(tokens: list[int], budget: int) -> None:
    guide = ReasoningBudget(TOKENIZER, budget)
    for token in tokens:
        forced = guide.forced()
        guide.accept(forced[0] if forced else token)
    assert guide.reasoning_tokens <= max(budget, 0)
