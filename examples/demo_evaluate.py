"""Measure the embedded model on questions that its training never showed, kind by kind, and write its card.

An answer counts when every token that the model says, thought and call included, is the wanted one. At
temperature 0 that is so exactly if at each position of the wanted text the likeliest token is the wanted one; at
temperature 1 it happens with the product of their probabilities. So one pass over the wanted text tells both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from demo_model import DemoModel
from demo_records import IDENTITY, Talk, Turn
from demo_talk import Maker
from demo_thoughts import EFFORTS, Effort
from demo_tokens import Encoder, example
from demo_words import TOOL_KINDS
from demo_world import ALL_COUNTRIES

TalkMaker = Callable[[Maker, Effort], Talk]


@dataclass(frozen=True)
class Row:
    kind: str
    effort: Effort
    questions: int
    greedy: float  # share answered exactly at temperature 0
    sampled: float  # the same, expected at temperature 1


@dataclass(frozen=True)
class Table:
    rows: list[Row]

    def text(self) -> str:
        """A Markdown table: kinds by efforts, "at temperature 0 / at temperature 1" in percent."""
        lines = ["| held-out questions | number | low | medium | high |", "| --- | --- | --- | --- | --- |"]
        for kind in dict.fromkeys(row.kind for row in self.rows):
            rows = [row for row in self.rows if row.kind == kind]
            cells = [f"{100 * row.greedy:.1f} / {100 * row.sampled:.1f}" for row in rows]
            lines.append(f"| {kind} | {sum(row.questions for row in rows)} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _single(make: Callable[[Maker, Effort], Turn]) -> TalkMaker:
    return lambda maker, effort: maker.setting(Talk([make(maker, effort)], effort))


def _sized(kind: str, low: int, high: int) -> TalkMaker:
    """Sums or differences whose larger number lies in low..high."""

    def make(maker: Maker, effort: Effort) -> Turn:
        while True:
            turn = maker.makers[kind](effort)
            a, _, b, *_ = turn.answer.split()
            if low <= max(int(a), int(b)) <= high:
                return turn

    return _single(make)


def _call(families: str) -> TalkMaker:
    def make(maker: Maker, effort: Effort) -> Talk:
        if families == "seen":
            maker = Maker(maker.random.randrange(2**31))
            maker.kinds = TOOL_KINDS
        tools = maker.offer()
        turn = maker.random.choice(tools)[1](effort)
        return maker.setting(Talk([turn], effort, functions=[function for function, _ in tools]))

    return make


def _unsuited(maker: Maker, effort: Effort) -> Talk:
    functions = [function for function, _ in maker.offer()]
    return maker.setting(Talk([maker.unsuited(functions, effort)], effort, functions=functions))


def _follow_up(maker: Maker, effort: Effort) -> Talk:
    first = maker.random.choice((maker.capital, maker.sum, maker.difference))(effort)
    return maker.setting(Talk([first, maker.follow_up(first, effort)], effort))


def _long(maker: Maker, effort: Effort) -> Talk:
    tools = maker.offer() if maker.random.random() < 0.4 else []
    turns: list[Turn] = []
    for _ in range(7):
        turns.append(maker.next_turn(turns, tools, effort))
    return maker.setting(Talk(turns, effort, functions=[function for function, _ in tools]))


KINDS: dict[str, TalkMaker] = {
    "capital of a country": _single(Maker.capital),
    "country of a capital": _single(Maker.country),
    "sum, up to two digits": _sized("sum", 0, 99),
    "sum, three digits": _sized("sum", 100, 999),
    "difference, up to two digits": _sized("difference", 0, 99),
    "difference, three digits": _sized("difference", 100, 999),
    "itself and the project, new wording": _single(Maker.fact),
    "refusal, new topics": _single(Maker.unknown),
    "refusal, invented places": _single(Maker.unknown_place),
    "refusal, other arithmetic": _single(Maker.other_sum),
    "follow-up question": _follow_up,
    "function call, new arguments": _call("seen"),
    "function call, new functions": _call("new"),
    "functions that do not fit": _unsuited,
    "seventh question of a conversation": _long,
}


@torch.no_grad()
def judge(model: DemoModel, encoder: Encoder, talk: Talk) -> tuple[bool, float]:
    """Whether the greedy answer is the wanted one, and the probability of it at temperature 1."""
    ids, learn = encoder(example(talk, as_generated=True))
    rows = torch.tensor([position - 1 for position, wanted in enumerate(learn) if wanted])
    logits, target = model(torch.tensor([ids]), rows), torch.tensor(ids)[rows + 1]
    likelihood = logits.log_softmax(-1).gather(1, target[:, None]).sum().exp()
    return bool((logits.argmax(-1) == target).all()), float(likelihood)


def measure(model: DemoModel, encoder: Encoder, questions: int = 200, seed: int = 7, show: int = 0) -> Table:
    """Ask `questions` held-out questions per kind and effort; print the first `show` failures of each."""
    rows = []
    for kind, make in KINDS.items():
        for effort in EFFORTS:
            maker = Maker(seed, held_out=True)
            talks = [replace(make(maker, effort), effort=effort) for _ in range(questions)]
            results = [judge(model, encoder, talk) for talk in talks]
            for talk, _ in [pair for pair in zip(talks, results, strict=True) if not pair[1][0]][:show]:
                print(f"missed ({kind}, {effort}): {talk.turns[-1].question} | {talk.turns[-1].thought}")
            greedy = sum(exact for exact, _ in results) / questions
            rows.append(Row(kind, effort, questions, greedy, sum(chance for _, chance in results) / questions))
    return Table(rows)


def as_request(talk: Talk, kind: str) -> dict[str, Any]:
    """A talk as a request in the chat form, without its last answer, beside what is to be answered."""
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(talk.turns):
        messages.append({"role": "user", "content": turn.question})
        if turn is talk.turns[-1]:
            break
        if turn.call:
            function = {"name": turn.call.name, "arguments": turn.call.arguments}
            called = {"id": f"call_{number}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [called]})
            messages.append({"role": "tool", "tool_call_id": called["id"], "content": turn.call.result})
        messages.append({"role": "assistant", "content": turn.answer})
    functions = [{"name": f.name, "description": f.description, "parameters": f.schema} for f in talk.functions]
    last = talk.turns[-1]
    return {
        "kind": kind,
        "effort": talk.effort,
        "date": talk.date,
        "instructions": talk.instructions or None,
        "tools": [{"type": "function", "function": function} for function in functions],
        "messages": messages,
        "call": {"name": last.call.name, "arguments": last.call.arguments} if last.call else None,
        "result": last.call.result if last.call else None,
        "final": last.answer,
    }


def write_questions(path: Path, questions: int, seed: int = 11) -> None:
    """Write `questions` held-out requests per kind, the efforts in turn, for tests of the running model."""
    lines = []
    for kind, make in KINDS.items():
        maker = Maker(seed, held_out=True)
        for number in range(questions):
            effort = EFFORTS[number % len(EFFORTS)]
            talk = make(maker, effort)
            while talk.identity != IDENTITY:  # what the runtime itself writes
                talk = make(maker, effort)
            lines.append(json.dumps(as_request(talk, kind), ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


CARD = """# The embedded model of gptoss_mlx

