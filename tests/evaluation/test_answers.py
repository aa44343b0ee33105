"""What is taken out of a final text, case by case, and that anything at all can be judged."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.evaluation.answers import LETTERS, boxed, find_letter, find_number, judge, to_number

CITIES = ("Paris", "London", "Rome", "Paris, Texas")

LETTER_CASES = {
    "B": "B",
    "b": "B",
    "(B)": "B",
    "B.": "B",
    " **B** ": "B",
    "B) London": "B",
    "B. London.": "B",
    "(b) london": "B",
    "The answer is B": "B",
    "The answer is B.": "B",
    "The correct answer is **(B)**, London.": "B",
    "the answer is b.": "B",
    "Answer: B": "B",
    "**Answer:** B": "B",
    "**Answer: B) London**": "B",
    "answer = C": "C",
    "The answer is option C.": "C",
    "The answer is the letter C": "C",
    "Final answer:\n\nD": "D",
    "First I thought the answer is A, but the answer is B.": "B",
    "The answer is not B.": None,
    "The answer is E.": None,
    r"\boxed{B}": "B",
    r"So it is $\boxed{\text{B}}$.": "B",
    r"\boxed{\textbf{(C)}}": "C",
    r"\boxed{London}": "B",
    r"\boxed{A} would be wrong, so \boxed{B}": "B",
    r"The answer is A. \boxed{B}": "B",
    r"\boxed{\boxed{C}}": "C",
    r"\boxed{B": None,
    r"\boxed{E}": None,
    "Option C is right.": "C",
    "Option A is wrong. Option C is right.": None,
    "C\n\nRome is the capital of Italy.": "C",
    "It has the Tiber.\n\nC": "C",
    "A\nB": None,
    "A) Paris\nB) London": None,
    "A) Paris\nB) London\n\nThe answer is A.": "A",
    "It is Rome.": "C",
    "It is ROME": "C",
    "Romeo": None,
    "It is Paris.": "A",
    "It is Paris, Texas.": "D",
    "Rome or London": None,
    "A good question": None,
    "I do not know.": None,
    "": None,
    "Answer": None,
    "The answer is A's": None,
}


@pytest.mark.parametrize("text", LETTER_CASES)
def test_letters(text: str) -> None:
    assert find_letter(text, CITIES) == LETTER_CASES[text]


NUMBER_CASES = {
    "42": "42",
    "17 + 25 = 42.": "42",
    "17 - 25 = -8.": "-8",
    "5-8": "8",
    "The answer is 5 apples out of 10.": "5",
    "The answer is 5. No, the answer is 6, by 1.": "6",
    "The answer is:\n\n**42**": "42",
    "#### 1,234": "1,234",
    "It costs $1,234.50 in all": "1,234.50",
    "-$5": "-5",
    "−3": "-3",
    "1{,}234": "1,234",
    r"\boxed{42}": "42",
    r"\boxed{x = 42}": "42",
    r"\boxed{\frac{3}{4}} of 100": "3/4",
    r"\boxed{\text{none}} of 100": None,
    ".5": ".5",
    "about 3.14": "3.14",
    "6e23 things": "6e23",
    "1,2,3": "3",
    "half": None,
    "": None,
    "The answer is yes.": None,
}


@pytest.mark.parametrize("text", NUMBER_CASES)
def test_numbers(text: str) -> None:
    assert find_number(text) == NUMBER_CASES[text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42), ("42.0", 42), ("+42", 42), ("042", 42), ("4.2e1", 42), ("1,234,567", 1234567), ("50%", 50),
        ("3/4", Fraction(3, 4)), ("0.75", Fraction(3, 4)), ("-.5", Fraction(-1, 2)), ("$5", 5), ("1e999", 10**999),
        ("1/0", None), ("1e9999", None), ("nan", None), ("inf", None), ("", None), ("12,34", None), ("1 2", None),
        ("3 / 4", Fraction(3, 4)),
        ("9" * 5000, None), ("four", None), ("٣", 3),
    ],
)  # fmt: skip
def test_values(text: str, value: Fraction | int | None) -> None:
    assert to_number(text) == value


@pytest.mark.parametrize(
    ("final", "match", "answer", "extracted", "correct"),
    [
        ("17 + 25 = 42.", "number", "42.0", "42", True),
        ("17 + 25 = 43.", "number", "42", "43", False),
        ("none", "number", "42", None, False),
        (" Paris\n", "exact", "Paris ", "Paris", True),
        ("paris", "exact", "Paris", "paris", False),
        (r"It is \boxed{Paris}.", "exact", "Paris", "Paris", True),
        ("", "exact", "Paris", None, False),
        ("The capital is PARIS.", "contains", "Paris", "The capital is PARIS.", True),
        ("", "contains", "Paris", None, False),
        ("in 1789 or so", "regex", r"\b17\d\d\b", "1789", True),
        ("in 1889", "regex", r"\b17\d\d\b", "in 1889", False),
        ("", "regex", r"\d", None, False),
    ],
)
def test_matches(final: str, match: str, answer: str, extracted: str | None, correct: bool) -> None:
    found = judge(final, match, answer)  # type: ignore[arg-type]
    assert (found.extracted, found.correct) == (extracted, correct)


def test_choices() -> None:
    assert judge("The answer is B", "choice", "B", CITIES).correct
    assert not judge("The answer is B", "choice", "A", CITIES).correct
    assert not judge("", "choice", "A", CITIES).correct


@given(st.integers(2, 26), st.data())
def test_every_letter_in_every_form(count: int, data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from(LETTERS[:count]))
    form = data.draw(
        st.sampled_from(["{}", "({})", "The answer is {}.", r"\boxed{{{}}}", "Answer: **{}**", "Option {}"])
    )
    before = data.draw(st.sampled_from(["", "Let me think.\n\n", "A long story:\n"]))
    choices = [f"choice number {i}." for i in range(count)]
    assert find_letter(before + form.format(letter), choices) == letter


@given(
    st.fractions(max_denominator=1000) | st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=4)
)
def test_a_number_is_found_by_its_value(value: object) -> None:
    found = find_number(f"After some thought, the answer is {value}.")
    assert found is not None
    assert to_number(found) == Fraction(str(value))


@given(st.integers(0, 10**12))
def test_thousands_separators_change_nothing(value: int) -> None:
    assert to_number(f"{value:,}") == value


TEXTS = st.text() | st.lists(st.sampled_from([r"\boxed{", "}", "{", "A", "1,", "answer is ", "/0", " ", "\n"])).map(
    "".join
)


@given(TEXTS, st.sampled_from(["choice", "number", "exact", "contains"]), st.lists(st.text(min_size=1), min_size=2))
def test_any_text_is_judged(final: str, match: str, choices: list[str]) -> None:
    found = judge(final, match, "A" if match == "choice" else "7", choices[:26])  # type: ignore[arg-type]
    assert found.extracted is not None or not found.correct
    if match == "number" and found.extracted is not None:
        assert re.search(r"\d", found.extracted)


def test_degenerate_texts_take_no_time() -> None:
    for text in (" ", "\n", " \n"):
        assert find_letter("the answer" + text * 100_000, CITIES) is None
    assert find_number("the answer is " * 20_000) is None
    assert boxed(r"\boxed{" * 100_000) is None
    assert boxed(r"\boxed{" * 100_000 + "5" + "}" * 100_000) == "5"
