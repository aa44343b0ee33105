"""The texts that come out of a cell, and the replies that are not to be trusted."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.python.display import Reply, describe, read_reply
from gptoss_mlx.tools.python.runner import FIGURE_BYTES, FIGURES, Transcript, plain, png_size

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
PLAIN = st.text(st.characters(exclude_characters="\r\x1b"), max_size=40)


def shown(limit: int, *messages: tuple[str, dict[str, Any]]) -> Transcript:
    transcript = Transcript(limit)
    for kind, content in messages:
        transcript.add(kind, content)
    return transcript


@given(st.lists(PLAIN, max_size=30), st.integers(2, 60))
def test_a_text_is_whole_or_has_a_beginning_and_an_end(texts: list[str], half: int) -> None:
    whole = "".join(texts)
    text = shown(2 * half, *(("stream", {"text": text}) for text in texts)).text()
    if len(whole) <= 2 * half:
        assert text == whole
    else:
        assert text == f"{whole[:half]}\n[{len(whole) - 2 * half:,} characters left out]\n{whole[-half:]}"


def test_messages_that_show_nothing_are_passed_over() -> None:
    assert shown(100, ("status", {}), ("clear_output", {"wait": True}), ("comm_open", {})).text() == ""


def test_other_forms_of_an_object_give_way_to_its_text() -> None:
    data = {"text/html": "<b>1</b>", "text/plain": "1"}
    assert shown(100, ("display_data", {"data": data}), ("display_data", {"data": {"text/html": ""}})).text() == "1\n"


def test_figures_over_the_limits_are_only_mentioned() -> None:
    small, large = base64.b64encode(PNG).decode(), base64.b64encode(PNG + bytes(FIGURE_BYTES)).decode()
    figures = [("display_data", {"data": {"image/png": data}}) for data in [large, *[small + "\n"] * (FIGURES + 1)]]
    transcript = shown(10_000, *figures)
    lines = transcript.text().splitlines()
    assert transcript.images == [small] * FIGURES
    assert lines[0] == "[figure 1: image/png, 640x480, left out: a cell may show 8 figures of 4 MiB]"
    assert lines[1] == "[figure 2: image/png, 640x480]"
    assert lines[-1].startswith("[figure 10: image/png, 640x480, left out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("10%\r50%\r100%\ndone", "100%\ndone"),
        ("windows\r\nlines\r\n", "windows\nlines\n"),
        ("kept\r", "kept"),
    ],
)
def test_plain_text_is_what_a_terminal_would_end_with(text: str, expected: str) -> None:
    assert plain(text) == expected


@given(st.text())
def test_plain_takes_any_text(text: str) -> None:
    assert plain(text).count("\n") <= text.count("\n")


def test_the_size_of_a_figure() -> None:
    assert png_size(base64.b64encode(PNG).decode()) == "640x480"
    assert {png_size(encoded) for encoded in ("", "%%%", "é", "AAAA")} == {"damaged"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["state", "text", "images"]), inner),
    max_leaves=8,
)
REPLIES = st.fixed_dictionaries({}, optional=dict.fromkeys(("state", "text", "images", "death"), VALUES))


@given(st.binary() | (REPLIES | VALUES).map(lambda value: json.dumps(value).encode()))
def test_any_line_becomes_a_reply_and_any_reply_a_result(line: bytes) -> None:
    reply = read_reply(line, output=100)
    result = describe(reply, timeout=1.0)
    assert len(reply.text) <= 200
    result.text.encode()
    assert all(image.startswith(b"\x89PNG") for image in result.images)
    assert reply.state != "ok" or not result.failed


def test_a_reply_that_nests_too_deep_is_none() -> None:
    assert read_reply(b"[" * 200_000, output=100) == Reply("lost", reason="it sent something that is no reply")


def test_what_is_no_picture_is_no_image() -> None:
    images = [base64.b64encode(PNG).decode(), base64.b64encode(b"MZ").decode(), "?", None, 7]
    line = json.dumps({"state": "ok", "text": "x", "images": images}).encode()
    assert read_reply(line, output=100) == Reply("ok", "x", (PNG,))


def test_a_result_says_what_happened_before_and_after() -> None:
    reply = Reply("timeout", "half\n")
    expected = "[before]\nhalf\n[stopped after 2.5 seconds; variables are kept]"
    assert describe(reply, 2.5, "[before]") == ToolResult(expected, failed=True)
