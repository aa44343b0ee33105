"""Questions with known answers, read from a file.

A file of tasks has one JSON object per line:

| field | meaning |
| --- | --- |
| `id` | text or number, different in every row |
| `question` | what the user asks |
| `choices` | optional: two to 26 texts; the model sees them with letters and is asked for a letter |
| `answer` | with choices: the index of the right one from 0, its letter or its text; else a text or a number |
| `match` | optional: `choice`, `number`, `exact`, `contains` or `regex` (see `answers.judge`); unless given, `choice` for rows with choices, `number` where the answer is a JSON number, else `exact` |
| `system` | optional: instructions that the model should keep to |
| `group` | optional: results are reported by group |
"""  # noqa: E501 (a table)

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gptoss_mlx.errors import RequestError

from .answers import LETTERS, Match, to_number
from .texts import read_rows

FIELDS = ("id", "question", "choices", "answer", "match", "system", "group")
ASK_FOR_LETTER = "Answer with the letter of the right choice."


@dataclass(frozen=True)
class Task:
    """One question; see the module. `answer` is the right letter where there are choices."""

    id: str
    question: str
    answer: str
    match: Match
    choices: tuple[str, ...] = ()
    system: str | None = None
    group: str = "all"

    @property
    def prompt(self) -> str:
        """What the user says: the question, and the choices with their letters."""
        if not self.choices:
            return self.question
        listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return f"{self.question}\n\n{listed}\n\n{ASK_FOR_LETTER}"


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file.

    Raises:
        RequestError: the file or a row is not what the module describes; the row is named by its line.
    """
    tasks: dict[str, Task] = {}
    for where, row in read_rows(path):
        task = _task(row, where)
        if task.id in tasks:
            raise RequestError(f"{where}: id: a different one in every row expected, {task.id!r} found again")
        tasks[task.id] = task
    return list(tasks.values())


def _task(row: dict[str, Any], where: str) -> Task:
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        raise RequestError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise RequestError(f"{where}: id: a text or a whole number expected, {name!r} found")
    choices = _choices(row.get("choices"), where)
    match = _match(row, where)
    return Task(
        str(name),
        _text(row, "question", where),
        _letter(row.get("answer"), choices, where) if match == "choice" else _answer(row.get("answer"), match, where),
        match,
        choices,
        _text(row, "system", where) if row.get("system") is not None else None,
        _text(row, "group", where) if row.get("group") is not None else "all",
    )


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"{where}: {name}: a text expected, {value!r} found")
    return value


def _choices(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise RequestError(f"{where}: choices: a list of texts expected, {value!r} found")
    if not 2 <= len(value) <= len(LETTERS) or len(set(value)) < len(value):
        raise RequestError(f"{where}: choices: 2 to {len(LETTERS)} different texts expected, {len(value)} found")
    return tuple(value)


def _match(row: dict[str, Any], where: str) -> Match:
    has_choices = row.get("choices") is not None
    usual: Match = "choice" if has_choices else "exact" if isinstance(row.get("answer"), str) else "number"
    match: Match = usual if row.get("match") is None else row["match"]
    if match not in get_args(Match):
        raise RequestError(f"{where}: match: one of {', '.join(get_args(Match))} expected, {match!r} found")
    if has_choices != (match == "choice"):
        wanted = "choice, as the row has choices," if has_choices else "choices for match 'choice'"
        raise RequestError(f"{where}: match: {wanted} expected, {match!r} found")
    return match


def _letter(answer: Any, choices: Sequence[str], where: str) -> str:
    """The letter of the right choice; an answer that is one choice's letter and another's text is refused."""
    found = set()
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        found = {LETTERS[answer]}
    elif isinstance(answer, str):
        found = {LETTERS[i] for i, choice in enumerate(choices) if answer in (LETTERS[i], choice)}
    if len(found) != 1:
        what = "is a letter and another choice's text" if found else "found"
        raise RequestError(f"{where}: answer: the index, letter or text of one choice expected, {answer!r} {what}")
    return found.pop()


def _answer(answer: Any, match: Match, where: str) -> str:
    is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    text = str(answer) if is_number else answer
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"{where}: answer: a text or a number expected, {answer!r} found")
    if match == "number" and to_number(text) is None:
        raise RequestError(f"{where}: answer: a number expected, {answer!r} found")
    if match == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise RequestError(f"{where}: answer: a regular expression expected, {answer!r} found ({error})") from None
    return text
