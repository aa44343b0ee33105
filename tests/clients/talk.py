"""What the checks of all clients share: the conversations, what they ask of each reply, and one line for each check.

`scenarios.json` has the conversations, lists of turns: a question, what the answer must contain and, where the model
is to call get_weather first, the city it is to ask for. `weather` is what the function returns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

SCENARIOS: dict[str, Any] = json.loads((Path(__file__).parent / "scenarios.json").read_text())
WEATHER: dict[str, str] = SCENARIOS["weather"]
URL = os.environ.get("GPTOSS_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("GPTOSS_MODEL", "demo")
KEY = "none"
TOOL, TOOL_SAYS = "get_weather", "Get the weather in a city."
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass(frozen=True)
class Call:
    """A call as a client shows it."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass
class Answer:
    """What a client makes of one turn, calls and their results included."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    """How each reply ended, in the client's words."""
    tokens: list[tuple[int, int]] = field(default_factory=list)
    """Read and written, for each reply."""
    thoughts: str | None = None
    """None: the client does not show them."""


Ask = Callable[[str], Answer]
"""Goes on with a conversation."""


class Checks:
    """Runs checks of one client and prints a line for each.

    Args:
        client: its name, which may change on the way.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self._failed = 0

    def check(self, name: str, act: Callable[[], object]) -> None:
        """Say whether `act` raises nothing."""
        problem = ""
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever a client raises is a finding, and other checks go on
            problem = f": {type(error).__name__}: {' '.join(str(error).split())[:500]}"
            self._failed += 1
        print(f"{'FAILED' if problem else 'ok    '} {self.client}: {name}{problem}", flush=True)

    def conversations(self, begin: Callable[[], Ask], called: str, ended: str) -> None:
        """Hold the conversations.

        Args:
            begin: begins one.
            called: how a reply with a call ends, in the client's words.
            ended: how an answer ends.
        """
        for turns in SCENARIOS["conversations"]:
            name = " ".join(question for question, *_ in turns)
            self.check(name, partial(_hold, begin, turns, called, ended))

    def exit(self) -> None:
        """End the process with what the shell is to know.

        Raises:
            SystemExit: always.
        """
        raise SystemExit(1 if self._failed else 0)


def _hold(begin: Callable[[], Ask], turns: list[list[str]], called: str, ended: str) -> None:
    ask, ids = begin(), set[str]()
    for question, expected, *cities in turns:
        answer = ask(question)
        same("calls", [(call.name, call.arguments) for call in answer.calls], [(TOOL, {"city": c}) for c in cities])
        same("finish reasons", answer.finishes, [called] * len(cities) + [ended])
        holds(f"{expected!r} in the answer", expected in answer.text, answer.text)
        holds("ids that are new", all(call.id and call.id not in ids for call in answer.calls), answer.calls)
        ids |= {call.id for call in answer.calls}
        holds("usage of each reply", len(answer.tokens) == len(answer.finishes), answer.tokens)
        holds("tokens in each usage", all(read > 20 and wrote > 3 for read, wrote in answer.tokens), answer.tokens)
        holds("thoughts", answer.thoughts != "", answer)


def same(what: str, found: object, expected: object) -> None:
    """AssertionError unless both are equal."""
    assert found == expected, f"{what}: {expected!r} expected, {found!r} found"


def holds(what: str, condition: bool, found: object) -> None:
    """AssertionError unless the condition holds."""
    assert condition, f"{what} expected, {found!r} found"
