"""Keys, sizes, errors, logs, and bytes that are no HTTP."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playback import PlaybackBackend, play, said
from serving import CHAT, talk

from gptoss_mlx.errors import CheckpointError, RequestError
from gptoss_mlx.server.logs import JsonLines, without_words
from gptoss_mlx.server.settings import Settings, check_exposure

BODY = {"messages": [{"role": "user", "content": "confidential"}]}
KEY = Settings(api_key="s3cret")


def backend() -> PlaybackBackend:
    return PlaybackBackend(play(said("final", "So.")))


def send(method: str, path: str, settings: Settings | None = None, **options: Any) -> httpx.Response:
    return talk(backend(), lambda client: client.request(method, path, **options), settings)


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer s3cret"}, {"authorization": "bearer  s3cret"},
                                     {"x-api-key": "s3cret"}])  # fmt: skip
def test_the_key_opens(headers: dict[str, str]) -> None:
    assert send("POST", CHAT, KEY, json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"},
                                     {"x-api-key": "S3CRET"}, {"Authorization": "Bearer"},
                                     {"x-api-key": b"s\xe9cret"}])  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/metrics", "/v1/models", "/nowhere"])
def test_nothing_else_does(headers: dict[str, Any], path: str) -> None:
    response = send("POST", path, KEY, json=BODY, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_key() -> None:
    told = send("GET", "/health", KEY).json()
    assert (told["status"], told["models"]) == ("ok", {"played": {"loaded": True}})


def test_other_machines_need_a_key_or_the_operators_word() -> None:
    check_exposure("0.0.0.0", "key", insecure=False)
    check_exposure("0.0.0.0", None, insecure=True)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        check_exposure(host, None, insecure=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(RequestError, match="--api-key"):
            check_exposure(host, None, insecure=False)


@pytest.mark.parametrize("bad", [{"max_body": 0}, {"idle_unload": -1.0}, {"api_key": ""}, {"api_key": "ключ"}])
def test_settings_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(bad))):
        Settings(**bad)


def test_large_bodies_are_refused_whether_they_say_so_or_not() -> None:
    small = Settings(max_body=200)

    async def pieces() -> Any:
        for _ in range(30):
            yield b" " * 10

    for content in (b" " * 201, pieces()):
        response = send("POST", CHAT, small, content=content)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert send("POST", CHAT, small, json=BODY).status_code == 200
    huge = send("POST", CHAT, small, content=b"{}", headers={"Content-Length": "1" * 5000})
    assert huge.status_code == 413


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[1]", b'"x"', b"NaN", b'{"messages": [}',
                                     b'{"messages": "\\ud800"}', b"[" * 100_000, b'{"n": 1e999999}'])  # fmt: skip
def test_bodies_that_are_no_request(content: bytes) -> None:
    response = send("POST", CHAT, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.text) < 1000


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", CHAT, 405), ("GET", "/nowhere", 404), ("POST", "/", 405)]
)
def test_paths_that_lead_nowhere(method: str, path: str, status: int) -> None:
    response = send(method, path)
    assert (response.status_code, response.json()["error"]["type"]) == (status, "invalid_request_error")


def test_an_unknown_model_is_named_with_those_that_exist() -> None:
    response = send("POST", CHAT, json={**BODY, "model": "gpt-5"})
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "model: one of played expected, 'gpt-5' found",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_web_pages_may_ask_only_where_the_operator_says_so() -> None:
    page = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in send("OPTIONS", CHAT, headers=page).headers
    for headers, code in ({}, 200), (page, 403), ({"Origin": "null"}, 403):
        assert send("POST", CHAT, json=BODY, headers=headers).status_code == code
    assert send("POST", CHAT, Settings(cors=("*",)), json=BODY, headers=page).status_code == 200
    allowed = Settings(cors=("https://a.example",), api_key="k")
    assert send("OPTIONS", CHAT, allowed, headers=page).headers["access-control-allow-origin"] == "https://a.example"
    refused = send("POST", CHAT, allowed, json=BODY, headers=page)
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (401, True)
    other = send("OPTIONS", CHAT, allowed, headers={**page, "Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("host", "origin", "without_key", "with_key"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200, 200),
        ("localhost:8000", "http://localhost:8000", 200, 200),
        ("[::1]:8000", "http://[::1]:8000", 200, 200),
        ("192.168.1.5", "https://192.168.1.5", 200, 200),
        ("127.0.0.1:8000", "http://127.0.0.1:8001", 403, 403),
        ("127.0.0.1:8000", "http://localhost:8000", 403, 403),
        ("rebound.example:8000", "http://rebound.example:8000", 403, 200),
        ("localhost.rebound.example", "http://localhost.rebound.example", 403, 200),
        ("1.2.3.4.rebound.example", "http://1.2.3.4.rebound.example", 403, 200),
        ("", "http://", 403, 403),
        ("null", "null", 403, 403),
    ],
)
def test_the_server_s_own_page_may_ask(host: str, origin: str, without_key: int, with_key: int) -> None:
    headers = {"Host": host, "Origin": origin, "x-api-key": "s3cret"}
    assert send("POST", CHAT, json=BODY, headers=headers).status_code == without_key
    assert send("POST", CHAT, KEY, json=BODY, headers=headers).status_code == with_key


@pytest.mark.parametrize("content", [False, True])
def test_the_log_has_no_content_unless_asked_for(caplog: pytest.LogCaptureFixture, content: bool) -> None:
    with caplog.at_level(logging.INFO, "gptoss_mlx.server"):
        response = send("POST", CHAT, Settings(log_content=content), json=BODY)
    [line] = [JsonLines().format(record) for record in caplog.records]
    entry = json.loads(line)
    assert entry["request_id"] == response.headers["x-request-id"]
    assert (entry["method"], entry["path"], entry["status"], entry["level"]) == ("POST", CHAT, 200, "info")
    assert ("confidential" in line) == content


@pytest.mark.parametrize("content", [False, True])
def test_the_log_of_a_failure_says_where_but_not_what_was_said(caplog: pytest.LogCaptureFixture, content: bool) -> None:
    failing = PlaybackBackend(play(fails=KeyError("confidential")), play(fails=CheckpointError("tensor: lost")))

    async def act(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post(CHAT, json=BODY)).status_code for _ in range(2)]

    with caplog.at_level(logging.ERROR, "gptoss_mlx.server"):
        assert talk(failing, act) == [500, 503]
    unexpected, ours = (json.loads(JsonLines(content).format(record))["traceback"] for record in caplog.records)
    assert "playback.py" in unexpected
    assert "KeyError" in unexpected
    assert ("confidential" in unexpected) == content
    assert "CheckpointError: tensor: lost" in ours
    assert without_words(RequestError("stop: 'confidential' found")) == "RequestError\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["messages", "model", "tools", "tool_choice", "response_format", "stop", "n", "logit_bias", "prompt",
          "stream", "stream_options", "max_tokens", "seed", "tokens", "echo", "logprobs", "input"]  # fmt: skip


@given(
    path=st.sampled_from([CHAT, "/v1/completions", "/tokenize", "/detokenize"]),
    body=JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
)
@settings(max_examples=70)
def test_no_body_fails_the_server(demo: httpx.Client, path: str, body: Any) -> None:
    response = demo.post(path, json=body)
    if path.startswith("/v1"):
        assert response.status_code in (400, 404), response.text
    if response.status_code != 200:
        assert response.status_code in (400, 404), response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("raw", [
    b"\x00\x01\x02\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nbroken header\r\n\r\n",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
])  # fmt: skip
def test_bytes_that_are_no_http_get_400_and_hurt_nobody(demo: httpx.Client, demo_url: str, raw: bytes) -> None:
    where = urlsplit(demo_url)
    with socket.create_connection((str(where.hostname), where.port or 0), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert not answer or answer.split(b" ", 2)[1] in (b"400", b"404", b"414", b"431"), answer
    assert demo.get("/health").status_code == 200
