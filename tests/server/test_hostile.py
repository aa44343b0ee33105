"""Bytes on a socket that no client library would send: never an internal error, never a server that hangs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest
from serving import CHAT, demo_backend, served

QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}
BODY = json.dumps(QUESTION).encode()
PATHS = (CHAT, "/v1/responses", "/v1/messages", "/v1/completions", "/tokenize")


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    where = urlsplit(url)
    with socket.create_connection((str(where.hostname), where.port or 0), timeout=15) as connection:
        yield connection


def answer_to(url: str, raw: bytes, *, half_closed: bool = True) -> bytes:
    """What a server says to some bytes until it closes the connection."""
    answer = b""
    with connected(url) as connection, suppress(ConnectionError):  # it may refuse the rest
        connection.sendall(raw)
        if half_closed:
            with suppress(OSError):  # it may be closed already
                connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


def request(body: bytes, path: str = CHAT, *lines: bytes, length: int | None = None) -> bytes:
    told = b"Content-Length: %d" % (len(body) if length is None else length)
    head = [b"POST %s HTTP/1.1" % path.encode(), b"Host: x", b"Connection: close", *(lines or [told])]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def still_answers(demo: httpx.Client) -> None:
    told = demo.post(CHAT, json=QUESTION).json()
    assert told["choices"][0]["message"]["content"] == "2 + 3 = 5."


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "raw",
    [
        request(BODY, CHAT, CHUNKED)[: -len(BODY)] + b'5\r\n{"mes',
        request(b"", CHAT, CHUNKED) + b"zz\r\n",
        request(b"", CHAT, CHUNKED) + b"-1\r\n{}\r\n0\r\n\r\n",
        request(b"", CHAT, CHUNKED) + b"ffffffffffffffffffff\r\n{}",
        request(BODY, CHAT, b"Content-Length: 5", b"Content-Length: 7"),
        request(BODY, CHAT, b"Content-Length: 5", CHUNKED),
        request(BODY, CHAT, b"Content-Length: 0x10"),
        request(BODY, CHAT, b"Content-Length: 99999999999999999999"),
        request(BODY, CHAT, b"X-Long: " + b"x" * 200_000, b"Content-Length: 2"),
        request(BODY, CHAT, *[b"X-%d: y" % i for i in range(20_000)]),
        request(BODY, CHAT, b"X-Control: a\x00b", b"Content-Length: 2"),
        request(BODY, "/v1/\xff\xfe"),
        request(BODY, "/%zz%00/../.."),
        request(BODY).replace(b"HTTP/1.1", b"HTTP/9.9"),
        request(BODY).replace(b"POST", b"P\x00ST"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\r\n" * 5000,
    ],
)
def test_requests_that_are_no_http(demo: httpx.Client, demo_url: str, raw: bytes) -> None:
    assert status(answer_to(demo_url, raw)) in (0, 400, 404, 413, 414, 431, 501, 505)
    still_answers(demo)


@pytest.mark.parametrize("cut", [1, 20, len(request(BODY)) - len(BODY), len(request(BODY)) - 1])
def test_half_a_request_waits_for_nobody_but_itself(demo: httpx.Client, demo_url: str, cut: int) -> None:
    with connected(demo_url) as connection:
        connection.sendall(request(BODY)[:cut])
        still_answers(demo)
        connection.sendall(request(BODY)[cut:])
        assert status(connection.recv(1 << 16)) == 200
    with connected(demo_url) as connection:
        connection.sendall(request(BODY)[:cut])
    still_answers(demo)


def test_half_a_request_does_not_keep_a_server_from_ending() -> None:
    with served({"demo": demo_backend()}) as url, connected(url) as headless, connected(url) as bodiless:
        headless.sendall(request(BODY)[:20])
        bodiless.sendall(request(BODY)[:-1])
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_body_shorter_than_it_says_is_no_request(demo: httpx.Client, demo_url: str) -> None:
    assert status(answer_to(demo_url, request(BODY, length=len(BODY) + 10))) in (0, 400)
    still_answers(demo)


def test_a_body_longer_than_it_says_is_cut_there(demo: httpx.Client, demo_url: str) -> None:
    answer = answer_to(demo_url, request(BODY, length=len(BODY) - 1), half_closed=False)
    assert status(answer) == 400
    still_answers(demo)


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(b"What", b"\xff\xc0"),
        BODY.replace(b"What", b"\xed\xa0\x80"),
        BODY.replace(b"What", b"a\x00b"),
        b"\xef\xbb\xbf" + BODY,
        BODY.decode().encode("utf-16"),
        b'{"messages": ' + DEEP + b"}",
        b'{"input": ' + DEEP + b', "prompt": ' + DEEP + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        *(b'{"temperature": %s, "max_tokens": %s, "messages": [], "input": "x", "prompt": "x"}' % (each, each)
          for each in (b"NaN", b"-Infinity", b"1e400", b"9" * 5000, b"0." + b"1" * 5000, b"-0", b"00")),
        BODY[:-1],
        BODY + BODY,
    ],
)  # fmt: skip
def test_json_that_is_none_or_says_nothing(demo: httpx.Client, demo_url: str, path: str, body: bytes) -> None:
    answer = answer_to(demo_url, request(body, path), half_closed=False)
    assert status(answer) == 400
    assert b'"error"' in answer
    assert demo.get("/health").status_code == 200


def test_of_two_fields_with_one_name_the_last_one_counts(demo: httpx.Client) -> None:
    body = b'{"messages": [{"role": "user", "content": "What is 9 + 9?"}], "messages": ' + BODY[len(b'{"messages": ') :]
    told = demo.post(CHAT, content=body)
    assert told.json()["choices"][0]["message"]["content"] == "2 + 3 = 5."
