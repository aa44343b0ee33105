"""How citations are shown: as footnotes, and as links with a list of sources."""

from __future__ import annotations

import pytest

from gptoss_mlx.tools import Citation, with_footnotes, with_links

TEXT = "A【3†L5-L9】, b【4†L0】, c【3†L5-L9】 d【9†L1】 e【3†L2】."


def cited(spelling: str, url: str, title: str, *lines: int, after: int = 0) -> Citation:
    start = TEXT.index(spelling, after)
    return Citation(start, start + len(spelling), 3, url, title, (lines[0], lines[-1]) if lines else None)


WEB = ("https://a.example/t", "Tides [of] Brest")
CITED = [
    cited("【3†L5-L9】", *WEB, 5, 9),
    cited("【4†L0】", "local:///sub/a%20b.md", "A_B"),
    cited("【3†L5-L9】", *WEB, 5, 9, after=10),
    cited("【3†L2】", *WEB, 2),
]


def test_footnotes_are_shared_and_in_order() -> None:
    assert with_footnotes(TEXT, CITED) == (
        "A[^1], b[^2], c[^1] d【9†L1】 e[^3].\n"
        "\n"
        "[^1]: [Tides \\[of\\] Brest](<https://a.example/t>), lines 5–9\n"
        "[^2]: A\\_B `local:///sub/a%20b.md`\n"
        "[^3]: [Tides \\[of\\] Brest](<https://a.example/t>), line 2"
    )


def test_links_lead_to_the_web_and_name_what_is_not_there() -> None:
    link = "(<https://a.example/t>)"
    assert with_links(TEXT, CITED) == (
        f"A[[1]]{link}, b[2], c[[1]]{link} d【9†L1】 e[[3]]{link}.\n"
        "\n"
        "Sources:\n"
        "\n"
        f"1. [Tides \\[of\\] Brest]{link}, lines 5–9\n"
        "2. A\\_B `local:///sub/a%20b.md`\n"
        f"3. [Tides \\[of\\] Brest]{link}, line 2"
    )


def test_without_citations_a_text_stays_as_it_is() -> None:
    assert with_footnotes(TEXT, []) == with_links(TEXT, []) == TEXT


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://a.example/b c>\\<", "https://a.example/b%20c%3E%5C%3C"),
        ("http://a.example/", "http://a.example/"),
        ("javascript:alert(1)", None),
        ("local:///a.md", None),
        ("", None),
    ],
)
def test_what_a_person_may_follow(url: str, link: str | None) -> None:
    assert Citation(0, 1, 0, url, "x").link == link
