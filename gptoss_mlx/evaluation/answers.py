"""What a model answered -> right or wrong.

Only the text of the channel `final` is looked at: thoughts weigh answers that are dropped again. From it the answer
is taken in the forms that models are known to give it, the most explicit first: `\\boxed{B}`, `The answer is B`, a
line that is nothing but `B` or `(B) Paris`, a single choice that is named. Where the text leaves it open between
two, nothing is taken: better no answer than a guess that may be counted as right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Match = Literal["exact", "number", "contains", "regex", "choice"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_BRACE = re.compile(r"(\\(?:boxed|fbox)\s*)?\{|\}")
_WRAPPER = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm|sf)|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[*_`$€£]|\\[()\[\],!;]")
_LETTER = r"\(?(?:([A-Z])\b(?!['’])|([a-z])\b(?=\s*(?:[).,:;]|$)))"
_STATED_LETTER = re.compile(
    r"\b(?i:answer)\b\s*(?i:is|would be|must be|=)?\s*:?\s*(?i:the\s+)?(?i:choice|option|letter)?\s*" + _LETTER,
    re.MULTILINE,
)
_OPTION_LETTER = re.compile(r"\b(?i:choice|option)\s+" + _LETTER, re.MULTILINE)
_LETTER_LINE = re.compile(r"\(?([A-Za-z])(?:\)|\.|:)?(?:\s+(.*))?")
_STATED_NUMBER = re.compile(r"\b(?i:answer)\b\s*(?i:is|=|:)|####")
_NUMBER = re.compile(
    r"(?:(?<![\w)])[-+])?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?(?:\s*/\s*\d+)?"
    r"|(?:(?<![\w)])[-+])?\.\d+"
)


@dataclass(frozen=True)
class Verdict:
    """What was taken out of a final text (None: nothing), and whether it is right."""

    extracted: str | None
    correct: bool


def judge(final: str, match: Match, answer: str, choices: Sequence[str] = ()) -> Verdict:
    """Hold a final text against the right answer.

    Args:
        final: the text of the channel final, empty if there is none.
        match: `choice`: the letter; `number`: the same value, however written; `exact`: the same text but for spaces
            around it; `contains`: the answer occurs in it, in any case; `regex`: the answer is a pattern that it has.
        answer: the right letter, number, text or pattern.
        choices: of `choice`, what the letters A, B, ... stand for.
    """
    match match:
        case "choice":
            extracted = find_letter(final, choices)
            return Verdict(extracted, extracted == answer)
        case "number":
            extracted = find_number(final)
            return Verdict(extracted, extracted is not None and to_number(extracted) == to_number(answer))
        case "exact":
            extracted = (boxed(final) or final).strip() or None
            return Verdict(extracted, extracted == answer.strip())
        case "contains":
            return Verdict(final.strip() or None, answer.casefold() in final.casefold())
        case "regex":
            found = re.search(answer, final)
            return Verdict(found[0] if found else final.strip() or None, found is not None)


def boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` that is closed (the inner one of two), without LaTeX's dress."""
    opened: list[tuple[bool, int]] = []
    last: tuple[int, int] | None = None
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace[1] is not None, brace.end()))
        elif opened:
            is_box, start = opened.pop()
            if is_box and (last is None or start > last[0]):
                last = (start, brace.start())
    return None if last is None else undressed(text[slice(*last)])


def undressed(text: str) -> str:
    """Text without Markdown's emphasis, LaTeX's wrappers, currency signs and runs of spaces; fractions as a/b."""
    text = text.replace("{,}", ",").replace("−", "-").replace("\\%", "%")
    text = _FRACTION.sub(r"\1/\2", _WRAPPER.sub(r"\1", text))
    lines = (" ".join(line.split()) for line in _MARKUP.sub("", text).splitlines())
    return "\n".join(line for line in lines if line)


def find_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that a text settles on; None where it names none, or several."""
    box = boxed(text)
    if box is not None:
        return _of_line(box, choices) or _named(box, choices)
    plain = undressed(text)
    stated = _letters(_STATED_LETTER, plain, choices)
    if stated:
        return stated[-1]
    options = set(_letters(_OPTION_LETTER, plain, choices))
    if options:
        return options.pop() if len(options) == 1 else None
    lines = {letter for line in plain.splitlines() if (letter := _of_line(line, choices))}
    if lines:
        return lines.pop() if len(lines) == 1 else None
    return _named(plain, choices)


def _letters(pattern: re.Pattern[str], text: str, choices: Sequence[str]) -> list[str]:
    """The letters of choices that a pattern finds, in order."""
    found = [(upper or lower).upper() for upper, lower in pattern.findall(text)]
    return [letter for letter in found if letter in LETTERS[: len(choices)]]


def _of_line(line: str, choices: Sequence[str]) -> str | None:
    """The letter of a line that is only a letter, or a letter with its own choice behind it."""
    match = _LETTER_LINE.fullmatch(line)
    if match is None or match[1].upper() not in LETTERS[: len(choices)]:
        return None
    letter, rest = match[1].upper(), match[2]
    own = choices[LETTERS.index(letter)]
    return letter if not rest or _folded(rest) == _folded(own) else None


def _named(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the only choice whose text occurs; a choice within another that occurs does not count."""
    text, folded = _folded(text), [_folded(choice) for choice in choices]
    found = [c for c in folded if c and re.search(rf"(?<!\w){re.escape(c)}(?!\w)", text)]
    longest = [c for c in found if not any(c != other and c in other for other in found)]
    return LETTERS[folded.index(longest[0])] if len(longest) == 1 else None


def _folded(text: str) -> str:
    return " ".join(undressed(text).casefold().split()).rstrip(".")


def find_number(text: str) -> str | None:
    """The number that a text settles on, as it is written there: boxed, stated as the answer, else the last one."""
    box = boxed(text)
    plain = undressed(text) if box is None else box
    end = len(plain)
    for stated in reversed(list(_STATED_NUMBER.finditer(plain))):
        match = _NUMBER.search(plain, stated.end(), end)
        if match is not None:
            return match[0]
        end = stated.start()
    numbers = [match[0] for match in _NUMBER.finditer(plain)]
    return numbers[-1] if numbers else None


def to_number(text: str) -> Fraction | None:
    """The exact value of a number such as -1,234.50, 3/4 or 1e6; None for any other text."""
    plain = undressed(text).removesuffix("%")
    if not _NUMBER.fullmatch(plain):
        return None
    top, _, bottom = plain.replace(",", "").partition("/")
    try:
        return Fraction(top) / Fraction(bottom or "1")
    except (ValueError, ZeroDivisionError):  # more digits than Python reads; a fraction without a value
        return None
