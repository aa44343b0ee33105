"""JSON in, JSON and server-sent events out, and what happens when a client goes away."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .backend import Stream
from .errors import CLIENT_GONE, ApiError, ErrorShape, to_api_error
from .logs import log

T = TypeVar("T")
M = TypeVar("M", bound="Body")


class Body(BaseModel):
    """The body of a request: types are taken strictly, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class NullsLeftOut(Body):
    """A body where null means what leaving out means."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


async def read(request: Request, kind: type[M]) -> M:
    """The body of a request.

    Raises:
        ApiError: it is no JSON, or not of this kind.
    """
    body = await request.body()
    request.state.body = body
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    name = _place(first["loc"])
    match first["type"]:
        case "json_invalid":
            return ApiError(400, f"body: JSON expected: {first['msg']}", code="invalid_json")
        case "extra_forbidden":
            reason = "no such parameter here, or one that gpt-oss cannot follow; leave it out"
            return ApiError(400, f"{name}: {reason}", code="unknown_parameter", param=name)
        case "missing":
            return ApiError(400, f"{name}: expected, none found", code="missing_required_parameter", param=name)
        case _:
            found = json.dumps(first["input"], default=str)[:80]
            expected = re.sub(r"^(?:Input|\w+) should (?:be |)", "", first["msg"])
            return ApiError(400, f"{name or 'body'}: {expected} expected, {found} found", param=name or None)


def _place(path: Sequence[int | str]) -> str:
    """`messages[0].role`; pydantic's names for the variants of a union are left out."""
    place = ""
    for step in path:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step.isidentifier() and step not in ("str", "int", "float", "bool", "dict", "list"):
            place += f".{step}" if place else step
    return place


def dumps(value: Any) -> bytes:
    """Compact JSON. Half a surrogate pair, which a client may have sent and no UTF-8 can express, stays an escape."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(dumps(value), status, headers)


def frame(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + dumps(value) + b"\n\n"


DONE_FRAME = b"data: [DONE]\n\n"
PING_FRAME = b": still here\n\n"


class EventStream(StreamingResponse):
    """Server-sent events.

    Args:
        frames: what `frame` makes.
        held: closed when the answer is over or the client has gone, in whatever state the answer is then.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], held: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=headers)
        self._frames = frames
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        async with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._frames.aclose()


class Merged(Generic[T]):
    """Several streams as one: (which, item) as they come, and None where nothing has come for a while.

    A context manager; at its end the streams are read no more. What goes wrong in one is raised here.

    Args:
        streams: closed by whoever opened them.
        patience: seconds; None: for ever.
    """

    def __init__(self, streams: Sequence[Stream[T]], patience: float | None = None) -> None:
        self._streams = streams
        self._patience = patience
        self._items: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Merged[T]:
        self._readers = [asyncio.create_task(self._read(i, stream)) for i, stream in enumerate(self._streams)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await end(*self._readers)

    async def _read(self, number: int, stream: Stream[T]) -> None:
        try:
            async for item in stream:
                self._items.put_nowait((number, item))
        except Exception as error:  # noqa: BLE001  whoever iterates raises it; here nobody would see it
            self._items.put_nowait(error)
        else:
            self._items.put_nowait(None)

    async def __aiter__(self) -> AsyncGenerator[tuple[int, T] | None, None]:
        left = len(self._streams)
        while left:
            try:
                item = self._items.get_nowait() if self._items.qsize() else await self._next()
            except asyncio.TimeoutError:
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item

    async def _next(self) -> tuple[int, T] | BaseException | None:
        return await asyncio.wait_for(self._items.get(), self._patience)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is ended at once if the client goes away.

    Raises:
        ApiError: it has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(CLIENT_GONE, "the client has gone")
    finally:
        await end(task, gone)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def reporting(
    frames: AsyncGenerator[bytes, None], shape: ErrorShape, event: str | None = None
) -> AsyncGenerator[bytes, None]:
    """The frames, and an `event` with the error if they cannot go on: the status has been sent long before."""
    try:
        async for each in frames:
            yield each
    except Exception as error:  # noqa: BLE001  the client must hear of any failure, and other requests go on
        refusal = to_api_error(error)
        if refusal.status_code >= 500:
            log("stream failed", logging.ERROR, failed=error)
        yield frame(shape(refusal), event)
