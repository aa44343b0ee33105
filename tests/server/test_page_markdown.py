"""The page's Markdown, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import Browser
from hypothesis import given
from hypothesis import strategies as st
from playback import PlaybackBackend, play, said
from serving import served


@pytest.fixture(scope="module")
def page(chrome: Browser) -> Iterator[Browser]:
    """The browser with the page in it."""
    with served({"played": PlaybackBackend(play(said("final", "So.")))}) as url:
        chrome.open(url)
        yield chrome


def show(page: Browser, text: str) -> str:
    """The HTML of what a text becomes."""
    return str(page.driver.execute_async_script(SHOW, text))


MARKDOWN = [
    ("One\ntwo\n\nthree", "<p>One\ntwo</p><p>three</p>"),
    ("a **b *c* d** _e_ ~~f~~", "<p>a <strong>b <em>c</em> d</strong> <em>e</em> <del>f</del></p>"),
    ("***a*** snake_case_name 2 * 3 * 4", "<p><strong><em>a</em></strong> snake_case_name 2 * 3 * 4</p>"),
    ("**open *and", "<p>**open *and</p>"),
    (r"\*a\* `b*c*` ``d`e``", "<p>*a* <code>b*c*</code> <code>d`e</code></p>"),
    ("a  \nb<br>c", "<p>a  <br>b<br>c</p>"),
    ("# A\n### B ###", "<h3>A</h3><h5>B</h5>"),
    ("a\n\n---\n\n* * *", "<p>a</p><hr><hr>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("- a\n- b", '<ul class="tight"><li><p>a</p></li><li><p>b</p></li></ul>'),
    ("A:\n- b\n  - c\n", '<p>A:</p><ul class="tight"><li><p>b</p><ul class="tight"><li><p>c</p></li></ul></li></ul>'),
    ("3. a\n\n   b\n4. c", '<ol class="" start="3"><li><p>a</p><p>b</p></li><li><p>c</p></li></ol>'),
    ("It was in\n1984. Then", "<p>It was in\n1984. Then</p>"),
    ("|a|b|\n|-|-:|\n|c\\|d|`e`|", '<thead><tr><th class="start">a</th><th class="end">b</th></tr></thead>'
     '<tbody><tr><td class="start">c|d</td><td class="end"><code>e</code></td></tr></tbody>'),
    ("```py\nx = 1\n\n- y", '<pre tabindex="0"><code>x = 1\n\n- y</code></pre>'),
    ("1. a\n   ```\n     b\n   ```", '<pre tabindex="0"><code>  b</code></pre>'),
]  # fmt: skip
SHOW = """
const [text, done] = arguments;
import("/page/markdown.js").then(({ Markdown }) => {
  const element = document.createElement("div");
  new Markdown(element).show(text);
  done(element.innerHTML);
}).catch((error) => done(String(error)));
"""
GROW = """
const [text, done] = arguments;
import("/page/markdown.js").then(({ Markdown }) => {
  const [grown, whole] = [document.createElement("div"), document.createElement("div")];
  const markdown = new Markdown(grown);
  for (let end = 0; end <= text.length; end += 1) markdown.show(text.slice(0, end));
  new Markdown(whole).show(text);
  const tags = new Set([...whole.querySelectorAll("*")].map(({ localName }) => localName));
  done({ same: grown.innerHTML === whole.innerHTML, tags: [...tags] });
}).catch((error) => done({ error: String(error) }));
"""


def test_markdown_becomes_elements(page: Browser) -> None:
    for text, expected in MARKDOWN:
        html = show(page, text)
        assert expected in html if expected.startswith(("<thead", "<pre")) else expected == html, text


def test_links_lead_to_the_web_alone(page: Browser) -> None:
    opening = '<a href="https://a.example/b_c" target="_blank" rel="noopener noreferrer">'
    for text, inner in [
        ("[x **y**](https://a.example/b_c)", "x <strong>y</strong>"),
        ("see https://a.example/b_c.", "https://a.example/b_c"),
        ("<https://a.example/b_c>", "https://a.example/b_c"),
    ]:
        assert f"{opening}{inner}</a>" in show(page, text)
    for text in ("[x](javascript:alert(1))", "[x](//a.example)", "[x](/a)", "[x](https://)", "[x](JaVaScRiPt:a)"):
        assert show(page, text) == f"<p>{text}</p>"


@given(text=st.text("ab 1.*_~`[]()<>#-|:/!\\\n\t", max_size=60) | st.just("\n\n".join(text for text, _ in MARKDOWN)))
def test_a_text_that_grows_ends_as_if_it_had_come_at_once(page: Browser, text: str) -> None:
    told = page.driver.execute_async_script(GROW, text)
    assert told["same"], told
    assert set(told["tags"]) <= TAGS


TAGS = {"p", "h3", "h4", "h5", "h6", "hr", "ul", "ol", "li", "blockquote", "div", "span", "button", "pre", "code",
        "table", "thead", "tbody", "tr", "th", "td", "a", "br", "strong", "em", "del"}  # fmt: skip


PIECES = ["*a ", "**a* ", "a*", "_a*b~~", "[", "[a](", "[a](b ", "[a](https://a.example/(", "<https://a", "http://.",
          "`", "` `` ", "```\n", "```a`\n", "> ", ">", "- ", "- a\n", "1. a\n\n", "# ", "| ", "|\n", "a|b\n",
          " ", " \n", "\\", "\t"]  # fmt: skip


def test_no_text_hangs_the_page(page: Browser) -> None:
    """Were time quadratic in anything here, or depth without bounds, scripts would be ended or fail."""
    for piece in PIECES:
        assert show(page, f"x\n\n{piece * 10_000}").startswith("<p>x</p>"), piece
