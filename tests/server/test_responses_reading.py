"""Input items of the Responses API as harmony messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Message, Role
from gptoss_mlx.server.responses.reading import InputReader, as_page, resolve, thoughts_in_progress
from gptoss_mlx.server.sealing import seal

CALL = {"type": "function_call", "call_id": "c1", "name": "tide", "arguments": '{"port":"Brest"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "noon"}


def read(*items: dict[str, Any]) -> list[Message]:
    return InputReader().read(resolve(list(items), lambda _: None))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_question_is_a_message_of_the_user() -> None:
    items = resolve("Why?", lambda _: None)
    assert items[0]["content"] == [{"type": "input_text", "text": "Why?"}]
    assert InputReader().read(items) == [Message.user("Why?")]


def test_messages_of_all_roles() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = read(
        {"type": "message", "role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c"}, {"type": "refusal", "refusal": "d"}]},
    )
    assert [m.role for m in messages] == [Role.DEVELOPER, Role.DEVELOPER, Role.USER, Role.ASSISTANT]
    assert [m.text for m in messages[2:]] == ["ab", "cd"]
    assert messages[3].channel == "final"


def test_a_call_and_its_result() -> None:
    assert read(user("Tide?"), CALL, OUTPUT)[1:] == [
        Message.call("functions.tide", '{"port":"Brest"}'),
        Message.tool("functions.tide", "noon"),
    ]


def test_results_may_be_lists_of_text() -> None:
    output = {**OUTPUT, "output": [{"type": "input_text", "text": "no"}, {"type": "input_text", "text": "on"}]}
    assert read(CALL, output)[1].text == "noon"


def test_results_of_earlier_calls_find_them() -> None:
    reader = InputReader()
    reader.know([user("Tide?"), CALL])
    assert reader.read([OUTPUT]) == [Message.tool("functions.tide", "noon")]


def test_a_message_before_a_call_is_a_preamble_unless_it_says_otherwise() -> None:
    said = {"role": "assistant", "content": "I look."}
    thoughts = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    assert read(said, CALL)[0].channel == "commentary"
    assert read(said, thoughts, CALL)[0].channel == "commentary"
    assert read({**said, "phase": "final_answer"}, CALL)[0].channel == "final"
    assert read(said, user("Go on"), CALL)[0].channel == "final"
    assert read({**said, "phase": "commentary"})[0].channel == "commentary"


def test_thoughts_come_from_content_seal_or_summary() -> None:
    content = {"content": [{"type": "reasoning_text", "text": "a"}]}
    sealed = {"encrypted_content": seal("b é")}
    summary = {"summary": [{"type": "summary_text", "text": "c"}]}
    for fields, text in (
        ({**content, **sealed, **summary}, "a"),
        ({**sealed, **summary, "content": None}, "b é"),
        (summary, "c"),
    ):
        assert read({"type": "reasoning", **fields}) == [Message.assistant(text, "analysis")]


def test_thoughts_of_other_models_are_left_out() -> None:
    assert read({"type": "reasoning", "encrypted_content": "gAAAAABo", "summary": []}, user("?")) == [Message.user("?")]


def test_cells_of_the_notebook() -> None:
    cell = {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "1"}]}
    assert read(cell) == [Message.call("python", "1", "analysis", "code"), Message.tool("python", "1", "analysis")]
    assert read({**cell, "outputs": None}) == [Message.call("python", "1", "analysis", "code")]


def test_calls_of_mcp_servers() -> None:
    item = {"type": "mcp_call", "server_label": "sea", "name": "tides", "arguments": "{}", "output": "noon"}
    assert read(item)[1] == Message.tool("functions.sea_tides", "noon")
    reader = InputReader({("sea", "tides"): "sea_tides_2"})
    assert reader.read([item])[0] == Message.call("functions.sea_tides_2", "{}")
    failed = {**item, "output": None, "error": {"type": "http_error", "code": 500, "message": "no"}}
    assert "http_error" in read(failed)[1].text


def test_calls_of_tools_in_a_namespace() -> None:
    call = {**CALL, "namespace": "sea"}
    assert read(call, OUTPUT) == [
        Message.call("functions.sea__tide", '{"port":"Brest"}'),
        Message.tool("functions.sea__tide", "noon"),
    ]
    reader = InputReader()
    reader.know([call])
    assert reader.read([OUTPUT]) == [Message.tool("functions.sea__tide", "noon")]


def test_custom_calls() -> None:
    call = {"type": "custom_tool_call", "call_id": "c2", "name": "note", "input": 'a "b"'}
    output = {"type": "custom_tool_call_output", "call_id": "c2", "output": "kept"}
    assert read(call, output) == [
        Message.call("functions.note", '{"input": "a \\"b\\""}'),
        Message.tool("functions.note", "kept"),
    ]


def test_references_are_replaced_by_the_stored_items() -> None:
    items = resolve([{"type": "item_reference", "id": "x"}, {"id": "x"}], lambda id: {**CALL, "id": id})
    assert items == [{**CALL, "id": "x"}] * 2
    with pytest.raises(RequestError, match=r"^input\[0\].id: a stored item's id expected, 'y' found"):
        resolve([{"type": "item_reference", "id": "y"}], lambda _: None)


def test_thoughts_that_come_back_empty_are_those_that_are_stored() -> None:
    stored = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    empty = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [], "status": "in_progress"}
    told = {**empty, "summary": [{"type": "summary_text", "text": "Well."}]}
    assert resolve([empty, told], lambda _: stored) == [stored, told]
    assert resolve([empty], lambda _: None) == [empty]


def test_items_that_say_nothing_to_the_model_are_let_pass() -> None:
    assert read({"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}}, user("?"))[0].text == "?"


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"type": "computer_call"}, "input[0].type"),
        ({"type": ["message"]}, "input[0].type"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": None}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input[0].content[0]"),
        ({"role": "user", "content": ["x"]}, "input[0].content[0]"),
        ({"type": "function_call", "name": "", "call_id": "c", "arguments": "{}"}, "input[0].name"),
        ({"type": "function_call", "name": "f", "call_id": "c", "arguments": {}}, "input[0].arguments"),
        (OUTPUT, "input[0].call_id"),
        ({"type": "reasoning", "content": "x"}, "input[0].content"),
        ({"type": "item_reference"}, "input[0].id"),
        ({}, "input[0].id"),
    ],
)
def test_what_cannot_be_read_is_named(item: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(item)
    assert str(caught.value).startswith(f"{where}: ")


def test_thoughts_stay_only_while_a_result_is_the_last_word() -> None:
    thoughts = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    waiting = read(user("Tide?"), thoughts, CALL, OUTPUT)
    assert thoughts_in_progress(waiting) == waiting
    interrupted = read(user("Tide?"), thoughts, CALL, OUTPUT, user("Stop"))
    assert [m.text for m in thoughts_in_progress(interrupted)] == ["Tide?", '{"port":"Brest"}', "noon", "Stop"]


def test_pages_of_items() -> None:
    items = [{"id": str(number)} for number in range(5)]
    page = as_page(items, None, 2, newest_first=True)
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("4", "3", True)
    rest = as_page(items, "3", 10, newest_first=True)
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (["2", "1", "0"], False)
    assert as_page([], None, 2, newest_first=False)["data"] == []
    with pytest.raises(RequestError, match=r"^after: "):
        as_page(items, "7", 2, newest_first=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KINDS = st.sampled_from(
    ["message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "code_interpreter_call",
     "mcp_call", "item_reference", "web_search_call"]
)  # fmt: skip
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": KINDS | JSON, "role": st.sampled_from(["user", "assistant"]) | JSON, "content": JSON, "id": JSON,
        "call_id": st.sampled_from(["c1"]) | JSON, "name": JSON, "arguments": JSON, "output": JSON, "outputs": JSON,
        "summary": JSON, "encrypted_content": JSON, "code": JSON, "error": JSON, "server_label": JSON, "input": JSON,
    },
)  # fmt: skip


@settings(max_examples=30)
@given(st.lists(ITEMS, max_size=2))
def test_anything_is_read_or_refused(items: list[dict[str, Any]]) -> None:
    try:
        messages = read(*items)
    except RequestError:
        return
    assert all(isinstance(message, Message) for message in messages)
