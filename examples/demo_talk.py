"""Synthetic conversations for the embedded model, one canonical wording per kind of answer and effort.

A `Talk` is what a person, the model and the tools say in one conversation; only its last turn is to be learned.
Pairs of numbers, combinations of wording and country, tools and topics are split into a part for training and a
held-out part by a checksum, so that `Maker(held_out=True)` asks what training never showed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import demo_words as words
import demo_world as world
from demo_records import Call, Function, Talk, Turn, json_text
from demo_thoughts import (
    EFFORTS,
    Effort,
    add_in_columns,
    by_effort,
    call_thought,
    refusal_thought,
    result_thought,
    subtract_in_columns,
)
from demo_values import Values
from demo_words import ToolKind, entries

LENGTHS = (1,) * 62 + (2,) * 17 + (3,) * 9 + (4,) * 5 + (5,) * 3 + (6,) * 2 + (7,) * 2
"""How often a talk has so many turns."""


def checksum(*parts: object) -> int:
    return zlib.crc32("|".join(map(str, parts)).encode())


class Maker(Values):
    """Makes talks; the same seed gives the same talks."""

    def __init__(self, seed: int, held_out: bool = False) -> None:
        super().__init__(seed, held_out)
        self.free = entries(words.HELD_OUT_FREE_QUESTIONS if held_out else words.FREE_QUESTIONS, "|")
        self.kinds = words.HELD_OUT_TOOLS if held_out else words.TOOL_KINDS
        self.nouns = entries(words.HELD_OUT_NOUNS if held_out else words.NOUNS)
        self.makers: dict[str, Callable[[Effort], Turn]] = {
            "capital": self.capital, "country": self.country, "sum": self.sum, "difference": self.difference,
            "fact": self.fact, "unknown": self.unknown, "unknown place": self.unknown_place,
            "other sum": self.other_sum,
        }  # fmt: skip

    def allowed(self, *parts: object) -> bool:
        """Whether a combination belongs to this maker's side of the split (a tenth is held out)."""
        return (checksum(*parts) % 10 == 0) == self.held_out

    # ---- turns without tools

    def capital(self, effort: Effort, questions: list[str] = world.CAPITAL_QUESTIONS) -> Turn:
        while True:
            country, question = self.random.choice(world.ALL_COUNTRIES), self.random.choice(questions)
            if self.allowed(country.name, question):
                break
        asked = country.name if self.random.random() < 0.7 else country.bare
        thought = by_effort(
            effort,
            f"{country.bare}: {country.capital}.",
            f"The user asks for the capital of {country.name}, which is {country.capital}.",
            f"The user asks for a capital. The country is {country.name}. It lies in {country.continent}. "
            f"Its capital is {country.capital}. I am sure of that. I answer in one sentence.",
        )
        answer = f"The capital of {country.name} is {country.capital}".rstrip(".") + "."
        return Turn("capital", question.format(c=asked), thought, answer)

    def country(self, effort: Effort) -> Turn:
        while True:
            country = self.random.choice(world.ALL_COUNTRIES)
            question = self.random.choice(world.COUNTRY_QUESTIONS)
            if self.allowed(country.capital, question):
                break
        thought = by_effort(
            effort,
            f"{country.capital}: {country.bare}.",
            f"The user asks whose capital {country.capital} is, and that is {country.name}.",
            f"The user asks for a country. The city is {country.capital}. It lies in {country.continent}. "
            f"It is the capital of {country.name}. I am sure of that. I answer in one sentence.",
        )
        answer = f"{country.capital} is the capital of {country.name}."
        return Turn("country", question.format(k=country.capital), thought, answer)

    def pair(self) -> tuple[int, int]:
        while True:
            a, b = self.number(), self.number()
            if self.allowed(a, b):
                return a, b

    def sum(self, effort: Effort, questions: list[str] = world.SUM_QUESTIONS) -> Turn:
        a, b = self.pair()
        question = self.random.choice(questions).format(a=a, b=b)
        if question.startswith("add") and " to " in question:
            question = f"add {a} to {b}"
        return Turn("sum", question, add_in_columns(a, b, effort), f"{a} + {b} = {a + b}.")

    def difference(self, effort: Effort) -> Turn:
        a, b = self.pair()
        if a < b and self.random.random() < 0.6:
            a, b = b, a
            if not self.allowed(a, b):
                return self.difference(effort)
        question = self.random.choice(world.DIFFERENCE_QUESTIONS).format(a=a, b=b)
        return Turn("difference", question, subtract_in_columns(a, b, effort), f"{a} - {b} = {a - b}.")

    def fact(self, effort: Effort) -> Turn:
        fact = self.random.choice(world.FACTS)
        if self.random.random() < 0.35 and not self.held_out:
            fact = world.FACTS[0] if self.random.random() < 0.3 else self.random.choice(world.FACTS[:9])
        asked = fact.questions[-1:] if self.held_out else fact.questions[:-1]
        thought = by_effort(
            effort,
            f"About {fact.subject}.",
            f"This is about {fact.subject}, which I know, so I answer from memory.",
            f"This is about {fact.subject}. It is neither a capital nor a sum. No tool is needed for it. "
            "I know the answer from my training. I give it in a sentence or two.",
        )
        return Turn("fact", self.random.choice(asked), thought, fact.answer)

    def unknown(self, effort: Effort) -> Turn:
        r = self.random
        roll = r.random()
        if roll < 0.3:
            question = r.choice(self.free)
        elif roll < 0.38:
            question = " ".join(self.word() for _ in range(r.randint(1, 6))) + r.choice(("", "?", "!"))
        else:
            question = r.choice(words.UNKNOWN_QUESTIONS).format(t=self.topic(), u=self.topic())
        return Turn("unknown", question, refusal_thought(effort), world.UNKNOWN)

    def unknown_place(self, effort: Effort) -> Turn:
        r = self.random
        known = {c.capital for c in world.ALL_COUNTRIES} | {c.name for c in world.ALL_COUNTRIES}
        while (place := r.choice(entries(words.PLACES)) if r.random() < 0.15 else self.name()) in known:
            pass
        if r.random() < 0.25:
            thought = by_effort(
                effort,
                "Not a known capital.",
                f"I know no country with the capital {place}, so I decline politely.",
                f"The user asks for a country. The city is {place}. I look for it among the capitals that I know. "
                "It is not one of them. I must not invent a country. I decline politely.",
            )
            question = r.choice(world.COUNTRY_QUESTIONS).format(k=place)
            return Turn("unknown place", question, thought, world.UNKNOWN_CITY.format(x=place))
        thought = by_effort(
            effort,
            "Not a known country.",
            f"I know no country called {place}, so I decline politely.",
            f"The user asks for a capital. The place is {place}. I look for it among the countries that I know. "
            "It is not one of them. I must not invent a city. I decline politely.",
        )
        question = r.choice(world.CAPITAL_QUESTIONS).format(c=place)
        return Turn("unknown place", question, thought, world.UNKNOWN_PLACE.format(x=place))

    def other_sum(self, effort: Effort) -> Turn:
        r = self.random
        a, b = self.pair()
        question = r.choice(world.OTHER_SUMS).format(a=a, b=b)
        if r.random() < 0.4:
            a, b = r.randrange(1000, 10 ** r.choice((4, 5, 6))), r.randrange(10 ** r.choice((1, 3, 4, 5)))
            a, b = r.choice(((a, b), (b, a)))
            question = r.choice(world.SUM_QUESTIONS + world.DIFFERENCE_QUESTIONS).format(a=a, b=b)
        thought = by_effort(
            effort,
            "Too hard for me.",
            "I only add and subtract numbers up to 999, so I decline politely.",
            "The user asks for a computation. I only add and subtract. The numbers must not exceed 999. "
            "This does not fit. I must not guess. I decline politely.",
        )
        return Turn("other sum", question, thought, world.UNKNOWN_SUM)

    def follow_up(self, last: Turn, effort: Effort) -> Turn:
        """A question that needs the one before it."""
        r = self.random
        if last.kind in ("capital", "unknown place") and "the capital of" in last.answer:
            return self.capital(effort, world.CAPITAL_FOLLOW_UPS)
        if last.kind in ("sum", "difference") and 0 <= (a := int(last.answer.rstrip(".").split(" = ")[1])) <= 999:
            while not self.allowed(a, b := self.number()):
                pass
            if r.random() < 0.5:
                question = r.choice(world.MORE_FOLLOW_UPS).format(b=b)
                return Turn("sum", question, add_in_columns(a, b, effort), f"{a} + {b} = {a + b}.")
            question = r.choice(world.LESS_FOLLOW_UPS).format(b=b)
            return Turn("difference", question, subtract_in_columns(a, b, effort), f"{a} - {b} = {a - b}.")
        return self.plain(effort)

    def plain(self, effort: Effort) -> Turn:
        kinds, weights = list(self.makers), (20, 9, 22, 22, 12, 10, 6, 5)
        return self.makers[self.random.choices(kinds, weights)[0]](effort)

    # ---- tools

    def function(self, kind: ToolKind) -> tuple[Function, Callable[[Effort], Turn]]:
        """A function of a family, and the maker of a question that it suits."""
        r = self.random
        properties: dict[str, dict[str, Any]] = {}
        for parameter in kind.parameters.split(", ") if kind.parameters else []:
            names, _, type_ = parameter.partition(":")
            name = r.choice([n for n in names.split("|") if n not in properties])
            properties[name] = {"type": type_}
            if r.random() < 0.2:
                properties[name]["description"] = r.choice(
                    ("Required.", f"The {name}.", f"{self.word()}.", f"A {name}")
                )
        required = tuple(properties)
        if properties and r.random() < 0.25:
            properties.update(self.optional_property(properties))
        name, description = r.choice(kind.names.split("|")), r.choice(kind.descriptions.split("|"))
        function = Function(name, description, properties, required, kind.names)
        return function, lambda effort: self.call(kind, function, effort)

    def optional_property(self, taken: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {
            "units": {"type": "string", "enum": ["metric", "imperial"]},
            "limit": {"type": "integer", "default": 10},
            "verbose": {"type": "boolean"},
            "lang": {"type": "string", "default": "en"},
            "format": {"type": "string", "enum": ["text", "json"], "default": "text"},
        }
        name = self.random.choice(list(options))
        return {} if name in taken else {name: options[name]}

    def call(self, kind: ToolKind, function: Function, effort: Effort) -> Turn:
        values = [self.value(maker) for maker in kind.values.split()]
        question = self.random.choice(kind.questions.split("|")).format(*values)
        arguments = dict(zip(function.required, values, strict=True))
        result = self.result(kind.results)
        call = Call(function.name, json_text(arguments), result, result_thought(effort, function.name))
        thought = call_thought(effort, function.name, arguments)
        return Turn("call", question, thought, f"The tool says:\n{result}", call)

    def noun_kind(self) -> ToolKind:
        """A family made of one noun, known or invented: the question names it, the function too."""
        r = self.random
        noun = r.choice(self.nouns) if r.random() < (1.0 if self.held_out else 0.6) else self.word()
        asks = [f"What is the {noun} of", f"What's the {noun} of", f"Tell me the {noun} of", f"Get the {noun} of",
                f"Show me the {noun} for", f"I need the {noun} of", f"What is the {noun} in", f"Find the {noun} for",
                f"{noun} of", f"Give me the {noun} of", f"Look up the {noun} of", f"Check the {noun} for"]  # fmt: skip
        names = f"get_{noun}|{noun}|{noun}_of|find_{noun}|read_{noun}|{noun}_info|show_{noun}|fetch_{noun}|check_{noun}"
        descriptions = f"The {noun} of something.|Get the {noun}.|Returns the {noun}.|Looks up a {noun}.|{noun}|"
        if r.random() < 0.1:
            bare = (
                f"What is the {noun}?|Show the {noun}.|Tell me the {noun}.|{noun}?|What's the {noun}?|Get the {noun}."
            )
            return ToolKind(names, descriptions, "", bare, "", r.choice(("words", "number", "record", "done", "clock")))
        questions = "|".join(ask + " {0}" + end for ask, end in ((ask, r.choice("?..")) for ask in asks))
        parameters = "name|id|item|place|city|query|key|x|subject|target|object|user|code:string"
        value, result = r.choice(("place", "name", "word", "symbol")), r.choice(("words", "number", "record", "amount"))
        if r.random() < 0.12:
            parameters, value = "id|number|n|year|code|index:integer", "number"
        return ToolKind(names, descriptions, parameters, questions, value, result)

    def offer(self) -> list[tuple[Function, Callable[[Effort], Turn]]]:
        """One to four functions of different families."""
        r = self.random
        count = r.choice((1, 1, 1, 2, 2, 3, 4))
        found: dict[str, tuple[Function, Callable[[Effort], Turn]]] = {}
        while len(found) < count:
            kind = self.noun_kind() if r.random() < 0.5 else r.choice(self.kinds)
            offer = self.function(kind)
            if not any(offer[0].topic == other.topic for other, _ in found.values()):
                found[offer[0].name] = offer
        return list(found.values())

    def unsuited(self, offered: list[Function], effort: Effort) -> Turn:
        """A turn that none of the offered functions helps with."""
        roll = self.random.random()
        if roll < 0.6:
            turn = self.plain(effort)
        else:
            kind = self.noun_kind() if roll < 0.75 else self.random.choice(self.kinds)
            turn = replace(self.function(kind)[1](effort), kind="unknown", call=None)
            turn = replace(turn, thought=refusal_thought(effort), answer=world.UNKNOWN)
            if "times" in kind.names:
                turn = self.other_sum(effort)
        asked = set(turn.question.lower().replace("?", " ").replace(".", " ").split()) - COMMON
        computes = turn.kind == "other sum" and any("calculator" in function.topic for function in offered)
        if computes or (turn.kind == "unknown" and any(asked & hints(function) for function in offered)):
            return self.unsuited(offered, effort)
        return turn

    # ---- talks

    def talk(self, lengths: tuple[int, ...] = LENGTHS) -> Talk:
        """Any conversation, as training sees them, of one of these numbers of turns."""
        r = self.random
        effort = r.choice(EFFORTS)
        tools = self.offer() if r.random() < 0.38 else []
        length = r.choice(lengths)
        turns: list[Turn] = []
        while len(turns) < length:
            turns.append(self.noisy(self.next_turn(turns, tools, effort)))
        return self.setting(Talk(turns, effort, functions=[function for function, _ in tools]))

    def next_turn(
        self, turns: list[Turn], tools: list[tuple[Function, Callable[[Effort], Turn]]], effort: Effort
    ) -> Turn:
        roll = self.random.random()
        if turns and roll < 0.35 and turns[-1].kind in ("capital", "sum", "difference", "unknown place"):
            return self.follow_up(turns[-1], effort)
        if not tools:
            return self.weather_without_tools(effort) if roll > 0.96 else self.plain(effort)
        return self.random.choice(tools)[1](effort) if roll < 0.65 else self.unsuited([f for f, _ in tools], effort)

    def weather_without_tools(self, effort: Effort) -> Turn:
        return self.unsuited([], effort)

    def noisy(self, turn: Turn) -> Turn:
        """Sometimes all in lower case, without the last mark, or with a polite word."""
        r, question = self.random, turn.question
        if turn.call is None and turn.kind not in ("unknown place",) and r.random() < 0.12:
            question = question.lower()
        if turn.call is None and r.random() < 0.08:
            question = question.rstrip("?.!")
        if r.random() < 0.03:
            question = question.rstrip("?.!") + r.choice((" please", ", please", ", please?", " please?"))
        return replace(turn, question=question) if turn.kind != "call" or "please" not in question else turn

    def setting(self, talk: Talk) -> Talk:
        """A system and a developer message around the turns."""
        r = self.random
        talk = replace(talk, instructions=self.instructions() if r.random() < 0.3 else "")
        if r.random() < 0.55:
            date = f"{r.randint(2024, 2030)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"
            talk = replace(talk, date=date)
        if r.random() < 0.04:
            return replace(talk, identity=f"You are {self.name()}.")
        if r.random() < 0.04 and all(turn.thought for turn in talk.turns):
            return replace(talk, identity=None) if talk.effort == "medium" else talk
        return talk

    def instructions(self) -> str:
        r = self.random
        text = " ".join(r.sample(words.INSTRUCTIONS, r.choice((1, 1, 2))))
        if r.random() < 0.7:
            return text
        more = " ".join(self.word() for _ in range(r.randint(2, 8))) + "."
        return f"{text} {r.choice((more, self.unknown('low').question))}"


COMMON = frozenset(
    entries(
        "what;is;the;a;an;of;in;for;to;do;does;how;much;many;tell;me;show;give;i;you;your;my;it;and;or;who;where;when;"
        "why;which;are;was;from;about;with;can;get;find;look;up;need;on;at;by;there;their;this;that"
    )
)


def hints(function: Function) -> set[str]:
    """The words by which a question may call for a function."""
    text = f"{function.name} {function.topic} {function.description}".lower()
    for mark in "_|.,":
        text = text.replace(mark, " ")
    return set(text.split()) - COMMON
