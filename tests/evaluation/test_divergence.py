"""Divergence against analytical cases, both ways to compute it, and what is compared on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import GptOss, Message
from gptoss_mlx.convert.presets import Preset
from gptoss_mlx.demo import MODEL_FOLDER
from gptoss_mlx.errors import RequestError
from gptoss_mlx.evaluation.divergence import (
    StoredLogits,
    check_vocabularies,
    compare,
    compare_folders,
    compare_presets,
    divergence,
    logits,
)
from gptoss_mlx.evaluation.scoring import Block
from gptoss_mlx.evaluation.texts import Material, Passage, as_passage, spoken, text_passages
from gptoss_mlx.history import to_conversation
from tiny_tokenizer import tiny_tokenizer
from toy import write_toy

HELD_OUT = Path(__file__).parent.parent / "data" / "demo_heldout.jsonl"
PASSAGES = [Passage(list(range(60)), range(60)), Passage([5, 6, 7], [2])]


@pytest.fixture(scope="module")
def demo() -> GptOss:
    return gptoss_mlx.load("demo")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random models of one vocabulary."""
    first, second = (write_toy(tmp_path_factory.mktemp(f"toy{seed}"), seed) for seed in (1, 2))
    return first, second


def block(*rows: list[float]) -> Block:
    return np.log(np.array(rows, np.float64)).astype(np.float32)


def test_the_divergence_of_two_coins() -> None:
    found = compare([block([0.5, 0.5], [0.9, 0.1])], [block([0.25, 0.75], [0.9, 0.1])])
    assert found.nats == pytest.approx([0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), 0], abs=1e-7)
    assert found.mean == pytest.approx(found.nats[0] / 2)
    assert found.quantile(1.0) == found.nats[0]


def test_the_divergence_of_two_exponential_distributions() -> None:
    vocabulary, a, b = 1000, 0.01, 0.013
    p, q = (rate * np.arange(vocabulary) for rate in (-a, -b))
    found = compare([p[None].astype(np.float32)], [q[None].astype(np.float32)])
    log_z = [math.log((1 - math.exp(-rate * vocabulary)) / (1 - math.exp(-rate))) for rate in (a, b)]
    mean = 1 / math.expm1(a) - vocabulary / math.expm1(a * vocabulary)
    assert found.mean == pytest.approx((b - a) * mean + log_z[1] - log_z[0], rel=1e-5)


def test_agreement_by_hand() -> None:
    ours = np.array([[9, 8, 7, 6, 5, 0, 0], [9, 8, 7, 6, 5, 0, 0]], np.float32)
    theirs = np.array([[9, 8, 7, 6, 5, 0, 0], [0, 0, 7, 6, 5, 9, 8]], np.float32)
    found = compare([ours[:1], ours[1:]], [theirs[:1], theirs[1:]])
    assert found.same_top.tolist() == [True, False]
    assert found.shared_top.tolist() == [1.0, 0.6]
    assert (found.top1, found.top5) == (0.5, 0.8)


@given(st.lists(st.lists(st.floats(-30, 30, width=32), min_size=7, max_size=7), min_size=1, max_size=6), st.data())
def test_divergence_is_never_negative_and_ignores_a_shift(rows: list[list[float]], data: st.DataObject) -> None:
    ours = np.array(rows, np.float32)
    theirs = ours[:, data.draw(st.permutations(range(7)))]
    assert compare([ours], [theirs]).nats.min() >= 0
    shift = np.float32(data.draw(st.integers(-8, 8)))
    assert compare([ours], [ours + shift]).nats.max() < 1e-4


def test_a_model_does_not_diverge_from_itself(demo: GptOss) -> None:
    found = divergence(demo, demo, PASSAGES)
    assert len(found.nats) == 61
    assert found.nats.max() == 0
    assert (found.top1, found.top5) == (1, 1)


def test_the_same_figures_through_a_file(toys: tuple[Path, Path]) -> None:
    told: list[tuple[str, int, int]] = []
    together = compare_folders(*toys, lambda model: PASSAGES, progress=lambda *at: told.append(at))
    apart = compare_folders(*toys, lambda model: PASSAGES, two_pass=True, progress=lambda *at: told.append(at))
    assert together.mean > 0.01
    assert together.nats.tolist() == apart.nats.tolist()
    assert together.to_dict() == apart.to_dict()
    assert ("second pass", 61, 61) in told


def test_stored_logits_come_back_as_they_were(demo: GptOss, tmp_path: Path) -> None:
    blocks = list(logits(demo, PASSAGES))
    stored = StoredLogits(blocks, tmp_path / "logits")
    for _ in range(2):
        assert [b.tolist() for b in stored] == [b.tolist() for b in blocks]


