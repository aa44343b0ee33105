"""The web page: its files and headers, and a whole chat in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest
from browsing import Browser
from playback import Play, PlaybackBackend, called, play, said
from selenium.webdriver.common.keys import Keys
from serving import served, talk

from gptoss_mlx.errors import BusyError
from gptoss_mlx.events import Event
from gptoss_mlx.harmony import Message, ToolNamespace
from gptoss_mlx.server.backend import Stream, TurnRequest
from gptoss_mlx.server.built_in import BuiltIns, browsers
from gptoss_mlx.server.page import ASSETS
from gptoss_mlx.server.responses import Responses
from gptoss_mlx.server.settings import Settings
from gptoss_mlx.tools import RunnableTool, ToolResult
from gptoss_mlx.tools.browser import BrowserTool, LocalFolder

Serve = Callable[..., str]
KEY = Settings(api_key="s3cret")


class Notebook(RunnableTool):
    """Stands for the notebook; nothing is run."""

    namespace = ToolNamespace.python()

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        raise NotImplementedError


class Busy(PlaybackBackend):
    """Has no place for the first request."""

    async def start(self, request: TurnRequest) -> Stream[Event]:
        if not self.requests:
            self.requests.append(request)
            raise BusyError("the queue is full; ask again later")
        return await super().start(request)


def backend(*plays: Play) -> PlaybackBackend:
    return PlaybackBackend(*(plays or (play(said("final", "So.")),)))


def endless() -> PlaybackBackend:
    """Says something, and goes on after that for ever."""
    parts = said("analysis", "Let me see."), said("final", "First, "), said("final", "never.")
    return PlaybackBackend(Play(parts, waits=asyncio.Event()))


def get(path: str, headers: dict[str, str] | None = None, settings: Settings | None = None) -> httpx.Response:
    return talk(backend(), lambda client: client.get(path, headers=headers), settings)


# The files


@pytest.mark.parametrize("path", ASSETS)
def test_files_come_with_their_type_and_a_strict_policy_and_need_no_key(path: str) -> None:
    response = get(path, settings=KEY)
    kinds = {"": "text/html", "html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == kinds[path.rpartition("/")[2].rpartition(".")[2]]
    policy = dict(each.split(" ", 1) for each in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for directive in ("script-src", "style-src", "connect-src"):
        assert policy[directive] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_s_questions_need_the_key() -> None:
    assert get("/page/tools", settings=KEY).status_code == 401
    assert get("/page/tools", {"Authorization": "Bearer s3cret"}, KEY).json() == {"object": "list", "data": []}
    assert get("/page/nothing.js").status_code == 404


def test_files_that_a_browser_has_are_not_sent_again() -> None:
    first = get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = get("/page/main.js", {"If-None-Match": f'W/"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert get("/page/main.js", {"If-None-Match": '"other"'}).status_code == 200
    assert len({asset.etag for asset in ASSETS.values()}) == len(ASSETS)


def test_nothing_comes_from_elsewhere_and_nothing_parses_html() -> None:
    for path, asset in ASSETS.items():
        text = asset.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"\b(?:https?:)?//[\w.]+\.\w", text), path
        assert not re.search(r"(?:inner|outer|Adjacent)HTML|document\.write|\beval\(|new Function", text), path


def test_every_file_that_is_named_is_there() -> None:
    page = ASSETS["/"].body.decode()
    named = {f"/{name}" for name in re.findall(r'(?:src|href)="([^"]+)"', page)}
    for path, asset in ASSETS.items():
        if path.endswith(".js"):
            named |= {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', asset.body.decode())}
    assert named == set(ASSETS) - {"/"}


def test_every_file_is_packaged() -> None:
    root = Path(__file__).parents[2]
    [excluded] = re.findall(r"^wheel\.exclude = \[(.*)\]$", (root / "pyproject.toml").read_text(), re.MULTILINE)
    ignored = (root / ".gitignore").read_text().split()
    for pattern in [*re.findall(r'"(.*?)"', excluded), *ignored]:
        for path in ASSETS:
            assert not fnmatch(path, pattern.replace("**/", "*")), pattern


def test_the_page_is_told_which_tools_run_here(tmp_path: Path) -> None:
    built_ins = BuiltIns(browser=browsers(LocalFolder(tmp_path)), python=Notebook)
    with served({"played": backend()}, kept=Responses(built_ins=built_ins)) as url:
        tools = httpx.get(url + "/page/tools").json()["data"]
        assert tools == [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
        assert httpx.post(url + "/v1/responses", json={"input": "Hello", "tools": tools}).status_code == 200


# In a browser


@pytest.fixture
def browser(chrome: Browser) -> Iterator[Browser]:
    """The browser; the test fails if the console has a complaint that the test has not taken."""
    chrome.complaints()
    yield chrome
    assert chrome.complaints() == []


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers of one backend each; returns their addresses."""
    with ExitStack() as stack:
        yield lambda played, *rest: stack.enter_context(served({"played": played}, *rest))


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("GPTOSS_MLX_ARTIFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_embedded_model_answers(browser: Browser, demo_url: str, artifacts: Path) -> None:
    browser.open(demo_url)
    browser.one(".effort input[value=low]").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    told = browser.answer("What is the capital of France?")
    assert "Paris" in browser.one(".said").text
    assert re.search(r"\d+ tokens.* · prompt \d+", told)
    thoughts = browser.one("details.thoughts")
    assert thoughts.get_attribute("open") is None
    thoughts.find_element("css selector", "summary").click()
    assert thoughts.find_element("css selector", ".body").text
    assert browser.driver.save_screenshot(str(artifacts / "page.png"))


def test_an_answer_is_shown_while_it_is_written_and_can_be_stopped(browser: Browser, serve: Serve) -> None:
    played = endless()
    browser.open(serve(played))
    browser.ask("Tell.")
    browser.until(lambda: "First," in browser.one("#turns").text)
    article = browser.one("article")
    assert (article.get_attribute("aria-busy"), browser.shown("#send")) == ("true", False)
    assert played.closed == 0
    browser.one("#question").send_keys(Keys.ESCAPE)
    assert "Stopped" in browser.ended()
    browser.until(lambda: played.closed == 1)
    browser.click("Retry")
    browser.until(lambda: len(played.requests) == 2 and "First," in browser.one("#turns").text)
    browser.click("Stop")
    browser.until(lambda: played.closed == 2)
    assert len(browser.all("article")) == 1


def texts(request: TurnRequest) -> list[str]:
    return [message.text for message in request.messages if isinstance(message, Message)]


def test_what_is_chosen_is_asked_and_kept(browser: Browser, serve: Serve) -> None:
    played = backend(play(said("analysis", "Hm."), said("final", "So.")))
    browser.open(serve(played))
    browser.answer("One?")
    browser.one(".effort input[value=high]").send_keys(Keys.SPACE)
    browser.click("Settings")
    browser.one("#instructions").send_keys("Be brief.", Keys.ESCAPE)
    browser.answer("Two?")
    first, second = played.requests
    assert (first.effort, second.effort) == ("medium", "high")
    assert (first.instructions, second.instructions) == (None, "Be brief.")
    assert texts(second) == ["One?", "So.", "Two?"]
    browser.answer("Three?")
    browser.driver.refresh()
    browser.ready()
    assert [each.text for each in browser.all(".question")] == ["One?", "Two?", "Three?"]
    assert [each.text for each in browser.all(".said")] == ["So."] * 3
    assert browser.one(".effort :checked").get_attribute("value") == "high"
    browser.click("New chat")
    assert browser.all("article") == []
    browser.driver.refresh()
    browser.ready()
    assert browser.all("article") == []
    assert browser.shown("#welcome")


def test_the_last_question_can_be_written_anew(browser: Browser, serve: Serve) -> None:
    played = backend()
    browser.open(serve(played))
    browser.answer("One?")
    browser.answer("Tow?")
    browser.click("Edit")
    field = browser.one("#question")
    assert field.get_attribute("value") == "Tow?"
    field.send_keys(Keys.ESCAPE)
    assert (field.get_attribute("value"), browser.shown("#editing")) == ("", False)
    browser.click("Edit")
    field.clear()
    browser.answer("Two?")
    assert [each.text for each in browser.all(".question")] == ["One?", "Two?"]
    assert texts(played.requests[-1]) == ["One?", "So.", "Two?"]


def test_calls_of_tools_are_panels(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    reply = play(
        called("browser.search", '{"query":"tides"}', result=ToolResult("...")),
        called("python", "print(", "6 * 7)", result=ToolResult("42")),
        said("final", "It is 42."),
    )
    built_ins = BuiltIns(browser=browsers(LocalFolder(tmp_path)), python=Notebook)
    played = backend(reply)
    browser.open(serve(played, None, Responses(built_ins=built_ins)))
    browser.answer("What is 6 times 7?")
    search, cell = browser.all(".call")
    assert search.text == "Searched tides"
    assert (cell.text, cell.get_attribute("open")) == ("Python", None)
    cell.find_element("css selector", "summary").click()
    assert cell.find_element("css selector", "code").text == "print(6 * 7)"
    assert cell.find_element("css selector", ".printed").text == "42"
    browser.answer("And now?")
    assert texts(played.requests[-1]) == ["What is 6 times 7?", "print(6 * 7)", "42", "It is 42.", "And now?"]
    browser.click("Settings")
    for box in browser.all("#tools input"):
        box.click()
    browser.one("#instructions").send_keys(Keys.ESCAPE)
    browser.answer("And without?")
    assert [len(request.built_in) for request in played.requests] == [2, 2, 0]


def test_sources_are_listed_and_linked(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "tides.md").write_text("# Tides\n\nHigh at noon.\n")
    tool = BrowserTool(LocalFolder(tmp_path))
    for call, arguments in (("search", {"query": "tides"}), ("open", {"id": 0, "cursor": 0})):
        asyncio.run(tool.run(f"browser.{call}", json.dumps(arguments)))
    played = backend(play(said("final", "\N{WATER WAVE} At **noon**【1†L2】, they say.")))
    browser.open(serve(played, None, Responses(built_ins=BuiltIns(browser=lambda: tool))))
    browser.answer("When?")
    assert browser.one(".said p").text == "\N{WATER WAVE} At noon[1], they say."
    assert browser.one(".sources").text == "Tides"


def test_light_and_dark(browser: Browser, serve: Serve, artifacts: Path) -> None:
    def brightness() -> int:
        color = browser.run("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    browser.open(serve(backend()), scheme="dark")
    browser.answer("Hello")
    assert brightness() < 150
    assert browser.driver.save_screenshot(str(artifacts / "page_dark.png"))
    browser.click("Dark")
    assert brightness() > 600
    browser.driver.refresh()
    assert (brightness() > 600, browser.one("#theme").get_attribute("aria-pressed")) == (True, "false")


WIDE = f"{'x' * 200}\n\n```\n{'y' * 200}\n```\n\n| {'head | ' * 12}\n|{'---|' * 12}\n| {'cell | ' * 12}\n"


@pytest.mark.parametrize("width", [320, 360])
def test_a_narrow_screen_needs_no_sideways_scrolling(
    browser: Browser, serve: Serve, artifacts: Path, width: int
) -> None:
    browser.open(serve(backend(play(said("analysis", "z" * 200), said("final", WIDE)))), width)
    browser.answer("w" * 200)
    browser.one("summary").click()
    room = browser.run("return document.documentElement.clientWidth")
    assert browser.run("return document.documentElement.scrollWidth") == room <= width
    for control in browser.all("button, label"):
        if control.is_displayed():
            assert control.rect["x"] >= 0
            assert control.rect["x"] + control.rect["width"] <= room
    assert browser.driver.save_screenshot(str(artifacts / f"page_{width}.png"))


def test_the_keyboard_is_enough(browser: Browser, serve: Serve) -> None:
    played = backend(play(said("analysis", "Hm."), said("final", "So.")))
    browser.open(serve(played))
    focused = browser.driver.switch_to
    assert focused.active_element.get_attribute("id") == "question"
    focused.active_element.send_keys("One", Keys.SHIFT + Keys.ENTER + Keys.NULL, "two?", Keys.ENTER)
    browser.ended()
    assert texts(played.requests[0]) == ["One\ntwo?"]
    focused.active_element.send_keys(Keys.TAB)
    assert focused.active_element.get_attribute("value") == "medium"
    assert browser.run("return getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    for label in ("Edit", "Retry", "Copy", "Thought"):
        focused.active_element.send_keys(Keys.SHIFT + Keys.TAB + Keys.NULL)
        if label == "Edit":  # the field for questions lies between
            focused.active_element.send_keys(Keys.SHIFT + Keys.TAB + Keys.NULL)
        assert focused.active_element.text == label
    focused.active_element.send_keys(Keys.ENTER)
    assert browser.one("details.thoughts").get_attribute("open") is not None


HOSTILE = """<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>

[one](javascript:window.hurt=1) [two](data:text/html,x) <a href="javascript:window.hurt=1">three</a>
[four](https://a.example/?q="onmouseover=window.hurt=1) ![five](https://a.example/x.png)

| <svg onload=window.hurt=1> |
|---|
| `<img onerror=window.hurt=1>` |
"""


def test_what_is_said_is_never_markup(browser: Browser, serve: Serve) -> None:
    pieces = [HOSTILE[i : i + 7] for i in range(0, len(HOSTILE), 7)]
    cell = called("python", HOSTILE, result=ToolResult(HOSTILE))
    played = backend(play(said("analysis", HOSTILE), cell, said("final", *pieces)))
    browser.open(serve(played, None, Responses(built_ins=BuiltIns(python=Notebook))))
    shown = browser.answer(HOSTILE.replace("\n", " "))
    assert browser.all("#turns :is(img, script, svg, iframe, [onerror], [onload], [onmouseover])") == []
    links = [str(link.get_attribute("href")) for link in browser.all("#turns a")]
    assert links == ["https://a.example/?q=%22onmouseover=window.hurt=1", "https://a.example/x.png"]
    assert {link.get_attribute("rel") for link in browser.all("#turns a")} == {"noopener noreferrer"}
    assert "[one](javascript:window.hurt=1)" in shown
    browser.driver.refresh()
    browser.ready()
    assert "[one](javascript:window.hurt=1)" in browser.one("#turns").text
    assert browser.run("return window.hurt") is None


def test_the_policy_holds_where_the_page_would_fail(browser: Browser, serve: Serve) -> None:
    browser.open(serve(backend()))
    with pytest.raises(Exception, match="TrustedHTML"):
        browser.run("document.body.innerHTML = '<img src=x onerror=window.hurt=1>'")
    assert len(browser.complaints()) == 1


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser, serve: Serve) -> None:
    url = serve(backend(), KEY)
    browser.open(url)
    for attempt in ("wrong", "s3cret"):
        browser.until(lambda: browser.shown("#key"))
        browser.one("#key-value").send_keys(attempt + "\n")
        browser.until(lambda: not browser.shown("#key") or "another one" in browser.one("#reason").text)
    browser.until(lambda: browser.all("#model option"))
    assert "So." in browser.answer("Hello")
    browser.driver.refresh()
    browser.ready()
    assert not browser.shown("#key")
    assert browser.run("return JSON.stringify(localStorage)").find("s3cret") < 0
    assert all("401" in each for each in browser.complaints())
    browser.run("sessionStorage.clear()")
    browser.driver.refresh()
    browser.until(lambda: browser.shown("#key"))
    browser.complaints()


def test_a_busy_server_is_asked_again_when_it_says(browser: Browser, serve: Serve) -> None:
    browser.open(serve(Busy(play(said("final", "So.")))))
    assert "the queue is full; ask again later" in browser.answer("Hello")
    browser.until(lambda: browser.one(".actions button").is_enabled())
    browser.click("Retry")
    assert "So." in browser.ended()
    assert all("429" in each for each in browser.complaints())


def test_failures_are_one_line_and_can_be_tried_again(browser: Browser) -> None:
    broken = play(said("final", "Half"), fails=RuntimeError("no"))
    with served({"played": backend(broken, play(said("final", "Whole.")))}) as url:
        browser.open(url)
        told = browser.answer("Hello")
        assert "Half" in told
        assert "the server failed at this request" in browser.one(".error[role=alert]:not(#notice)").text
        browser.click("Retry")
        assert "Whole." in browser.ended()
    assert "The connection to the server is lost." in browser.answer("Anybody?")
    assert all("ERR_CONNECTION_REFUSED" in each for each in browser.complaints())


def test_one_of_several_models_is_chosen(browser: Browser) -> None:
    first, second = backend(), backend()
    second.model_id = "other"
    with served({"played": first, "other": second}) as url:
        browser.open(url)
        browser.one("#model").send_keys("other")
        browser.answer("Hello")
    assert (len(first.requests), len(second.requests)) == (0, 1)
