"""Grammars and masks: what ends by itself is valid, what cannot be held to is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLParserLimits
from random_turns import allowed, follow, spelled, write
from schemas import REALISTIC, Schema, closed, schemas

from gptoss_mlx import hub
from gptoss_mlx.engine import grammar as engine_grammar
from gptoss_mlx.engine.grammar import CACHED_GRAMMARS, Grammar, Vocabulary
from gptoss_mlx.engine.masks import is_allowed
from gptoss_mlx.engine.structure import Constraint, Rules
from gptoss_mlx.errors import RequestError
from gptoss_mlx.tokenizer import Tokenizer
from tiny_tokenizer import tiny_tokenizer_json

DEMO = Tokenizer.from_folder(hub.find(hub.DEMO))
VOCABULARY = Vocabulary.of(DEMO)
ANSWER = "<|channel|>final<|message|>"
SEEDS = range(6)


def answering(vocabulary: Vocabulary, grammar: Grammar, begun: str = "") -> Constraint:
    """A constraint at the beginning of an answer, or behind what of it has `begun`."""
    return follow(Constraint(vocabulary, Rules(answer=grammar)), spelled(vocabulary.tokenizer, ANSWER + begun))


def written(tokenizer: Tokenizer, grammar: Grammar, seed: int) -> str | None:
    """A random answer under `grammar`; None if it did not end."""
    vocabulary = Vocabulary.of(tokenizer)
    tokens = write(answering(vocabulary, grammar), vocabulary, seed)
    if tokens is None:
        return None
    assert tokens[-1] == tokenizer.return_
    assert not any(map(tokenizer.is_special, tokens[:-1]))
    return b"".join(map(tokenizer.token_bytes, tokens[:-1])).decode()


def check(schema: Schema | bool, text: str) -> None:
    Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize("name", REALISTIC)
def test_what_ends_is_valid(name: str) -> None:
    answers = [written(DEMO, Grammar.json_schema(REALISTIC[name]), seed) for seed in SEEDS]
    assert None not in answers
    for answer in answers:
        check(REALISTIC[name], str(answer))
    assert len(set(answers)) > 1


@pytest.mark.parametrize("name", ["nested", "variants", "unicode", "bounds", "open"])
def test_what_ends_is_valid_in_the_real_vocabulary(name: str, real_tokenizer: Tokenizer) -> None:
    for seed in SEEDS:
        check(REALISTIC[name], str(written(real_tokenizer, Grammar.json_schema(REALISTIC[name]), seed)))


@given(schema=schemas, seed=st.integers(0, 99))
@settings(max_examples=200)
def test_any_schema_is_held_to_or_refused(schema: Schema, seed: int) -> None:
    try:
        grammar = Grammar.json_schema(schema)
    except RequestError:
        return
    try:
        answer = written(DEMO, grammar, seed)
        assume(answer is not None)
        check(schema, str(answer))
    except (RequestError, RecursionError):
        if not leads_to_itself(schema):
            raise


def leads_to_itself(schema: Schema) -> bool:
    """Whether nothing but references stands between a schema and itself, so that it says nothing."""
    return '{"$ref": "#"}' in json.dumps(schema) or schema["$defs"]["d"].get("$ref") == "#/$defs/d"


@given(seed=st.integers(0, 999))
def test_an_answer_can_end_only_where_it_is_valid(seed: int) -> None:
    schema = REALISTIC["steps"]
    constraint = answering(VOCABULARY, Grammar.json_schema(schema))
    tokens = write(constraint.copy(), VOCABULARY, seed) or []
    for count, token in enumerate(tokens):
        specials = [token for token in allowed(constraint.mask()) if DEMO.is_special(token)]
        assert specials in ([], [DEMO.return_])
        if specials:
            check(schema, DEMO.decode(tokens[:count]))
        constraint.accept(token)


def test_an_object_may_be_any_object() -> None:
    for seed in SEEDS:
        assert isinstance(json.loads(str(written(DEMO, Grammar.json_object(), seed))), dict)


def test_blanks_come_to_an_end() -> None:
    constraint = answering(VOCABULARY, Grammar.json_object(), "{")
    (blank,) = DEMO.encode(" ")
    assert 0 < constraint.validate([blank] * 100) < 100


def test_a_key_has_one_spelling() -> None:
    """An escaped one would pass as a key that the schema does not name."""
    grammar = Grammar.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}})
    escaped = DEMO.encode("\\u0061")
    assert answering(VOCABULARY, grammar, '{"').validate(escaped) < len(escaped)


@pytest.mark.parametrize(
    "pattern",
    ["[a-z]{2,5}", "^yes|no$", "(\\d{4})-(\\d\\d)", "", "é?日本", "a*b", "(?i)abc", "[^x]{3}", ".*", "(a|b)*c"],
)
def test_what_ends_matches_the_pattern(pattern: str) -> None:
    for seed in SEEDS:
        answer = written(DEMO, Grammar.regex(pattern), seed)
        assert answer is None or re.fullmatch(pattern, answer), answer
    assert written(DEMO, Grammar.regex(pattern), 0) is not None


def test_what_ends_follows_a_lark_grammar(real_tokenizer: Tokenizer) -> None:
    grammar = Grammar.lark('start: sum\nsum: product ("+" product)*\nproduct: atom | atom "*" atom\n'
                           'atom: /[0-9]{1,3}/ | "(" sum ")"')  # fmt: skip
    for tokenizer in (DEMO, real_tokenizer):
        for seed in SEEDS:
            answer = written(tokenizer, grammar, seed)
            assert answer is not None
            assert set(answer) <= set("0123456789+*()")
            eval(re.sub(r"0+(\d)", r"\1", answer))  # an expression in Python as well


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {}}, "json_schema: not (at #) cannot be enforced; leave it out and check the answer yourself"),
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "uniqueItems (at #/properties/a/items) cannot"),
        ({"properties": {"not": {"if": {}, "then": {}}}}, "if and then (at #/properties/not) cannot be enforced"),
        (
            {"anyOf": [{"const": 1}, {"oneOf": [{"type": "number"}, {"type": "integer"}]}]},
            "oneOf (at #/anyOf/1) cannot be",
        ),
        ({"$defs": {"a/b": {"format": "x", "type": "string"}}, "$ref": "#/$defs/a~1b"}, "x (at #/$defs/a~1b)"),
        ({"items": {"minProperties": 2}}, "minProperties (at #/items) cannot be enforced where keys are free"),
        ({"foo": {"a": {"minProperties": 2}}, "$ref": "#/foo/a"}, "minProperties (at #/foo/a) cannot be enforced"),
        ({"$defs": {"a": {"minProperties": 2, "required": 5}}}, "minProperties (at #/$defs/a) cannot be enforced"),
        ({"$ref": "http://a/b"}, "failed: Default retriever does not fetch resources (at #)"),
        ({"$ref": "#"}, "it allows no text at all (at #)"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around, including look-ahead and look-behind, is not supported"),
        ({"type": "sting"}, "Invalid type: sting (at #)"),
        ({"x-guidance": {"lenient": True}, "contains": {}}, "contains (at #) cannot be enforced"),
        (False, "Unsatisfiable schema: schema is false"),
        ({"const": "\ud800"}, "json_schema: unexpected end of hex escape"),
        ({"const": "a\x00b"}, "const (at #) cannot be enforced with control characters or numbers beyond 2**53; leave"),
        ({"items": {"enum": ["a", {"k": ["b\x7f"]}]}}, "enum (at #/items) cannot be enforced with control characters"),
        ({"const": 2**53 + 1}, "const (at #) cannot be enforced with control characters or numbers beyond 2**53"),
        ({"const": -1e300}, "const (at #) cannot be enforced with control characters or numbers beyond 2**53"),
        ({"type": "string", "pattern": "^a\\x00b$"}, "pattern (at #) cannot be enforced with control characters"),
        ({"type": "string", "pattern": "^a[\\x7F]b$"}, "pattern (at #) cannot be enforced with control characters"),
        ({"type": "string", "pattern": "^a\x01b$"}, "pattern (at #) cannot be enforced with control characters"),
        ({"const": float("nan")}, "json_schema: a JSON value expected: "),
        ({"const": {1}}, "json_schema: a JSON value expected: Object of type set is not JSON serializable"),
        ("{}", "json_schema: an object or a boolean expected, '{}' found"),
    ],
)
def test_what_cannot_be_held_to_is_named(schema: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Grammar.json_schema(schema)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [200, 956, 990, 997, 5000])
def test_a_schema_without_end_is_refused(depth: int) -> None:
    schema: Schema = {}
    for _ in range(depth):
        schema = {"items": schema}
    with pytest.raises(RequestError, match=r"recursion|nested"):
        Grammar.json_schema(schema)


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (Grammar.regex, "[a", "regex: unclosed character class"),
        (Grammar.regex, "a^b", "regex: lookarounds not supported yet; Start in regex /a^b/"),
        (Grammar.regex, "(a)\\1", "regex: backreferences are not supported"),
        (Grammar.regex, "\ud800", "regex: a text expected, half a surrogate pair found at 0"),
        (Grammar.lark, None, "lark: a text expected, None found"),
        (Grammar.lark, "start: nothing", 'lark: at 1(8): unknown name: "nothing"'),
        (Grammar.lark, "start", "lark: 1(6): Expected token ':'"),
        (Grammar.lark, "start: /a/ <|end|>", 'lark: at 1(8): unknown special token: "<|end|>"'),
        (Grammar.lark, "start: <[200007]>", "lark: at 1(8): Token range end too large: 200007"),
        (Grammar.lark, "start: start", "lark: it allows no text at all"),
        (Grammar.lark, "", "lark: no start rule found"),
        (Grammar.lark, '{"grammars": []}', "lark: 1(1): expecting rule"),
    ],
)
def test_what_is_no_grammar_is_refused(make: Any, text: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        make(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern", ["^[\\x00-\\x7F]{1,9}$", "^[^\\x00]{2}$", "^a\\tb$", "^[ -\\x7e]+$", "^a\\n\\x0Ab$"]
)
def test_sets_in_patterns_may_name_control_characters(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    for seed in SEEDS:
        check(schema, str(written(DEMO, Grammar.json_schema(schema), seed)))


@pytest.mark.parametrize(
    "value", ['\b\t\n\f\r\\/"', "\x80\u2028\ufeff\U0010ffff", 2**53, -(2**53), 1e-300, 5e-324, 0.1, -0.0]
)
def test_a_constant_is_written_as_it_is(value: Any) -> None:
    text = written(DEMO, Grammar.json_schema({"const": value}), seed=0)
    assert json.loads(str(text)) == value
    assert json.loads(str(written(DEMO, Grammar.json_schema(closed({f"{value}\x01": {}})), seed=0)))


def test_too_much_work_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Grammar.json_schema(REALISTIC["nested"])
    monkeypatch.setattr(engine_grammar, "_limits", lambda: LLParserLimits(step_lexer_fuel=1, verbose_errors=False))
    with pytest.raises(RequestError, match=r"^grammar: \S.*$"):
        write(answering(Vocabulary(DEMO), schema), VOCABULARY, seed=0)


def test_grammars_compare_by_what_they_say() -> None:
    assert Grammar.json_schema({"type": "object"}) == Grammar.json_object() != Grammar.regex("[{][}]")
    assert len({Grammar.regex("a"), Grammar.regex("a"), Grammar.lark('start: "a"')}) == 2


def test_ids_that_stand_for_nothing_are_never_allowed(tmp_path: Path) -> None:
    description = json.loads(tiny_tokenizer_json())
    last = description["added_tokens"][-1]["id"]
    description["added_tokens"][-1]["id"] = last + 40
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    tokenizer = Tokenizer.from_file(path)
    unknown = set(range(last, last + 40))
    assert unknown.isdisjoint(allowed(Vocabulary.of(tokenizer).text))
    mask = answering(Vocabulary.of(tokenizer), Grammar.regex("(?s).*")).mask()
    assert set(allowed(mask)) <= {*allowed(Vocabulary.of(tokenizer).text), tokenizer.return_}
    check(REALISTIC["person"], str(written(tokenizer, Grammar.json_schema(REALISTIC["person"]), seed=1)))


def test_a_vocabulary_is_built_once_and_keeps_its_grammars() -> None:
    assert Vocabulary.of(DEMO) is Vocabulary.of(DEMO)
    first = VOCABULARY.matcher(Grammar.regex("a+b"))
    first.accept(*DEMO.encode("a"))
    for i in range(CACHED_GRAMMARS + 1):
        mask = VOCABULARY.matcher(Grammar.regex(f"a{{{i}}}b")).mask(DEMO.call)
        assert is_allowed(mask, *DEMO.encode("b")) == (i == 0)


@pytest.mark.parametrize("which", ["demo", "real"])
def test_text_is_every_token_but_the_special_ones(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = DEMO if which == "demo" else request.getfixturevalue("real_tokenizer")
    text = set(allowed(Vocabulary.of(tokenizer).text))
    assert text == {t for t in range(tokenizer.size) if not tokenizer.is_special(t) and tokenizer.token_bytes(t)}