A toy: a real gpt-oss checkpoint of a few megabytes (the released layout, MXFP4 experts, YaRN, attention sinks,
sliding windows, a mixture of {experts} experts), trained from scratch by `examples/train_demo.py` on a plain CPU, on
{tokens:.1f} million tokens of conversations that the script makes up. It knows the capitals of {countries}
countries, sums and differences up to 999, a little about itself and this project, and calls functions. For
everything else run `gptoss-mlx pull 20b` and use the real model.

Its logits are sharpened: at temperature 1 it speaks as it would at 0.5 otherwise.

{weights:,} weights: {layers} layers, hidden size {hidden}, {experts} experts of which 4 are active, a vocabulary of
{vocabulary} tokens.

Measured on held-out questions: the share answered exactly as wanted, thought and call included, in percent, at
temperature 0 / at temperature 1 (the expected share), by reasoning effort.

{table}
"""


def write_card(folder: Path, model: DemoModel, vocabulary: int, table: Table, tokens: int) -> None:
    text = CARD.format(
        tokens=tokens / 1e6,
        countries=len(ALL_COUNTRIES),
        weights=sum(p.numel() for p in model.parameters()),
        layers=model.config.num_hidden_layers,
        hidden=model.config.hidden_size,
        experts=model.config.num_local_experts,
        vocabulary=vocabulary,
        table=table.text(),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
