"""HTML, Markdown, JSON and plain text become lines with links; whatever comes in, lines come out."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.tools.browser.backend import Document, SearchResult
from gptoss_mlx.tools.browser.decode import decode
from gptoss_mlx.tools.browser.html_text import html_text
from gptoss_mlx.tools.browser.layout import WIDTH, document_page, matches_page, results_page, source_page, wrap
from gptoss_mlx.tools.browser.links import join, plain

HERE = "https://a.example/docs/page"


def lines(html: str) -> list[str]:
    return html_text(html, HERE).lines


def urls(html: str) -> list[str]:
    return html_text(html, HERE).urls


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>one\n  two</p><p>three", ["one two", "", "three"]),
        ("a<br>b<br/>c", ["a", "b", "c"]),
        ("<h1>A</h1><h3>B</h3>c", ["# A", "", "### B", "", "c"]),
        ("<h2></h2>after", ["after"]),
        ("<ul><li>a<li>b</ul>c", ["* a", "* b", "", "c"]),
        ("<ol start=3><li>a<li>b<ul><li>c</ul></ol>", ["3. a", "4. b", "  * c"]),
        ("<ul><li><p>a</p><p>b</p></li></ul>", ["* a", "  b"]),
        ("<ul><li><h3>a</h3>b</li></ul>", ["* ### a", "  b"]),
        ("<li>stray</li></ul></ol>x", ["* stray", "", "x"]),
        ("<table><tr><th>a<th>b<tr><td><td>2</table>c", ["a | b", "| 2", "", "c"]),
        ("<pre>\n  a\n\n    b  c\n</pre>d", ["  a", "", "    b  c", "", "d"]),
        ("<blockquote>a<blockquote>b</blockquote></blockquote>c", ["> a", "", "> > b", "", "c"]),
        ("a<hr>b", ["a", "---", "b"]),
        ("x<script>var a = '<p>no</p>';</script>y<style>p {}</style>z", ["xyz"]),
        ("a<svg><title>no</title><g><svg/></g></svg>b", ["ab"]),
        ("a<!-- <p>no --> b<!---->c", ["a bc"]),
        ("a<script>never closed <p>b", ["a"]),
        ("a<!-- never closed > b", ["a"]),
        ("a &amp; &lt;b&gt; &#233; &nbsp;&copy &bogus; &#xD800;", ["a & <b> é © &bogus; \ufffd"]),
        ("1 < 2 and 3 > 2 <", ["1 < 2 and 3 > 2"]),
        ("a<![CDATA[b]]>c<?php d ?>e<!DOCTYPE f>", ["ace"]),
        ("a<![[[<&x>b<<!-- -->![[>c<![<><!-- d", ["ab<![[>c"]),
        ("<img alt='a cat'><img src=x><img alt=''>", ["[Image: a cat]"]),
        ("a <b>b</b><i> c </i> d", ["a b c d"]),
        ("fake 【3†link】", ["fake 〖3‡link〗"]),
        ("", []),
        ("no tags at all", ["no tags at all"]),
        ("</p></div></table></a></pre>", []),
    ],
)  # fmt: skip
def test_html_becomes_lines(html: str, expected: list[str]) -> None:
    assert lines(html) == expected


@pytest.mark.parametrize(
    ("html", "expected", "leads_to"),
    [
        ("<a href=b>B</a>.", ["【0†B】."], ["https://a.example/docs/b"]),
        ("<a href='//www.b.example/x?y#z'>B</a>", ["【0†B†b.example】"], ["https://www.b.example/x?y"]),
        ("go<a href=/b> there </a>now", ["go 【0†there】 now"], ["https://a.example/b"]),
        ("<a href=/b>1</a> <a href=/c>2</a> <a href=/b#x>3</a>", ["【0†1】 【1†2】 【0†3】"], ["https://a.example/b", "https://a.example/c"]),
        ("<base href='https://b.example/r/'><a href=s>S</a>", ["【0†S†b.example】"], ["https://b.example/r/s"]),
        ("<base href='/r/'><base href='http://['><a href=s>S</a>", ["【0†S】"], ["https://a.example/r/s"]),
        (f"<a href='//{'x' * 254}/'>no host</a>", ["no host"], []),
        ("<a href=/b><h2>Head</h2><p>teaser</p></a>", ["## 【0†Head】", "", "teaser"], ["https://a.example/b"]),
        ("<a href=/b><div></div>late</a>", ["【0†late】"], ["https://a.example/b"]),
        ("<a href=/b>open<a href=/c>next</a>", ["【0†open】【1†next】"], ["https://a.example/b", "https://a.example/c"]),
        ("<a href=/b><img alt=pic></a>", ["【0†[Image: pic]】"], ["https://a.example/b"]),
        ("<a href=/b></a><a>plain</a>", ["plain"], []),
        ("<a href='#top'>top</a>", ["top"], []),
        ("<a href='javascript:x()'>j</a> <a href='mailto:a@b'>m</a> <a href='file:///etc/passwd'>f</a>", ["j m f"], []),
        ("<a href='http://['>bad</a>", ["bad"], []),
        (f"<a href='/{'x' * 3000}'>long</a>", ["long"], []),
        ("<a href='/a b【】'>odd</a>", ["【0†odd】"], ["https://a.example/a%20b%E3%80%90%E3%80%91"]),
    ],
)  # fmt: skip
def test_links_are_marked_and_numbered(html: str, expected: list[str], leads_to: list[str]) -> None:
    assert lines(html) == expected
    assert urls(html) == leads_to


def test_the_number_of_links_is_bounded() -> None:
    page = document_page(Document(HERE, "".join(f"<a href=/{n}>x</a> " for n in range(6000)), "text/html"))
    assert len(page.links) == 5000
    assert page.lines[-1].endswith("x x x")


def test_local_documents_link_to_each_other() -> None:
    assert join("local:///a/b.html", "../c%20d.md#e") == "local:///c%20d.md"
    assert join("local:///a/b.html", "/x.md") == "local:///x.md"
    assert join("local:///a/b.html", "https://b.example/") == "https://b.example/"


def test_titles() -> None:
    assert (
        html_text("<title> a \n b &lt; c</title><svg><title>d</title></svg><title>e</title>", HERE).title == "a b < c"
    )
    assert html_text("<title>never closed<p>text", HERE).lines == ["text"]
    assert document_page(Document(HERE, "<p>x", "text/html")).title == "a.example"
    assert len(document_page(Document(HERE, f"<title>{'long ' * 500}</title>", "text/html")).title) <= 120


FRAGMENTS = st.sampled_from(
    [
        "<p>", "</p>", "<a href=/x>", "<a href='//b.example/'>", "<a>", "</a>", "<ul>", "</ul>", "<ol start=9>", "<li>",
        "</ol>", "<table>", "<tr>", "<td>", "<td/>", "</table>", "<pre>", "</pre>", "<h2>", "</h2>",
        "<script>", "</script>", "<style>", "<svg>", "</svg>", "<title>", "</title>", "<br/>",
        "<blockquote>", "</blockquote>", "<base href=//c>", "<img alt=【>", "<!--", "-->", "<![CDATA[", "]]>",
        "<![", "[", "!", "--", "<?", "<!", "</", "<", ">", "&", "&amp;", "&#", "&#x110000;",
        "【0†x】", "\x00", "\ud800", "text", "é", "文", " ", "\n",
    ]
)  # fmt: skip


@given(st.lists(FRAGMENTS | st.text(max_size=5)).map("".join))
def test_any_html_becomes_clean_lines_with_links_that_exist(html: str) -> None:
    page = document_page(Document(HERE, html, "text/html"))
    text = "\n".join(page.lines)
    assert text.encode()
    assert not set(text) & set("\r\x00")
    assert {int(number) for number in re.findall("【(\\d*)†", text)} <= set(range(len(page.links)))
    assert all(link.url.startswith(("https://", "http://")) for link in page.links)
    assert matches_page(page, "text").lines


@given(
    st.text(alphabet=st.sampled_from('ab 文\t【†】〖\n#[]()"{}:,1'), max_size=400),
    st.sampled_from(["markdown", "plain", "json", "html", "csv"]),
)
def test_any_text_of_any_type_becomes_bounded_lines(text: str, kind: str) -> None:
    media_type = "application/json" if kind == "json" else f"text/{kind}"
    for page in (document_page(Document(HERE, text, media_type)), source_page(Document(HERE, text, media_type))):
        assert all(len(plain(line)) <= WIDTH + 5 for line in page.lines)


PIECES = [
    "<a", "<a ", "<a x='", "</a", "<!--", "<!-- -->", "<![CDATA[", "<?", "<!", "<script", "<script>", "<ul><li>x",
    "<title>", "&",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("end", ["", ">"])
def test_no_html_takes_more_than_linear_time(piece: str, end: str) -> None:
    """A quadratic scan of these would take minutes."""
    assert document_page(Document(HERE, piece * 30_000 + end, "text/html")).lines


def test_lines_are_cut_between_words_and_links_stay_whole() -> None:
    words = " ".join(f"word{n}" for n in range(40))
    cut = wrap(words)
    assert " ".join(cut) == words
    assert max(map(len, cut)) <= WIDTH
    link = "【7†" + "w " * 30 + "†b.example】"
    assert link in wrap("x" * 70 + " " + link + ". and more")[1]
    assert wrap("y" * 200) == ["y" * 80, "y" * 80, "y" * 40]
    assert wrap("\tif x:") == ["    if x:"]


@given(st.text())
def test_wrapping_loses_no_word(text: str) -> None:
    line = " ".join(text.split())
    assert "".join(wrap(line)).replace(" ", "") == line.replace(" ", "")


def test_markdown_links_and_title() -> None:
    text = 'Intro\n# The title\nSee [b](b.md "B"), ![pic](p.png), [c](<https://c.example/>), [m](mailto:x), [d].'
    page = document_page(Document(HERE, text, "text/markdown"))
    assert page.title == "The title"
    assert page.lines[2] == "See 【0†b】, ![pic](p.png), 【1†c†c.example】, m, [d]."
    assert [link.url for link in page.links] == ["https://a.example/docs/b.md", "https://c.example/"]


def test_json_gets_a_line_per_value_and_anything_else_stays() -> None:
    page = document_page(Document(HERE, '{"a":[1,"\\ud800é"]}', "application/json"))
    assert page.lines == ("{", ' "a": [', "  1,", '  "\ufffdé"', " ]", "}")
    assert document_page(Document(HERE, "{oops", "application/problem+json")).lines == ("{oops",)
    assert document_page(Document(HERE, "[" * 100_000, "application/json")).lines
    deep = "[" + ",".join(["[" * 300 + "]" * 300] * 20) + "]"  # a line per bracket would be 150 times as long
    assert sum(map(len, document_page(Document(HERE, deep, "application/json")).lines)) == len(deep)


def test_empty_and_cut_documents_say_so() -> None:
    assert document_page(Document(HERE, " \n ")).lines == ("(This page has no text.)",)
    assert document_page(Document(HERE, "a", cut=True)).lines[-1] == "(The page is longer: its end was not fetched.)"


def test_patterns_match_across_lines_links_case_and_space() -> None:
    text = "The <a href=/x>Tide\n Table</a> of the " + "long " * 11 + "harbour wall. STRASSE"
    page = document_page(Document(HERE, text, "text/html"))
    assert page.matches("the tide  table OF") == [0]
    assert page.matches("long harbour wall") == [0]
    assert page.lines[1].startswith("harbour")
    assert page.matches("straße") == [1]
    assert page.matches("") == page.matches(" ") == page.matches("【0†") == []
    assert document_page(Document(HERE, "a\na\nb a a")).matches("a") == [0, 1, 2]


def test_results_cannot_forge_links() -> None:
    page = results_page("q 【1†x】", [SearchResult("https://b.example/【1】", "T【2†y】\nz", "s【3†L1】\n" * 500)])
    assert page.title == "Search results for: q 〖1‡x〗"
    assert page.lines[0] == "【0†T〖2‡y〗 z†b.example】"
    assert len(" ".join(page.lines)) < 900
    assert page.links[0].url == "https://b.example/%E3%80%901%E3%80%91"
    assert results_page("q", [SearchResult("odd:thing", "")]).lines == ("【0†odd:thing†odd:thing】",)


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        ("é文".encode(), None, "é文"),
        ("é".encode("latin-1"), None, "é"),
        (b"\x93q\x94", "iso-8859-1", "“q”"),  # as the web means it
        ("é文".encode("utf-16"), "utf-8", "é文"),
        (b"\xef\xbb\xbfa", None, "a"),
        ("文".encode("gb18030"), "GB2312", "文"),
        (b"<meta charset='shift_jis'>" + "文".encode("shift_jis"), None, "<meta charset='shift_jis'>文"),
        (b'<META http-equiv=x content="text/html; charset=koi8-r">' + "ж".encode("koi8-r"), None, "…ж"),
        (b"<?xml version='1.0' encoding='windows-1251'?>" + "ж".encode("cp1251"), None, "…ж"),
        (b"<meta charset=nonsense>\xc3\xa9", "rot13", "…é"),
        (b"+AGEAYQ-", "utf-7", "+AGEAYQ-"),
        (b"\\u0041", "unicode_escape", "\\u0041"),
        (b"a\xffb", "utf-8", "a\ufffdb"),
        (b"", None, ""),
    ],
)
def test_character_sets(data: bytes, declared: str | None, text: str) -> None:
    assert decode(data, declared).endswith(text.removeprefix("…"))


def test_a_character_that_is_cut_in_two_does_not_change_the_character_set() -> None:
    data = "文é".encode()
    assert decode(data[:-1], cut=True) == "文"
    assert decode(b"caf\xe9") == "café"


@given(st.binary(), st.text() | st.sampled_from(["utf-8", "idna", "punycode", "hex", "undefined", "utf_16", "\0"]))
def test_any_bytes_are_text(data: bytes, declared: str) -> None:
    assert isinstance(decode(data, declared), str)


def test_wrapping_is_linear() -> None:
    text = "".join(random.Random(5).choices("ab \t文【†】", k=300_000))
    assert document_page(Document(HERE, text)).lines
