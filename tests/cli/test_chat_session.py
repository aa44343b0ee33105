"""A session and each of its commands, on a model that says what the test wrote down."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from talks import Puppet, Talk, interrupted

import gptoss_mlx
from gptoss_mlx import GptOss, Message
from gptoss_mlx.cli.commands import COMMANDS, is_command
from gptoss_mlx.demo import MODEL_FOLDER
from gptoss_mlx.errors import ConfigError, MemoryLimitError, ModelNotFoundError
from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.browser import BrowserTool, LocalFolder
from scripted import ANSWER, THOUGHT, call

OTHER = "<|channel|>final<|message|>Or so.<|return|>"
CALL = call("functions.double", '{"number": 4}')


def double(number: int) -> int:
    """Doubles.

    And more."""
    return 2 * number


@pytest.fixture
def talk(demo_model: GptOss, tmp_path: Path) -> Talk:
    return Talk(demo_model, tmp_path)


def test_every_answer_is_followed_by_a_status_line_and_kept(scripted: Any, talk: Talk) -> None:
    scripted(THOUGHT + ANSWER, ANSWER)
    *said, status = talk("one", "", "  ").splitlines()
    assert [line.rstrip() for line in said] == ["I think.", "", "It is so."]
    assert "tokens/s · context " in status
    assert " of 131,072 · 7 reused · first token after " in status
    kept = json.loads((talk.store.folder / "talk.json").read_text())
    assert [message["role"] for message in kept["messages"]] == ["system", "user", "assistant", "assistant"]
    assert kept["gptoss_mlx"]["model"].endswith("model")
    talk("two")
    assert len(json.loads((talk.store.folder / "talk.json").read_text())["messages"]) == 6


def test_help_names_every_command_in_80_columns(talk: Talk) -> None:
    out = talk("/help")
    assert [line.split()[0] for line in out.splitlines()] == list(COMMANDS)
    assert max(map(len, out.splitlines())) < 80
    assert "no such command" in talk("/what")
    assert "/retry: nothing behind it expected, 'now' found" in talk("/retry now")
    assert not is_command("/usr/bin is what?")
    assert is_command("/")


def test_retry_and_edit(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    scripted(ANSWER, OTHER, ANSWER, OTHER)
    person = Puppet(edited="three\n")
    talk = Talk(demo_model, tmp_path, person=person)
    assert "none has been asked" in talk("/retry")
    talk("one")
    assert "Or so." in talk("/retry")
    assert [m.text for m in talk.session.chat.messages] == ["one", "Or so."]
    talk("/edit two")
    assert [m.text for m in talk.session.chat.messages] == ["two", "It is so."]
    talk("/edit")
    assert person.asked == ["two"]
    assert [m.text for m in talk.session.chat.messages] == ["three", "Or so."]
    talk.session.person = Puppet(edited=None)
    assert talk("/edit") == ""
    talk.session.person = None
    assert "/edit: the new question expected" in talk("/edit")


def test_an_interrupt_stops_the_answer_and_not_the_session(
    scripted: Any, demo_model: GptOss, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripted(ANSWER, ANSWER, ANSWER, OTHER)
    talk("one")
    with monkeypatch.context() as patch:
        patch.setattr(demo_model, "_generate", interrupted(script))
        assert talk.session.say("two") is True
        assert "an unfinished answer is forgotten" in talk()
        assert [m.text for m in talk.session.chat.messages] == ["one", "It is so."]
        talk("/retry")
        assert [m.text for m in talk.session.chat.messages] == ["one", "It is so."]
        assert talk.session.last_question() == "two"
    assert "Or so." in talk("/retry")
    assert [m.text for m in talk.session.chat.messages] == ["one", "It is so.", "two", "Or so."]


def test_calls_are_confirmed(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    scripted(CALL, ANSWER, CALL, ANSWER, CALL, CALL, ANSWER)
    person = Puppet("n", "y", "a")
    talk = Talk(demo_model, tmp_path, person=person, tools=[double])
    out = talk("one")
    assert "call double" in out
    assert "The user did not allow this call." in out
    assert "8" in talk("two")
    assert "always" not in talk("/tools")
    talk("three")
    assert person.asked == ["run double?"] * 3
    assert talk("/tools") == "double (always allowed): Doubles.\n"


def test_an_interrupt_at_the_question_stops_the_answer(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    class Leaving(Puppet):
        def choose(self, question: str) -> str:
            raise KeyboardInterrupt

    scripted(CALL)
    talk = Talk(demo_model, tmp_path, person=Leaving(), tools=[double])
    assert "stopped" in talk("one")
    assert talk.session.chat.messages == []


def test_an_answer_stays_where_it_cannot_be_saved(scripted: Any, talk: Talk, tmp_path: Path) -> None:
    scripted(ANSWER, ANSWER, ANSWER)
    (tmp_path / "file").touch()
    talk.session.file = tmp_path / "file" / "s.json"
    assert "cannot be written" in talk("one")
    assert len(talk.session.chat.messages) == 2
    assert "cannot be written" not in talk("two")  # it was said
    talk.session.file = tmp_path / "s.json"
    talk("three")
    assert len(json.loads((tmp_path / "s.json").read_text())["messages"]) == 7


def test_two_programs_do_not_write_over_each_other(scripted: Any, talk: Talk) -> None:
    scripted(ANSWER, ANSWER, OTHER)
    talk("one")
    file = talk.store.folder / "talk.json"
    talk.store.folder.joinpath("theirs").write_text("theirs")
    talk.store.folder.joinpath("theirs").replace(file)
    assert "another program has changed" in talk("two")
    assert file.read_text() == "theirs"
    assert "another program" not in talk("three")
    (kept,) = (talk.store.folder / f"{name}.json" for name in talk.store.names() if name != "talk")
    assert len(json.loads(kept.read_text())["messages"]) == 7


def test_thoughts_can_be_read_later(scripted: Any, talk: Talk) -> None:
    scripted(THOUGHT + ANSWER, ANSWER)
    assert "an answer with thoughts expected" in talk("/thoughts")
    talk("/analysis hidden")
    assert "I think." not in talk("one")
    assert talk("/thoughts") == "I think.\n"
    talk("two")
    assert "there is none yet" in talk("/thoughts")


def test_a_question_that_failed_can_be_changed(
    scripted: Any, demo_model: GptOss, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise MemoryLimitError("it is too long")

    scripted(ANSWER, OTHER)
    talk("one")
    with monkeypatch.context() as patch:
        patch.setattr(demo_model, "_generate", fail)
        assert talk("two") == "Error: it is too long\n"
    assert talk.session.last_question() == "two"
    talk("/edit three")
    assert [m.text for m in talk.session.chat.messages] == ["one", "It is so.", "three", "Or so."]


def test_a_picture_that_cannot_be_saved_does_not_cost_the_answer(
    scripted: Any, demo_model: GptOss, tmp_path: Path
) -> None:
    def plot() -> ToolResult:
        return ToolResult("drawn", images=(b"png",))

    scripted(call("functions.plot", "{}"), ANSWER)
    (tmp_path / "pictures").touch()
    talk = Talk(demo_model, tmp_path, tools=[plot])
    out = talk("one")
    assert ".png: cannot be written" in out.replace("\n", "")
    assert "It is so." in out


def test_cited_pages_are_named(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "kelp.txt").write_text("Kelp grows fast.\n")
    browser = BrowserTool(LocalFolder(tmp_path / "docs"))
    search = call("browser.open", '{"id": "kelp.txt"}')
    scripted(search, "<|channel|>final<|message|>Fast【0†L0】, fast【0†L0】.<|return|>")
    out = Talk(demo_model, tmp_path, tools=[browser])("one")
    assert out.count("【0】 kelp.txt local:///kelp.txt\n") == 1
    asyncio.run(browser.close())


def test_a_call_that_nothing_answers_is_told(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    scripted(CALL, CALL, ANSWER)
    declared = {"type": "function", "function": {"name": "double"}}
    assert "nothing here answers the call of double" in Talk(demo_model, tmp_path, tools=[declared])("one")
    talk = Talk(demo_model, tmp_path, tools=[double])
    talk.session.chat.confirm = talk.session.allows  # where there is nobody to ask
    assert "did not allow" in talk("two")
    assert "no tools" in Talk(demo_model, tmp_path)("/tools")


def test_settings(scripted: Any, demo_model: GptOss, talk: Talk) -> None:
    script = scripted(ANSWER, "final<|message|>{}<|return|>")
    assert talk("/effort high") == "effort: high\n"
    assert "expected" in talk("/effort none")
    assert talk("/system Be short.") == "system: Be short.\n"
    assert talk("/analysis hidden", "/analysis") == "analysis: hidden\nanalysis: hidden\n"
    assert "shown, collapsed, hidden expected, 'x' found" in talk("/analysis x")
    talk("one")
    prompt = demo_model.tokenizer.decode(script.requests[0].prompt)
    assert "Reasoning: high" in prompt
    assert "Be short." in prompt
    assert talk("/system", "/effort") == "system: Be short.\neffort: high\n"
    assert talk("/system off") == "system: none\n"


def test_schema(scripted: Any, talk: Talk, tmp_path: Path) -> None:
    scripted("final<|message|>{}<|return|>", ANSWER)
    assert talk('/schema {"type": "object"}') == 'schema: {"type": "object"}\n'
    assert "{}\n" in talk("one")
    assert talk("/schema off", "/schema") == "schema: none\n" * 2
    assert "It is so." in talk("two")
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer"}')
    assert talk(f"/schema {file}") == 'schema: {"type": "integer"}\n'
    for bad in ("{", "nowhere.json", str(tmp_path), '{"type": 3}', '{"type": "json_schema"}'):
        assert talk(f"/schema {bad}").startswith("Error: ")
    file.write_text("[]")
    assert "a JSON object expected" in talk(f"/schema {file}")
    assert talk.session.response_format == {"type": "integer"}


class Shelf:
    """Two folders with the embedded model; the second one's model may not load."""

    def __init__(self, other: Path, failure: BaseException | None = None) -> None:
        self._other = other
        self._failure = failure
        self.first = gptoss_mlx.load("demo")
        self.alive = weakref.ref(self.first)
        self.loads: list[bool] = []
        """Whether the first model was there at each."""

    def find(self, name: str | None) -> Path:
        if name != "other":
            raise ModelNotFoundError(f"{name}: no such folder")
        return self._other

    def load(self, folder: Path) -> GptOss:
        if folder == self._other:
            self.loads.append(self.alive() is not None)
            if self._failure is not None:
                raise self._failure
        return gptoss_mlx.load(folder)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another folder with the embedded model."""
    return Path(shutil.copytree(MODEL_FOLDER, tmp_path / "other"))


def shelved(shelf: Shelf, folder: Path) -> Talk:
    """A session with the first model of a shelf, which nothing else holds."""
    talk = Talk(shelf.first, folder, models=shelf)
    del shelf.first
    return talk


def test_another_model_is_loaded_when_the_one_before_is_gone(other: Path, tmp_path: Path) -> None:
    shelf = Shelf(other)
    talk = shelved(shelf, tmp_path)
    talk("What is 1 + 1?")
    assert "model: the embedded demonstration model" in talk("/model")
    assert "Error: what: no such folder" in talk("/model what")
    assert shelf.loads == []
    assert str(other) in talk("/model other")
    assert shelf.loads == [False]
    first = talk.session.chat.model
    talk("/model other")
    assert talk.session.chat.model is first
    assert len(shelf.loads) == 1
    assert "tokens/s" in talk("What is 2 + 2?")


@pytest.mark.parametrize(
    ("failure", "says"), [(ConfigError("it is broken"), "Error: it is broken\n"), (KeyboardInterrupt(), "(stopped;")]
)
def test_the_model_before_comes_back(failure: BaseException, says: str, other: Path, tmp_path: Path) -> None:
    talk = shelved(Shelf(other, failure), tmp_path)
    said = talk("/model other")
    assert said.startswith("(going on with the embedded demonstration model)\n" + says)
    assert talk.session.chat.model.folder == MODEL_FOLDER
    assert talk.session.say("What is 2 + 2?") is True


def test_a_session_without_any_model_ends(other: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(MODEL_FOLDER, tmp_path / "first"))
    shelf = Shelf(other, ConfigError("it is broken"))
    shelf.first = gptoss_mlx.load(first)
    talk = shelved(shelf, tmp_path)
    shutil.rmtree(first)
    assert talk.session.say("/model other") is False
    assert f"Error: {first}" in talk().replace("\n", "")


def test_tokens_and_stats(scripted: Any, talk: Talk) -> None:
    scripted(THOUGHT + ANSWER)
    talk("one")
    before, context = talk("/tokens").splitlines()
    assert before.startswith("instructions and tools ")
    assert context.endswith("of 131,072 (0.0 %)")
    assert talk("/tokens the") == f"{talk.session.count('the')} tokens\n"
    out = talk("/stats")
    assert "answers         1\n" in out
    assert "7 of them reused" in out


def test_copy(scripted: Any, demo_model: GptOss, talk: Talk) -> None:
    scripted(ANSWER)
    assert "there is none yet" in talk("/copy")
    talk("one")
    assert talk("/copy") == "It is so.\n"
    talk.printer.console._color_system = 1  # type: ignore[assignment]  # a terminal with colours
    out = talk("/copy")
    assert f"\x1b]52;c;{base64.b64encode(b'It is so.').decode()}\a" in out
    talk.session.chat.messages.append(Message.assistant("long " * 20_000, "final"))
    assert "]52;" not in talk("/copy")


@pytest.mark.parametrize("ending", [".md", ".json", ".html"])
def test_export(ending: str, scripted: Any, talk: Talk, tmp_path: Path) -> None:
    scripted(ANSWER)
    talk("one")
    file = tmp_path / f"talk{ending}"
    assert f"exported 2 messages to {file}" in talk(f"/export {file}").replace("\n", "").replace(
        "messagesto", "messages to"
    )
    assert "It is so." in file.read_text()
    assert "ends with .md, .json, .html expected" in talk("/export talk.pdf")
    assert "/export: the name of a file expected" in talk("/export")


def test_reset_save_and_load(scripted: Any, talk: Talk, tmp_path: Path) -> None:
    scripted(ANSWER, ANSWER, ANSWER)
    talk("/system Be kind.", "/effort low", '/schema {"type": "string"}', "/schema off", "one")
    file = tmp_path / "my talk.json"
    assert "saved 2 messages" in talk(f"/save {file}")
    first = talk.session.file
    assert talk("/reset") == "the conversation is forgotten\n"
    assert talk.session.chat.messages == []
    assert talk.session.file != first
    talk("/system off", "/effort high", "two")
    assert "no saved conversation" in talk("/load nowhere.json")
    assert "loaded 3 messages" in talk(f"/load {file}")
    assert (talk.session.chat.instructions, talk.session.chat.effort) == ("Be kind.", "low")
    (talk.store.folder / "broken.json").write_text("{")
    lines = talk("/load").splitlines()
    assert lines[0] == "broken  (no conversation)"
    assert sorted(line.split("  ")[1] for line in lines[1:]) == ["one", "two"]
    assert "no saved sessions" in Talk(talk.session.chat.model, tmp_path / "new")("/load")
    assert "loaded" in talk("/load talk")
    assert talk.session.file == first
    assert "the name of a file expected" in talk("/save")


def test_a_loaded_session_says_which_model_held_it(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    saved = {"messages": [{"role": "user", "content": "hi"}], "gptoss_mlx": {"model": "/big"}}
    file.write_text(json.dumps(saved))
    assert "(it was held with /big; /model switches)" in talk(f"/load {file}")


def test_quit_ends_the_lines(talk: Talk) -> None:
    assert talk.session.run_lines(["/effort low", "/quit", "/effort high"]) is True
    assert talk() == "effort: low\n"
    talk.session.ended = False
    assert talk.session.run_lines(["/effort none", "/effort high"]) is False
    assert talk().endswith("effort: high\n")


def test_a_cut_answer_is_told(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    scripted(ANSWER)
    assert "--max-tokens allows more" in Talk(demo_model, tmp_path, max_tokens=4)("one")


def test_a_pipe_has_no_status_line(scripted: Any, demo_model: GptOss, tmp_path: Path) -> None:
    scripted(ANSWER)
    assert Talk(demo_model, tmp_path, terminal=False)("one") == "It is so.\n"
