"""The OpenAPI document, and requests made from it and against it: none is an internal error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from playback import PlaybackBackend, called, play, said
from serving import served

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.runtime import Token
from gptoss_mlx.server.app import create_app
from gptoss_mlx.server.backend import CompletionRequest, Stream
from gptoss_mlx.server.openapi import BODIES, document

PARTS = said("analysis", "Hm."), called("functions.tide", "{}"), said("final", "So.")


class Everything(PlaybackBackend):
    """Plays a reply with thoughts, a call and an answer, and completes anything by one token."""

    async def complete(self, request: CompletionRequest) -> Stream[Token]:
        async def tokens() -> AsyncGenerator[Token, None]:
            yield Token(5, "x", stopped=True, logprobs=None if request.logprobs is None else _likely(5))

        return Stream(tokens())

    async def score(self, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        return [_likely(token) for token in tokens[1:]]


def _likely(token: int) -> TokenLogprobs:
    return TokenLogprobs(token, -0.1, ((token, -0.1),))


APP = create_app({"played": Everything(play(*PARTS))})
SCHEMA = schemathesis.openapi.from_dict(document(APP))
BOUNDED = settings(
    max_examples=8,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served({"played": Everything(play(*PARTS))}) as address:
        yield address


@SCHEMA.parametrize()
@BOUNDED
def test_no_request_of_the_document_is_an_internal_error(case: schemathesis.Case[Any], url: str) -> None:
    if isinstance(case.body, dict):
        case.body.pop("model", None)  # else few would come further than that
    response = case.call(base_url=url, timeout=20)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        told = response.json()
        assert told["error"]["message"]


def test_the_document_is_served_and_names_every_route(url: str) -> None:
    told = httpx.get(f"{url}/openapi.json").json()
    assert told == document(APP)
    assert told["openapi"].startswith("3.")
    assert {path for path in told["paths"] if "requestBody" in told["paths"][path].get("post", {})} == set(BODIES)
    chat = told["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["additionalProperties"] is False
    assert "messages" in chat["required"]
