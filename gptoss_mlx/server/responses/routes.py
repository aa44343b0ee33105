"""The routes of the Responses API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response

from gptoss_mlx.errors import RequestError

from ..backend import Stream
from ..built_in import BuiltIns
from ..errors import ApiError, openai_shape
from ..service import Service
from ..wire import PING_FRAME, EventStream, Json, Merged, frame, read, reporting, unless_gone
from .answer import Answer, Runs
from .prepare import prepare
from .reading import as_page
from .store import ResponseStore, Stored
from .types import CreateResponse

Event = dict[str, Any]
PATH = "/v1/responses"
PAGE, MOST = 20, 100
"""Items of a page, unless asked otherwise, and at most."""

router = APIRouter()


class Responses:
    """What the routes need beside the models; they find it in `request.app.state.responses`.

    Args:
        store: where responses are kept; closed with this. None: in memory.
        built_ins: what may run here; closed with this.
    """

    def __init__(self, store: ResponseStore | None = None, built_ins: BuiltIns | None = None) -> None:
        self.store = store or ResponseStore()
        self.built_ins = built_ins or BuiltIns()
        self.runs = Runs()

    async def open(self) -> None:
        """Start what the tools need; in the event loop that serves."""
        await self.built_ins.open()

    async def stored(self, id: str) -> Stored:
        """The response of that id; ApiError if there is none."""
        stored = await asyncio.to_thread(self.store.get, id)
        if stored is None:
            raise unknown(id)
        return stored

    async def close(self) -> None:
        """End what is made in the background, and close the store and the tools."""
        await self.runs.close()
        self.store.close()
        await self.built_ins.close()


@router.post(PATH, response_model=None)
async def create(request: Request) -> Response:
    """Make a response, at once or in the background."""
    service: Service = request.app.state.service
    room: Responses = request.app.state.responses
    body = await read(request, CreateResponse)
    backend = service.backend(body.model)
    if body.background and not body.store:
        raise RequestError("background: needs store, which is false; leave one of them out")
    async with AsyncExitStack() as held:
        prepared = await prepare(body, backend, room.store, room.built_ins)
        held.push_async_callback(prepared.offer.close)
        source = await held.enter_async_context(await service.start(body.model, prepared.turn))
        answer = Answer(prepared, room.store)
        if body.background:
            await answer.keep()
            run = room.runs.start(answer, source, held.pop_all())
            return _streamed(service, run.follow()) if body.stream else Json(answer.response)
        if body.stream:
            return _streamed(service, answer.events(source), held.pop_all())
        await unless_gone(request, _exhaust(answer.events(source)))
        if answer.error is not None:
            raise answer.error
        return Json(answer.response)


@router.post(f"{PATH}/input_tokens", response_model=None)
async def count(request: Request) -> Response:
    """How many tokens a request's prompt has."""
    service: Service = request.app.state.service
    room: Responses = request.app.state.responses
    body = await read(request, CreateResponse)
    backend = service.backend(body.model)
    prepared = await prepare(body, backend, room.store, room.built_ins)
    try:
        tokens = await backend.prompt(prepared.turn)
    finally:
        await prepared.offer.close()
    return Json({"object": "response.input_tokens", "input_tokens": len(tokens)})


@router.get(f"{PATH}/{{response_id}}", response_model=None)
async def retrieve(request: Request, response_id: str) -> Response:
    """A response as it is now; with `stream`, its events above `starting_after`."""
    room: Responses = request.app.state.responses
    run = room.runs.get(response_id)
    if request.query_params.get("stream") == "true":
        if run is None:
            raise RequestError("stream: only the latest responses that were made in the background can be followed")
        return _streamed(request.app.state.service, run.follow(_number(request, "starting_after", -1)))
    if run is not None and not run.is_over:
        return Json(run.answer.response)
    return Json((await room.stored(response_id)).response)


@router.delete(f"{PATH}/{{response_id}}", response_model=None)
async def delete(request: Request, response_id: str) -> Response:
    """Forget a response, and end it if it is still being made."""
    room: Responses = request.app.state.responses
    await room.runs.end(response_id)
    if not await asyncio.to_thread(room.store.delete, response_id):
        raise unknown(response_id)
    return Json({"id": response_id, "object": "response", "deleted": True})


@router.post(f"{PATH}/{{response_id}}/cancel", response_model=None)
async def cancel(request: Request, response_id: str) -> Response:
    """End a response that is made in the background; one that has ended stays as it is."""
    room: Responses = request.app.state.responses
    if not (await room.stored(response_id)).response["background"]:
        raise RequestError("response_id: a response made in the background expected; else just end the connection")
    run = room.runs.get(response_id)
    if run is not None:
        await run.cancel()
    return Json((await room.stored(response_id)).response)


@router.get(f"{PATH}/{{response_id}}/input_items", response_model=None)
async def input_items(request: Request, response_id: str) -> Response:
    """The items that a response was made from, those of the responses before it included."""
    room: Responses = request.app.state.responses
    order, limit = request.query_params.get("order", "desc"), _number(request, "limit", PAGE)
    if order not in ("asc", "desc") or not 1 <= limit <= MOST:
        raise RequestError(f"limit: 1 to {MOST}, and an order asc or desc, expected, {limit} and {order!r} found")
    chain = await asyncio.to_thread(room.store.chain, response_id)
    if not chain:
        raise unknown(response_id)
    items = [item for earlier in chain[:-1] for item in (*earlier.input, *earlier.response["output"])]
    page = as_page([*items, *chain[-1].input], request.query_params.get("after"), limit, order == "desc")
    return Json(page)


def unknown(id: str) -> ApiError:
    """What is said about the id of no response."""
    return ApiError(404, f"response_id: the id of a stored response expected, {id[:80]!r} found", param="response_id")


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, str(default))
    if not re.fullmatch(r"-?[0-9]{1,9}", given):
        raise RequestError(f"{name}: a number expected, {given[:80]!r} found")
    return int(given)


def _streamed(service: Service, events: AsyncGenerator[Event, None], held: AsyncExitStack | None = None) -> EventStream:
    frames = reporting(_frames(events, service.settings.ping_seconds), openai_shape)
    return EventStream(frames, held or AsyncExitStack())


async def _frames(events: AsyncGenerator[Event, None], patience: float) -> AsyncGenerator[bytes, None]:
    async with Stream(events) as stream, Merged([stream], patience) as merged:
        async for item in merged:
            yield PING_FRAME if item is None else frame(item[1], item[1]["type"])


async def _exhaust(events: AsyncGenerator[Any, None]) -> None:
    async for _ in events:
        pass
