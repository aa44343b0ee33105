"""Citations in answers: where they lead, and that malformed ones harm nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.tools.browser import Citation, Page, find_citations
from gptoss_mlx.tools.browser.page import Origin

PAGE = Page("https://a.example/t", "Tides [of] Brest", tuple(f"line {n}" for n in range(20)))
QUOTES = Page("", "Results", ("x", "y"), origins=(Origin("https://b.example/", "B"), Origin("https://c.example/", "C")))
PAGES = {3: PAGE, 4: QUOTES}


def found(text: str) -> list[Citation]:
    return find_citations(text, PAGES.get)


@pytest.mark.parametrize(
    ("spelling", "lines"),
    [
        ("【3†L5-L9】", (5, 9)),
        ("【3†L5】", (5, 5)),
        ("【3†L5-9】", (5, 9)),
        ("【3†L5–L9】", (5, 9)),
        ("【3†L9-L5】", (5, 9)),
        ("【 3 †l5 - l9】", (5, 9)),
        ("【3†L5-L900】", (5, 19)),
        ("【3†L5-L9†a.example】", (5, 9)),
        ("【3†source】", None),
        ("【3†】", None),
        ("【3】", None),
    ],
)
def test_spellings(spelling: str, lines: tuple[int, int] | None) -> None:
    text = f"High water{spelling}."
    assert found(text) == [Citation(10, 10 + len(spelling), 3, "https://a.example/t", "Tides [of] Brest", lines)]


@pytest.mark.parametrize(
    "text",
    ["【9†L1】", "【†L1】", "【3†L1", "3†L1】", "【-3†L1】", "【turn0search1】", "【4†source】", "[3†L1]", "【" * 500],
)
def test_what_leads_nowhere_stays_as_it_is(text: str) -> None:  # fmt: skip
    assert found(text) == []


def test_a_line_of_results_stands_for_what_it_quotes() -> None:
    assert [(c.url, c.title, c.lines) for c in found("【4†L0】【4†L1-L7】【4†L0-L1】")] == [
        ("https://b.example/", "B", None),
        ("https://c.example/", "C", None),
        ("https://b.example/", "B", None),
    ]


@given(st.text(alphabet=st.sampled_from("【】†L0134-– \nx"), max_size=60))
def test_any_text_gives_spans_in_order_that_are_citations(text: str) -> None:
    end = 0
    for citation in found(text):
        assert citation.start >= end
        end = citation.end
        assert text[citation.start] == "【"
        assert text[citation.end - 1] == "】"
        assert citation.lines is None or 0 <= citation.lines[0] <= citation.lines[1] < 20
