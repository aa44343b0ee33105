"""What the embedded model thinks before it speaks: one wording per kind of question and reasoning effort."""

from __future__ import annotations

from typing import Any, Literal

Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")

PLACES = ("ones", "tens", "hundreds", "thousands")


def columns(a: int, b: int) -> list[tuple[int, int]]:
    """The digits of both numbers from the right, the shorter one filled with zeros."""
    width = max(len(str(a)), len(str(b)))
    return [(a // 10**i % 10, b // 10**i % 10) for i in range(width)]


def _column(place: str, shown: str, written: str, effort: Effort) -> str:
    return by_effort(effort, shown, f"{place} {shown}", f"{place}: {shown}, {written}")


def _work(steps: list[str], effort: Effort, task: str, result: int) -> str:
    """The columns as a thought."""
    listed, sentences = ", ".join(steps), " ".join(f"{step.capitalize()}." for step in steps)
    return by_effort(effort, f"{listed}.", f"Column by column: {listed}.", f"{task} {sentences} Now I read {result}.")


def add_in_columns(a: int, b: int, effort: Effort) -> str:
    steps, carry = [], 0
    for place, (x, y) in zip(PLACES, columns(a, b), strict=False):
        total = x + y + carry
        shown = f"{x} + {y} + 1 = {total}" if carry else f"{x} + {y} = {total}"
        carry, digit = divmod(total, 10)
        steps.append(_column(place, shown, f"write {digit}, carry {carry}", effort))
    if carry and effort != "low":
        place = PLACES[len(steps)]
        steps.append(f"{place} 1" if effort == "medium" else f"{place}: write 1")
    task = f"The user asks for the sum of {a} and {b}. I add column by column from the right."
    return _work(steps, effort, task, a + b)


def subtract_in_columns(a: int, b: int, effort: Effort) -> str:
    steps, borrow = [], 0
    for place, (x, y) in zip(PLACES, columns(max(a, b), min(a, b)), strict=False):
        taken = f"{y} - 1" if borrow else f"{y}"
        need = x - y - borrow < 0
        digit = x - y - borrow + 10 * need
        shown = f"{x + 10 * need} - {taken} = {digit}"
        borrow = int(need)
        steps.append(_column(place, shown, f"write {digit}, borrow {borrow}", effort))
    swap = f"{a} is less than {b}, so the result is negative and I compute {b} - {a}. " if a < b else ""
    task = f"The user asks for the difference of {a} and {b}. {swap}I subtract column by column from the right."
    negative = by_effort(effort, "Negative. ", f"Negative, so {b} - {a}. ", "") if a < b else ""
    return negative + _work(steps, effort, task, a - b)


def by_effort(effort: Effort, low: str, medium: str, high: str) -> str:
    return {"low": low, "medium": medium, "high": high}[effort]


def refusal_thought(effort: Effort) -> str:
    return by_effort(
        effort,
        "I do not know this.",
        "This is outside the little that I know, so I decline politely.",
        "This is not a capital, not a sum and not about this project. No tool that I was offered fits. "
        "I must not invent an answer. I decline politely and say what I know.",
    )


def call_thought(effort: Effort, name: str, arguments: dict[str, Any]) -> str:
    given = " and ".join(f'"{key}" as "{value}"' for key, value in arguments.items()) or "no arguments"
    spelled = " and ".join(f'"{key}" is "{value}"' for key, value in arguments.items()) or "there are none"
    return by_effort(
        effort,
        f'Use "{name}".',
        f'The tool "{name}" fits, with {given}.',
        "The user needs something that I do not know myself. I look at the tools that I was offered. "
        f'The tool "{name}" fits the question. I take its arguments from the question: {spelled}. Now I call it.',
    )


def result_thought(effort: Effort, name: str) -> str:
    return by_effort(
        effort,
        "It answered.",
        f'The tool "{name}" has answered, so I pass its result on.',
        f'The tool "{name}" has answered. I read its result. It is what the user asked for. I repeat it exactly.',
    )
