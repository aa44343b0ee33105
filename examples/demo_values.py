"""Random words, names, numbers, and what tools are given and answer."""

from __future__ import annotations

import random
from typing import Any

import demo_words as words
import demo_world as world
from demo_records import json_text
from demo_words import entries


class Values:
    """A source of random values; the same seed gives the same ones."""

    def __init__(self, seed: int, held_out: bool = False) -> None:
        self.random = random.Random(seed)
        self.held_out = held_out
        self.topics = entries(words.HELD_OUT_TOPICS if held_out else words.TOPICS)
        self.places = entries(words.PLACES) + [c.capital for c in world.ALL_COUNTRIES]

    def word(self) -> str:
        """An invented word."""
        r = self.random
        onset, vowel = entries("b;bl;br;c;ch;d;dr;f;fl;g;gr;h;j;k;kl;l;m;n;p;pl;qu;r;s;sk;st;t;tr;v;w;z"), "aeiou"
        coda = ["", "", "", "n", "r", "s", "l", "x", "m", "nd", "th", "ck", "ng", "b", "p"]
        count = r.choice((1, 2, 2, 2, 3, 3))
        text = "".join(r.choice(onset) + r.choice(vowel) + r.choice(coda) for _ in range(count))
        return text + r.choice(("", "", "", "", "ia", "land", "o", "y"))

    def name(self) -> str:
        """A capitalised name, real or invented, sometimes of two words."""
        r, choice = self.random, self.random.random()
        if choice < 0.35:
            return r.choice(entries(words.NAMES))
        if choice < 0.85:
            return self.word().capitalize()
        first = r.choice((self.word(), self.word(), "new", "san", "port", "lake"))
        return f"{first.capitalize()} {self.word().capitalize()}"

    def place(self) -> str:
        return self.random.choice(self.places) if self.random.random() < 0.5 else self.name()

    def topic(self) -> str:
        r, choice = self.random, self.random.random()
        if choice < 0.55 or self.held_out:
            return r.choice(self.topics)
        if choice < 0.75:
            return self.word()
        if choice < 0.9:
            return self.name()
        return f"{r.choice(entries(words.WORDS))} and {self.word()}"

    def number(self) -> int:
        r = self.random
        return r.randrange(100) if r.random() < 0.5 else r.randrange(10 ** r.choice((1, 2, 3, 3)))

    def value(self, maker: str) -> Any:
        """A value of a tool's parameter."""
        r = self.random
        if maker == "number":
            return r.choice((self.number(), self.number(), r.randrange(10000), round(r.random() * 100, 1)))
        if maker == "word":
            return r.choice(entries(words.WORDS)) if r.random() < 0.5 else self.word()
        if maker == "symbol":
            return r.choice(entries(words.SYMBOLS)) if r.random() < 0.6 else self.word().upper()[:4]
        if maker == "title":
            pair = f"{self.word()} {r.choice(entries(words.WORDS))}"
            return r.choice((r.choice(words.TITLES.split(";")), pair.capitalize(), pair, self.word()))
        pools = {"unit": words.UNITS, "language": "French;German;Spanish;Italian;Latin;Dutch;Polish;Greek"}
        if maker in pools:
            return r.choice(entries(pools[maker])) if r.random() < 0.8 else self.word()
        return {"place": self.place, "name": self.name, "topic": self.topic}[maker]()

    def result(self, maker: str) -> str:
        """What a tool answers."""
        r, n = self.random, self.number()
        if r.random() < 0.25:
            maker = r.choice(("weather", "clock", "amount", "words", "price", "done", "record", "flight", "number"))
        sky = r.choice(("sunny", "rain", "cloudy", "snow", "windy", "clear", "fog", self.word()))
        choices = {
            "weather": (f"{n % 40} C, {sky}", f"{sky}, {n % 40} degrees", json_text({"temp": n % 40, "sky": sky}), sky),
            "clock": (f"{n % 24:02}:{self.number() % 60:02}", f"{n % 12 + 1}:{n % 60:02} pm", f"{n % 24} o'clock"),
            "amount": (f"{n}.{self.number() % 10} {self.value('unit')}", f"{n} {self.value('unit')}", f"{n}"),
            "words": (self.word(), f"{self.word()} {self.value('word')}", f"{self.value('word')}, {self.word()}"),
            "price": (f"{n}.{self.number() % 90 + 10}", f"{n} USD", json_text({"price": n})),
            "done": ("ok", "done", "sent", json_text({"ok": True}), "saved", f"ok, id {n}", "error: not found"),
            "record": (json_text({"name": self.name(), "id": n}), f"{self.name()}, {n}", json_text({"id": n})),
            "flight": (f"{self.word().upper()[:2]} {n} at {n % 24:02}:{n % 60:02}", f"{n} EUR", "none"),
            "number": (f"{n}", f"{r.randrange(10000)}", f"{n}.{self.number() % 10}"),
        }
        return r.choice(choices[maker])
