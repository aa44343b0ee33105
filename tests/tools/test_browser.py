"""The browser as the model uses it: searching, opening, scrolling, finding, and every way to get it wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony.message import ToolNamespace
from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.browser import BrowserError, BrowserTool, Document, LocalFolder, SearchResult

DISPLAYS = Path(__file__).parent.parent / "goldens" / "browser" / "displays.txt"
TIDES = """\
# Tides of Brest

The tide at Brest rises twice a day. See [the harbour](sub/harbour.html), or [a table](https://www.example.org/t#now).

High water was 7.1 m.
"""
HARBOUR = """\
<title>Harbour &amp; pier</title><body><h1>Harbour</h1>
<p>The <a href="../tides.md">tide table</a> hangs at the pier; ships leave at high
water.</p>
"""


class Shelf:
    """A back end of documents by their addresses."""

    instructions = "Take from the shelf."

    def __init__(self, *documents: Document) -> None:
        self.documents = {document.url: document for document in documents}
        self.closed = False

    async def search(self, query: str, topn: int) -> list[SearchResult]:
        return [SearchResult(url, found.title, found.text[:40]) for url, found in self.documents.items()][:topn]

    async def fetch(self, url: str) -> Document:
        if url not in self.documents:
            raise BrowserError(f"{url}: not on the shelf")
        return self.documents[url]

    async def close(self) -> None:
        self.closed = True


class Broken(Shelf):
    """A back end with a mistake in it."""

    async def search(self, query: str, topn: int) -> list[SearchResult]:
        raise KeyError("a mistake\nof two lines")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "tides.md").write_text(TIDES)
    (tmp_path / "sub" / "harbour.html").write_text(HARBOUR)
    return tmp_path


def call(tool: BrowserTool, name: str, **arguments: Any) -> ToolResult:
    return asyncio.run(tool.run(f"browser.{name}", json.dumps(arguments)))


def numbered(count: int) -> BrowserTool:
    """A browser with one page of `count` lines open."""
    tool = BrowserTool(Shelf(Document("https://a.example/n", "\n".join(f"line {n}" for n in range(count)), title="N")))
    assert not call(tool, "open", id="https://a.example/n").failed
    return tool


def test_the_tool_declares_the_namespace_that_the_model_was_trained_on() -> None:
    tool = BrowserTool(Shelf())
    assert tool.namespace == ToolNamespace.browser()
    assert tool.instructions == "Take from the shelf."
    assert tool.handles("browser.search")
    assert tool.handles("browser.open")
    assert not tool.handles("functions.search")


def test_displays_from_search_to_source(folder: Path) -> None:
    tool = BrowserTool(LocalFolder(folder))
    displays = [
        call(tool, "search", query="Where is the tide table?"),
        call(tool, "open", id=1),
        call(tool, "open", id=0),
        call(tool, "find", pattern="high  WATER"),
        call(tool, "open", id=0, num_lines=2),
        call(tool, "open", cursor=1, view_source=True),
    ]
    assert "\n\n".join(display.text for display in displays) + "\n" == DISPLAYS.read_text()
    asyncio.run(tool.close())


def test_scrolling_keeps_the_page_and_takes_a_new_cursor() -> None:
    tool = numbered(100)
    shown = call(tool, "open", loc=90, num_lines=3).text
    assert shown.startswith("[1] N (https://a.example/n)\n**viewing lines [90 - 92] of 99**\n\nL90: line 90\n")
    assert "[98 - 99] of 99" in call(tool, "open", cursor=0, loc=98).text


def test_a_display_is_bounded_even_if_more_lines_are_asked_for() -> None:
    backend = Shelf(Document("https://a.example/", "word " * 5000))
    tool = BrowserTool(backend, view_chars=200)
    shown = call(tool, "open", id="https://a.example/", num_lines=1000)
    assert "**viewing lines [0 - 1] of 312**" in shown.text
    assert len(shown.text) < 320
    tiny = BrowserTool(backend, view_chars=1)  # one line is always shown
    assert "**viewing lines [0 - 0] of 312**" in call(tiny, "open", id="https://a.example/").text


def test_a_result_opens_where_its_snippet_stands() -> None:
    class Deep(Shelf):
        async def search(self, query: str, topn: int) -> list[SearchResult]:
            return [SearchResult("https://a.example/", "Deep", "nowhere at all … line 70 line 71 line 72")]

    tool = BrowserTool(Deep(Document("https://a.example/", "\n".join(f"line {n}" for n in range(100)))))
    call(tool, "search", query="x")
    assert "**viewing lines [66 - 99] of 99**" in call(tool, "open", id=0).text
    assert "**viewing lines [0 - 99] of 99**" in call(tool, "open", id=0, cursor=0, loc=0).text


def test_results_are_bounded_and_at_least_one() -> None:
    shelf = Shelf(*(Document(f"https://a.example/{n}", "text", title=f"T{n}") for n in range(50)))
    tool = BrowserTool(shelf)
    assert call(tool, "search", query="x", topn=1000).text.count("†T") == 20
    assert call(tool, "search", query="x", topn=-3).text.count("†T") == 1
    assert call(tool, "search", query="x").text.count("†T") == 10


def test_nothing_found_is_said_and_is_no_failure() -> None:
    tool = BrowserTool(Shelf())
    assert call(tool, "search", query="zebra") == ToolResult(
        "[0] Search results for: zebra\n**viewing lines [0 - 0] of 0**\n\nL0: No results. Try other words."
    )
    tool = numbered(3)
    assert "L0: No matches." in call(tool, "find", pattern="zebra").text


def test_find_shows_fifty_matches_at_most_and_no_line_twice() -> None:
    tool = BrowserTool(Shelf(Document("https://a.example/", "\n\n\n\n".join(["match here"] * 60))), view_chars=10**6)
    call(tool, "open", id="https://a.example/")
    shown = call(tool, "find", pattern="match").text
    assert shown.count("†match at L") == 50
    assert shown.endswith("(More than 50 matches: only these are shown.)")
    tool = numbered(7)
    assert call(tool, "find", pattern="line").text.count(": line ") == 7


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("open", {"id": 3}, "browser.open: id: link 3 is not on the page, which has no links; check the cursor"),
        ("open", {"cursor": 7}, "browser: cursor: no page 7; the cursors are 0 to 0"),
        ("find", {"pattern": "x", "cursor": 7}, "browser: cursor: no page 7; the cursors are 0 to 0"),
        ("open", {"loc": 3}, "browser.open: loc: the page has lines 0 to 2, line 3 was asked for"),
        ("open", {"id": "https://b.example"}, "https://b.example: not on the shelf"),
        ("find", {"text": "x"}, "browser.find: unknown argument 'text'; it takes pattern, cursor"),
        ("open", {"loc": "top"}, 'browser.open: loc: an integer expected, "top" found'),
        ("open", {"loc": 1.5}, "browser.open: loc: an integer expected, 1.5 found"),
        ("open", {"id": [1]}, "browser.open: id: an integer or a text expected, [1] found"),
        ("open", {"view_source": 1}, "browser.open: view_source: true or false expected, 1 found"),
        ("search", {}, "browser.search: query is missing"),
        ("search", {"query": " "}, "browser.search: query: some words expected, none found"),
        ("search", {"query": "x", "source": "news"}, "browser.search: source: only 'web' exists; leave it out"),
        ("search", {"query": "x", "topn": True}, "browser.search: topn: an integer expected, true found"),
        ("find", {"pattern": ""}, "browser.find: pattern: some words expected, none found"),
        ("click", {}, "browser.click: no such function; call browser.search, browser.open, browser.find"),
    ],
)  # fmt: skip
def test_a_wrong_call_fails_in_one_line(name: str, arguments: dict[str, Any], message: str) -> None:
    assert call(numbered(3), name, **arguments) == ToolResult(f"Error: {message}", failed=True)


@pytest.mark.parametrize("arguments", ["", "tides", "[]", '{"query": ', '{"query":"' + "x" * 30_000 + '"}', "[" * 9000])
def test_arguments_that_are_no_object_fail(arguments: str) -> None:
    result = asyncio.run(numbered(3).run("browser.search", arguments))
    assert result.failed
    assert "\n" not in result.text
    assert len(result.text) < 200


def test_what_models_write_for_numbers_is_read() -> None:
    tool = numbered(50)
    for loc in (7, 7.0, "7"):
        assert "viewing lines [7 - 8]" in call(tool, "open", id=None, loc=loc, num_lines=2, source="web").text


def test_without_a_page_the_way_to_one_is_told() -> None:
    result = call(BrowserTool(Shelf()), "open", id=0)
    assert result.failed
    assert "call browser.search" in result.text


def test_results_have_no_source() -> None:
    tool = BrowserTool(Shelf())
    call(tool, "search", query="x")
    assert "search results have no source" in call(tool, "open", view_source=True).text


def test_only_the_latest_displays_are_kept() -> None:
    tool = BrowserTool(Shelf(Document("https://a.example/", "text")), max_pages=3)
    for _ in range(5):
        call(tool, "open", id="https://a.example/")
    assert [cursor for cursor in range(9) if tool.page(cursor)] == [2, 3, 4]
    assert call(tool, "open", cursor=1).text == "Error: browser: cursor: no page 1; the cursors are 2 to 4"
    assert call(tool, "open").text.startswith("[5] ")


def test_a_mistake_in_a_back_end_becomes_a_failed_result() -> None:
    result = call(BrowserTool(Broken()), "search", query="x")
    assert result == ToolResult("Error: browser.search failed: KeyError: 'a mistake\\nof two lines'", failed=True)


def test_bounds_are_checked_and_the_back_end_is_closed() -> None:
    with pytest.raises(RequestError, match="view_chars of at least 1 expected, 0 found"):
        BrowserTool(Shelf(), view_chars=0)
    with pytest.raises(RequestError, match="max_pages"):
        BrowserTool(Shelf(), max_pages=0)
    shelf = Shelf()
    asyncio.run(BrowserTool(shelf).close())
    assert shelf.closed


def test_citations_of_displays_lead_to_the_document(folder: Path) -> None:
    tool = BrowserTool(LocalFolder(folder))
    call(tool, "search", query="Brest tide rises")
    call(tool, "open", id=0)
    call(tool, "find", pattern="high water")
    cited = tool.citations("High water was 7.1 m【1†L5】, twice a day【0†L1】, at seven【2†L2】. Unknown【9†L1】.")
    assert [(c.url, c.lines) for c in cited] == [
        ("local:///tides.md", (5, 5)),
        ("local:///tides.md", None),
        ("local:///tides.md", (5, 5)),
    ]
    asyncio.run(tool.close())


KEYS = st.sampled_from(["query", "topn", "source", "id", "cursor", "loc", "num_lines", "view_source", "pattern"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["web", "0", "line", -1, 0]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["browser.search", "browser.open", "browser.find", "browser", "", "functions.browser.find"]
            ),
            st.dictionaries(KEYS, VALUES).map(json.dumps) | st.text(),
        ),
        max_size=6,
    )
)
def test_no_call_ever_raises(calls: list[tuple[str, str]]) -> None:
    tool = numbered(5)

    async def all_of_them() -> None:
        for recipient, arguments in calls:
            result = await tool.run(recipient, arguments)
            assert result.text.encode()
            assert result.failed == result.text.startswith("Error: ")
            assert not result.failed or "\n" not in result.text

    asyncio.run(all_of_them())
