"""Tasks from their file to the report: reading, asking, scoring, interval, and taking up an interrupted run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import GptOss
from gptoss_mlx.demo import MODEL_FOLDER
from gptoss_mlx.errors import GptOssError, HarmonyError, RequestError
from gptoss_mlx.evaluation import runs
from gptoss_mlx.evaluation.outcomes import OutcomeFile, fingerprint, run_kept
from gptoss_mlx.evaluation.runs import Settings, TaskReport, run_tasks, wilson
from gptoss_mlx.evaluation.tasks import Task, read_tasks

GREEDY = Settings(effort="low", temperature=0.0)
ROWS: list[dict[str, Any]] = [
    {"id": 1, "question": "What is 17 + 25?", "answer": 42, "group": "sums"},
    {"id": 2, "question": "What is 120 + 25?", "answer": "145", "match": "number", "group": "sums"},
    {"id": "p", "question": "What is the capital of Peru?", "answer": "lima", "match": "contains", "group": "capitals"},
    {
        "id": "é",
        "question": "What is the capital of Italy?",
        "answer": "Oslo",
        "match": "contains",
        "group": "capitals",
    },
    {"id": "r", "question": "Who painted the Sistine Chapel?", "answer": "do(es)? not know", "match": "regex"},
]
CHOICES = {
    "id": "c",
    "question": "What is the capital of France?",
    "choices": ["The capital of France is Rome.", "The capital of France is Paris.", "The capital of France is"],
    "answer": 1,
}


@pytest.fixture(scope="module")
def demo() -> GptOss:
    return gptoss_mlx.load("demo")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("tasks") / "tasks.jsonl", ROWS)


@pytest.fixture(scope="module")
def whole(demo: GptOss, file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, TaskReport]:
    """The file and the report of a run that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    report = run_kept(demo, read_tasks(file), GREEDY, file, out)
    return out.read_bytes(), report


