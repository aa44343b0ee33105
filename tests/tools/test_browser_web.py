"""The plain web: what is fetched is bounded, and neither names nor redirects lead into private networks."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from browser_server import Reply, Server, serving

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tools.browser import BrowserError, BrowserTool, Document, Web, transport, web

PUBLIC = "93.184.216.34"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def local() -> Web:
    return Web(allow_private=True, max_bytes=1000, max_redirects=3)


def fetch(web: Web, url: str) -> Document:
    return asyncio.run(web.fetch(url))


def test_a_page_is_fetched_and_shown(server: Server, local: Web) -> None:
    server.replies["/docs/a"] = Reply("<title>Ä</title><p>See <a href=b>B</a> é".encode())
    tool = BrowserTool(local)
    shown = asyncio.run(tool.run("browser.open", f'{{"id": "{server.url}/docs/a?q=1#x"}}')).text
    assert shown == f"[0] Ä ({server.url}/docs/a?q=1#x)\n**viewing lines [0 - 0] of 0**\n\nL0: See 【0†B】 é"
    assert server.asked[0].path == "/docs/a?q=1"
    assert server.asked[0].headers["Host"] == server.url.removeprefix("http://")
    assert "gptoss-mlx" in server.asked[0].headers["User-Agent"]
    failed = asyncio.run(tool.run("browser.open", '{"id": 0}'))
    assert failed.text == f"Error: {server.url}/docs/b: the server answers 404 Not Found"
    asyncio.run(tool.close())


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("text/plain", "text/plain"),
        ("TEXT/HTML;charset=UTF-8", "text/html"),
        ("application/json", "application/json"),
        ("application/ld+json", "application/ld+json"),
        ("application/rss+xml", "application/rss+xml"),
        (None, "text/plain"),
    ],
)
def test_text_of_all_kinds_is_read(server: Server, local: Web, content_type: str | None, kind: str) -> None:
    server.replies["/"] = Reply("é".encode(), content_type)
    assert fetch(local, server.url) == Document(server.url, "é", kind)


@pytest.mark.parametrize("content_type", ["image/png", "application/pdf", "application/octet-stream", "nonsense", ""])
def test_what_is_no_text_is_refused(server: Server, local: Web, content_type: str) -> None:
    server.replies["/"] = Reply(b"%PDF", content_type)
    with pytest.raises(BrowserError, match="is no text; pages, text and JSON can be shown"):
        fetch(local, server.url)


def test_the_header_names_the_character_set(server: Server, local: Web) -> None:
    server.replies["/"] = Reply("ж".encode("koi8-r"), "text/plain; charset=koi8-r")
    assert fetch(local, server.url).text == "ж"
    server.replies["/"] = Reply("ж".encode(), "text/plain; charset=nonsense")
    assert fetch(local, server.url).text == "ж"


def test_a_long_body_is_cut(server: Server, local: Web) -> None:
    server.replies["/"] = Reply("é".encode() * 2_000_000, "text/plain")
    document = fetch(local, server.url)
    assert document.text == "é" * 500
    assert document.cut
    server.replies["/"] = Reply(b"e" * 1000, "text/plain")
    assert not fetch(local, server.url).cut


def test_packed_bodies_are_unpacked_within_the_bound(server: Server, local: Web) -> None:
    server.replies["/"] = Reply(gzip.compress(b"hello"), "text/plain", headers={"Content-Encoding": "gzip"})
    assert fetch(local, server.url).text == "hello"
    server.replies["/"] = Reply(gzip.compress(bytes(50_000_000)), "text/plain", headers={"Content-Encoding": "gzip"})
    document = fetch(local, server.url)
    assert (len(document.text), document.cut) == (1000, True)
    server.replies["/"] = Reply(b"no gzip", "text/plain", headers={"Content-Encoding": "gzip"})
    with pytest.raises(BrowserError, match="gzip data is damaged"):
        fetch(local, server.url)
    server.replies["/"] = Reply(b"x", "text/plain", headers={"Content-Encoding": "br"})
    with pytest.raises(BrowserError, match="packed as 'br'"):
        fetch(local, server.url)


def test_redirects_are_followed_and_counted(server: Server, local: Web) -> None:
    server.replies["/a"] = Reply(status=302, headers={"Location": "/b"})
    server.replies["/b"] = Reply(b"there", "text/plain")
    assert fetch(local, f"{server.url}/a") == Document(f"{server.url}/b", "there", "text/plain")
    server.replies["/loop"] = Reply(status=301, headers={"Location": "/loop"})
    with pytest.raises(BrowserError, match="more than 3 redirects"):
        fetch(local, f"{server.url}/loop")
    server.replies["/out"] = Reply(status=301, headers={"Location": "ftp://a.example/"})
    with pytest.raises(BrowserError, match="begins with http:// or https:// expected"):
        fetch(local, f"{server.url}/out")
    with pytest.raises(BrowserError, match="answers 302 Found"):
        fetch(Web(allow_private=True, max_redirects=0), f"{server.url}/a")


def test_a_slow_server_is_left(server: Server) -> None:
    with pytest.raises(BrowserError, match=r"/slow: no complete answer within 0.05 s"):
        fetch(Web(allow_private=True, timeout=0.05), f"{server.url}/slow")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "file:///etc/passwd",
        "local:///a.md",
        "a.example",
        "",
        "http://",
        "http://[",
        "http://a b/",
        "http://\ud800/",
        "x" * 70_000,
    ],
)
def test_addresses_that_are_none(local: Web, url: str) -> None:
    with pytest.raises(BrowserError):
        fetch(local, url)


def test_a_server_that_is_not_there(local: Web, server: Server) -> None:
    free = server.url.rpartition(":")[0] + ":1"
    with pytest.raises(BrowserError, match=r"127\.0\.0\.1:1: .+"):
        fetch(local, free)


PRIVATE = [
    "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "[::1]", "[::]",
    "[fe80::1]", "[fd00::1]", "[fec0::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[2001:db8::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused(server: Server, host: str) -> None:
    port = server.url.rpartition(":")[2]
    with pytest.raises(BrowserError, match="private or reserved address"):
        fetch(Web(), f"http://{host}:{port}/")
    assert not server.asked


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_not(address: str) -> None:
    assert transport.is_public(ipaddress.ip_address(address))


Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[str]], Handler], list[httpx.Request]]:
    """Sets what names resolve to, and what is behind their addresses; gives the requests that reached one."""

    def set_up(names: dict[str, list[str]], handler: Handler) -> list[httpx.Request]:
        reached: list[httpx.Request] = []

        async def resolve(host: str, port: int) -> list[str]:
            return names[host]

        def handle(request: httpx.Request) -> httpx.Response:
            reached.append(request)
            return handler(request)

        monkeypatch.setattr(transport, "resolve", resolve)
        monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda **options: httpx.MockTransport(handle))
        return reached

    return set_up


Internet = Callable[[dict[str, list[str]], Handler], list[httpx.Request]]


async def hello() -> AsyncIterator[bytes]:
    yield b"hello"


def page(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=hello(), headers={"Content-Type": "text/plain"})


def test_the_connection_goes_to_the_address_that_was_checked(internet: Internet) -> None:
    reached = internet({"a.example": [PUBLIC], "xn--bcher-kva.example": ["2606:4700::1111"]}, page)
    assert fetch(Web(), "https://a.example:8443/p?q").url == "https://a.example:8443/p?q"
    fetch(Web(), "http://bücher.example/")
    first, second = reached
    assert str(first.url) == f"https://{PUBLIC}:8443/p?q"
    assert first.headers["Host"] == "a.example:8443"
    assert first.extensions["sni_hostname"] == "a.example"
    assert str(second.url) == "http://[2606:4700::1111]/"
    assert second.headers["Host"] == "xn--bcher-kva.example"


def test_a_name_is_looked_up_once_for_each_request(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = internet({}, page)
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def rebind(host: str, port: int) -> list[str]:
        return answers.pop(0)

    monkeypatch.setattr(transport, "resolve", rebind)
    fetch(Web(), "http://rebind.example/")
    assert [request.url.host for request in reached] == [PUBLIC]
    assert answers == [["127.0.0.1"]]


@pytest.mark.parametrize("addresses", [["10.0.0.5"], [PUBLIC, "10.0.0.5"], ["::1", PUBLIC]])
def test_a_name_with_any_private_address_is_refused(internet: Internet, addresses: list[str]) -> None:
    reached = internet({"mixed.example": addresses}, page)
    with pytest.raises(BrowserError, match=r"mixed.example: leads to a private or reserved address"):
        fetch(Web(), "http://mixed.example/")
    assert not reached


@pytest.mark.parametrize("location", ["http://internal.example/", "//internal.example/x", "http://127.0.0.1/"])
def test_a_redirect_into_a_private_network_is_refused(internet: Internet, location: str) -> None:
    names = {"a.example": [PUBLIC], "internal.example": ["192.168.0.1"], "127.0.0.1": ["127.0.0.1"]}
    reached = internet(names, lambda request: httpx.Response(302, headers={"Location": location}))
    with pytest.raises(BrowserError, match="private or reserved address"):
        fetch(Web(), "http://a.example/")
    assert [request.url.host for request in reached] == [PUBLIC]


def test_the_next_address_is_tried_if_one_cannot_be_reached(internet: Internet) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host != PUBLIC:
            raise httpx.ConnectError("no route")
        return page(request)

    internet({"a.example": ["2606:4700::1111", PUBLIC], "b.example": ["8.8.8.8"], "c.example": []}, handle)
    assert fetch(Web(), "http://a.example/").text == "hello"
    with pytest.raises(BrowserError, match=r"http://b.example/: no route"):
        fetch(Web(), "http://b.example/")
    with pytest.raises(BrowserError, match=r"c.example has no address"):
        fetch(Web(), "http://c.example/")


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(BrowserError, match="no such host"):
        fetch(Web(), f"http://{'x' * 70}.invalid/")  # a label of over 63 characters: refused before any look-up


def test_the_plain_web_says_that_it_cannot_search() -> None:
    result = asyncio.run(BrowserTool(Web()).run("browser.search", '{"query": "x"}'))
    assert result.failed
    assert result.text == "Error: browser.search: there is no search service; open an address that you know"


@pytest.mark.parametrize(
    "bounds", [{"max_bytes": 0}, {"max_redirects": -1}, {"timeout": 0.0}, {"timeout": float("nan")}]
)
def test_bounds_are_checked(bounds: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(bounds))):
        Web(**bounds)  # type: ignore[arg-type]


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(BrowserError, match=r"pip install 'gptoss-mlx\[tools\]'"):
        Web()