def test_a_full_disk_is_told_beforehand(toys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(RequestError, match=r"0\.00 GB free; compare less text"):
        compare_folders(*toys, lambda model: PASSAGES, two_pass=True)


def test_other_vocabularies_are_refused(demo: GptOss, toys: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="1824 and 400 found"):
        compare_folders(MODEL_FOLDER, toys[0], lambda model: PASSAGES)
    with pytest.raises(RequestError, match="1824 and 400 found"):
        divergence(demo, gptoss_mlx.load(toys[0]), PASSAGES)
    with pytest.raises(RequestError, match="the same tokens expected, 256 is b'an'"):
        check_vocabularies(demo.tokenizer, tiny_tokenizer(), (1824, 1824))


def test_presets_against_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    presets = [Preset("bf16", "mxfp4"), Preset("q8", "mxfp4"), Preset("q4", "q4")]
    plain, rough, rougher = compare_presets(MODEL_FOLDER, lambda model: PASSAGES, presets, exact=True)
    assert plain.divergence.nats.max() == 0
    assert 0 < rough.divergence.mean < rougher.divergence.mean
    assert rougher.size < rough.size < plain.size
    assert rough.to_dict()["dense"] == "q8"


def test_nothing_to_compare(demo: GptOss) -> None:
    with pytest.raises(RequestError, match="at least one position"):
        divergence(demo, demo, [Passage([1, 2], [])])


class TestTexts:
    def test_plain_text_is_cut_up(self) -> None:
        found = text_passages(list(range(10)), 4)
        assert [list(p.tokens) for p in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [len(p.positions) for p in found] == [4, 4, 2]

    def test_random_tokens_repeat_for_a_seed(self, demo: GptOss) -> None:
        first, again, other = (Material(tokens=50, seed=seed).passages(demo)[0].tokens for seed in (1, 1, 2))
        assert first == again != other
        assert max(first) < demo.tokenizer.size

    def test_only_what_the_assistant_writes_counts(self) -> None:
        tokenizer = tiny_tokenizer()
        thought, answer = Message.assistant("hm", channel="analysis"), Message.assistant("yes")
        passage = as_passage((Message.user("assistant?"), thought, answer), tokenizer)
        pieces = [[passage.tokens[p + 1] for p in passage.positions]]
        said = tokenizer.decode(pieces[0])
        assert said == "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>yes<|return|>"
        assert spoken(tokenizer.encode("assistant"), tokenizer) == []

    def test_earlier_turns_lose_their_thoughts_and_the_last_one_keeps_its_own(self) -> None:
        tokenizer = tiny_tokenizer()
        turn = (Message.user("q"), Message.assistant("thought", channel="analysis"), Message.assistant("a"))
        text = tokenizer.decode(as_passage((*turn, *turn), tokenizer).tokens)
        assert text.count("thought") == 1
        assert text.index("thought") > text.index("<|end|>")
        assert text.endswith("<|return|>")

    def test_a_question_is_answered_by_the_model(self, demo: GptOss, tmp_path: Path) -> None:
        rows = tmp_path / "rows.jsonl"
        rows.write_text(json.dumps({"messages": [{"role": "user", "content": "What is 17 + 25?"}], "effort": "low"}))
        (passage,) = Material(rows).passages(demo)
        said = demo.tokenizer.decode(passage.tokens[p + 1] for p in passage.positions)
        assert said.endswith("17 + 25 = 42.<|return|>")
        assert "Reasoning: low" in demo.tokenizer.decode(passage.tokens)

    def test_an_answer_that_is_there_is_kept(self, demo: GptOss, tmp_path: Path) -> None:
        rows = tmp_path / "rows.jsonl"
        talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
        rows.write_text("\n" + json.dumps({"id": 7, "messages": talk}) + "\n")
        (passage,) = Material(rows).passages(demo)
        assert demo.tokenizer.decode(passage.tokens).endswith("<|channel|>final<|message|>Ho<|return|>")
        assert passage.tokens[0] == demo.tokenizer.start
        assert to_conversation(talk).messages[-1].text == "Ho"

    def test_held_out_questions_are_readable(self, demo: GptOss) -> None:
        told: list[tuple[int, int]] = []
        found = Material(HELD_OUT, limit=2).passages(demo, lambda *at: told.append(at))
        assert len(found) == 2
        assert told == [(1, 2), (2, 2)]

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ("[]", "rows.jsonl:2: a JSON object expected, list found"),
            ("{", "rows.jsonl:2: one JSON object per line expected"),
            ("[" * 100_000, "rows.jsonl:2: one JSON object per line expected"),
            ("{}", "rows.jsonl:2: messages: at least one expected"),
            ('{"messages": "hi"}', "rows.jsonl:2: messages: list expected, str found"),
            ('{"messages": [1]}', "rows.jsonl:2: messages: a list of JSON objects"),
            ('{"messages": [{"role": "king"}]}', "rows.jsonl:2: messages.0.: role"),
            ('{"messages": [{"role": "user", "content": "x"}], "temp": 1}', "rows.jsonl:2: unknown field 'temp'"),
            ('{"messages": [{"role": "user", "content": "x"}], "effort": 1}', "rows.jsonl:2: effort: str expected"),
            ('{"messages": [{"role": "user", "content": "x"}], "effort": "no"}', "rows.jsonl:2: reasoning effort"),
        ],
    )
    def test_bad_rows_are_named_by_their_line(self, demo: GptOss, tmp_path: Path, row: str, says: str) -> None:
        rows = tmp_path / "rows.jsonl"
        rows.write_text(
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n' + row
        )
        with pytest.raises(RequestError, match=says):
            Material(rows).passages(demo)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({}, "one of the two"),
            ({"text": HELD_OUT, "tokens": 3}, "one of the two"),
            ({"tokens": 3, "limit": 3}, "limit: meant for a file"),
            ({"text": Path("nowhere.txt")}, "nowhere.txt: cannot be read: No such file"),
            ({"text": MODEL_FOLDER}, "cannot be read: Is a directory"),
            ({"text": MODEL_FOLDER / "model-00000-of-00001.safetensors"}, "UTF-8 text expected"),
        ],
    )
    def test_bad_material(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(RequestError, match=says):
            Material(**options)

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text(" \n")
        with pytest.raises(RequestError, match="empty: a text expected, nothing found"):
            Material(tmp_path / "empty")