class TestReading:
    def test_rows(self, file: Path) -> None:
        found = read_tasks(file)
        assert found[0] == Task("1", "What is 17 + 25?", "42", "number", group="sums")
        assert [task.match for task in found] == ["number", "number", "contains", "contains", "regex"]
        assert found[-1].group == "all"

    def test_choices_are_shown_with_their_letters(self, tmp_path: Path) -> None:
        (task,) = read_tasks(
            written(tmp_path / "t", [{**CHOICES, "choices": ["Rome", "Paris"], "system": "Be brief."}])
        )
        assert (task.match, task.answer, task.system) == ("choice", "B", "Be brief.")
        expected = "What is the capital of France?\n\nA) Rome\nB) Paris\n\nAnswer with the letter of the right choice."
        assert task.prompt == expected

    @pytest.mark.parametrize("answer", [1, "B", "Paris"])
    def test_the_right_choice_by_index_letter_or_text(self, tmp_path: Path, answer: object) -> None:
        row = {"id": 1, "question": "?", "choices": ["Rome", "Paris"], "answer": answer}
        assert read_tasks(written(tmp_path / "t", [row]))[0].answer == "B"

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"id": None}, "id: a text or a whole number expected, None found"),
            ({"id": True}, "id: a text"),
            ({"id": 0}, "id: a different one in every row expected, '0' found again"),
            ({"question": " "}, "question: a text expected"),
            ({"question": 3}, "question: a text expected"),
            ({"answer": None}, "answer: a text or a number expected, None found"),
            ({"answer": "x", "match": "number"}, "answer: a number expected, 'x' found"),
            ({"answer": "(", "match": "regex"}, "answer: a regular expression expected"),
            ({"match": "close"}, "match: one of exact, number, contains, regex, choice expected, 'close' found"),
            ({"match": []}, "match: one of"),
            ({"match": "choice"}, "match: choices for match 'choice' expected"),
            ({"choices": ["a", "b"], "match": "exact"}, "match: choice, as the row has choices, expected"),
            ({"choices": "ab"}, "choices: a list of texts"),
            ({"choices": ["a", ""]}, "choices: a list of texts"),
            ({"choices": ["a"]}, "choices: 2 to 26 different texts expected, 1 found"),
            ({"choices": ["a", "a"]}, "choices: 2 to 26 different"),
            ({"choices": ["x"] * 27}, "choices: 2 to 26 different"),
            ({"choices": ["a", "b"], "answer": 2}, "answer: the index, letter or text of one choice expected, 2 found"),
            ({"choices": ["a", "b"], "answer": True}, "answer: the index"),
            ({"choices": ["a", "b"], "answer": "C"}, "answer: the index"),
            ({"choices": ["B", "A"], "answer": "A"}, "is a letter and another choice's text"),
            ({"system": ""}, "system: a text expected"),
            ({"group": 1}, "group: a text expected"),
            ({"wrong": 1}, "unknown field 'wrong'; known are id, question"),
        ],
    )
    def test_bad_rows_are_named_by_their_line(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        good = {"id": 0, "question": "?", "answer": "x"}
        path = written(tmp_path / "tasks.jsonl", [good, {**good, "id": 1, **change}])
        with pytest.raises(RequestError, match=re.escape(f"tasks.jsonl:2: {says}" if ":" in says else says)) as caught:
            read_tasks(path)
        assert "\n" not in str(caught.value)


class TestRunning:
    def test_answers_are_judged_by_group(self, demo: GptOss, file: Path) -> None:
        told: list[tuple[int, int]] = []
        found = run_tasks(demo, read_tasks(file), GREEDY, progress=lambda *at: told.append(at))
        assert [(g.group, g.tasks, g.correct) for g in found.groups] == [
            ("sums", 2, 2),
            ("capitals", 2, 1),
            ("all", 1, 1),
        ]
        assert (found.total.tasks, found.total.correct, found.total.cut_off) == (5, 4, 0)
        assert 10 < found.total.mean_tokens < 200
        assert told[-1][1] == 5
        assert json.loads(json.dumps(found.to_dict()))["total"]["accuracy"] == 0.8

    def test_only_the_final_channel_counts(self, demo: GptOss, file: Path) -> None:
        cut = run_tasks(demo, read_tasks(file)[:1], Settings(effort="low", temperature=0.0, max_tokens=10))
        assert (cut.total.correct, cut.total.unanswered, cut.total.cut_off) == (0, 1, 1)

    def test_an_answer_does_not_depend_on_what_was_asked_before(self, demo: GptOss, file: Path) -> None:
        tasks, warm = read_tasks(file), Settings(temperature=5.0, seed=3, max_tokens=40)
        kept: list[Any] = []
        run_tasks(demo, tasks, warm, keep=kept.append)
        run_tasks(demo, tasks[::-1], warm, keep=kept.append)
        assert kept[:5] == kept[:4:-1]
        other: list[Any] = []
        run_tasks(demo, tasks, Settings(temperature=5.0, seed=4, max_tokens=40), keep=other.append)
        assert [o.final for o in other] != [o.final for o in kept[:5]]

    def test_likelihood_takes_the_whole_message(self, demo: GptOss, tmp_path: Path) -> None:
        kept: list[Any] = []
        tasks = read_tasks(written(tmp_path / "t", [CHOICES]))
        found = run_tasks(demo, tasks, Settings(score="likelihood"), keep=kept.append)
        assert (kept[0].extracted, kept[0].final) == ("B", "The capital of France is Paris.")
        assert (found.total.correct, found.total.mean_tokens) == (1, 0)

    def test_failures_name_the_task(self, demo: GptOss, file: Path) -> None:
        with pytest.raises(RequestError, match="task '1': choices are needed"):
            run_tasks(demo, read_tasks(file), Settings(score="likelihood"))
        with pytest.raises(RequestError, match="tasks: at least one expected"):
            run_tasks(demo, [], GREEDY)
        long = Task("long", "word " * 140_000, "x", "exact")
        with pytest.raises(RequestError, match="task 'long': messages: at most 131071 tokens"):
            run_tasks(demo, [long], GREEDY)

    @pytest.mark.parametrize(
        "bad", [{"score": "x"}, {"max_tokens": 0}, {"temperature": -1}, {"seed": -1}, {"effort": "x"}]
    )
    def test_bad_settings(self, bad: dict[str, Any]) -> None:
        with pytest.raises((RequestError, HarmonyError)):
            Settings(**bad)


def test_wilson_against_published_values() -> None:
    """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (correct, count), interval in published.items():
        assert wilson(correct, count) == pytest.approx(interval, abs=5e-5)
    assert wilson(7, 7)[1] == 1


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share(count: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, count))
    low, high = wilson(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    assert (1 - high, 1 - low) == pytest.approx(wilson(count - correct, count))


class TestKeeping:
    def test_one_line_per_outcome_below_the_settings(self, whole: tuple[bytes, TaskReport]) -> None:
        header, *rows = map(json.loads, whole[0].splitlines())
        assert header["gptoss_mlx_eval"]["effort"] == "low"
        assert [row["id"] for row in rows] == ["1", "2", "p", "é", "r"]
        assert [row["correct"] for row in rows] == [True, True, True, False, True]

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_run_that_was_killed_anywhere_goes_on(
        self, data: st.DataObject, demo: GptOss, file: Path, tmp_path: Path, whole: tuple[bytes, TaskReport]
    ) -> None:
        out = tmp_path / "out.jsonl"
        out.write_bytes(whole[0][: data.draw(st.integers(0, len(whole[0])))])
        report = run_kept(demo, read_tasks(file), GREEDY, file, out)
        assert out.read_bytes() == whole[0]
        assert report == whole[1]

    def test_what_is_done_is_not_asked_again(
        self, demo: GptOss, file: Path, tmp_path: Path, whole: tuple[bytes, TaskReport], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        put = runs._put

        def spy(model: GptOss, task: Task, settings: Settings) -> Any:
            asked.append(task.id)
            return put(model, task, settings)

        monkeypatch.setattr(runs, "_put", spy)
        out = tmp_path / "out.jsonl"
        run_kept(demo, read_tasks(file)[:2], GREEDY, file, out)
        run_kept(demo, read_tasks(file), GREEDY, file, out)
        assert asked == ["1", "2", "p", "é", "r"]
        run_kept(demo, read_tasks(file)[:1], GREEDY, file, out, overwrite=True)
        assert asked[-1] == "1"
        assert len(out.read_bytes().splitlines()) == 2

    def test_an_interrupt_keeps_what_is_done(
        self, demo: GptOss, file: Path, tmp_path: Path, whole: tuple[bytes, TaskReport], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put = runs._put

        def interrupted(model: GptOss, task: Task, settings: Settings) -> Any:
            if task.id == "p":
                raise KeyboardInterrupt
            return put(model, task, settings)

        out = tmp_path / "out.jsonl"
        tasks = read_tasks(file)
        monkeypatch.setattr(runs, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_kept(demo, tasks, GREEDY, file, out)
        monkeypatch.undo()
        assert whole[0].startswith(out.read_bytes())
        run_kept(demo, read_tasks(file), GREEDY, file, out)
        assert out.read_bytes() == whole[0]

    def test_results_of_other_settings_are_refused(
        self, demo: GptOss, file: Path, tmp_path: Path, whole: tuple[bytes, TaskReport]
    ) -> None:
        out = tmp_path / "out.jsonl"
        out.write_bytes(whole[0])
        with pytest.raises(RequestError, match=r"holds results for effort 'low', not 'high'; .* --overwrite"):
            run_kept(demo, read_tasks(file), Settings(effort="high", temperature=0.0), file, out)
        changed = written(tmp_path / "tasks.jsonl", [*ROWS, CHOICES])
        with pytest.raises(RequestError, match="holds results for tasks '"):
            run_kept(demo, read_tasks(changed), GREEDY, changed, out)
        assert out.read_bytes() == whole[0]

    def test_settings_without_outcomes_bind_nobody(self, demo: GptOss, file: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.jsonl"
        with pytest.raises(RequestError, match="choices are needed"):
            run_kept(demo, read_tasks(file), Settings(score="likelihood"), file, out)
        assert run_kept(demo, read_tasks(file)[:1], GREEDY, file, out).total.correct == 1

    @pytest.mark.parametrize("content", [b"precious", b"precious\n", b"[]\n", b'{"a": 1}\n', b"\xff\n"])
    @pytest.mark.parametrize("overwrite", [True, False])
    def test_a_foreign_file_is_never_touched(self, tmp_path: Path, content: bytes, overwrite: bool) -> None:
        out = tmp_path / "out.jsonl"
        out.write_bytes(content)
        with pytest.raises(RequestError, match=r"out\.jsonl"):
            OutcomeFile(out, {"model": "x"}, overwrite=overwrite)
        assert out.read_bytes() == content

    @pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"id": 1}'])
    def test_a_damaged_line_is_named(self, tmp_path: Path, line: bytes, whole: tuple[bytes, TaskReport]) -> None:
        out = tmp_path / "out.jsonl"
        header, first, *rest = whole[0].splitlines(keepends=True)
        out.write_bytes(b"".join([header, line + b"\n", first, *rest]))
        settings = json.loads(header)["gptoss_mlx_eval"]
        with pytest.raises(RequestError, match=r"out\.jsonl:2: .* remove the line"):
            OutcomeFile(out, settings)

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "nowhere" / "out.jsonl"):
            with pytest.raises(GptOssError, match="cannot be written"):
                OutcomeFile(path, {})

    def test_other_weights_are_another_model(self, demo: GptOss, file: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(MODEL_FOLDER, tmp_path / "model"))
        same = fingerprint(gptoss_mlx.load(copy), file, GREEDY)
        assert same["weights"] == fingerprint(demo, file, GREEDY)["weights"]
        weights = bytearray((copy / "model-00001-of-00001.safetensors").read_bytes())
        weights[-1] ^= 1
        (copy / "model-00001-of-00001.safetensors").write_bytes(weights)
        assert fingerprint(gptoss_mlx.load(copy), file, GREEDY)["weights"] != same["weights"]
