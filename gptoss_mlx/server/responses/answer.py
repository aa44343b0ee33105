"""One response while it is made: its events in their order, its states, and its place in the store."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from gptoss_mlx.events import Done, Event, Reply, is_call
from gptoss_mlx.harmony import Message

from ..backend import Stream
from ..errors import ApiError, to_api_error
from ..logs import log
from .items import Json
from .output import usage_of
from .prepare import Prepared
from .store import ResponseStore, Stored

KEPT = 32
"""Responses made in the background whose events are kept after their end, for who reads them late."""


class Answer:
    """Makes one response.

    Args:
        prepared: what was asked.
        store: where it is kept, if it is to be.
    """

    def __init__(self, prepared: Prepared, store: ResponseStore) -> None:
        self._prepared = prepared
        self._store = store
        self._response = prepared.response
        self._messages: tuple[Message, ...] = ()
        self._number = 0
        self.error: ApiError | None = None
        """Why it failed, if it did."""

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self._response["id"])

    @property
    def response(self) -> Json:
        """The response as it is now."""
        return {**self._response, "output": self._prepared.output.items}

    async def events(self, source: Stream[Event]) -> AsyncGenerator[Json, None]:
        """What a client is told, each event with its number; the last one has the response as it ended.

        Before that one is given out, the response is in the store. What goes wrong on the way is told in it.

        Args:
            source: the model's events.
        """
        yield self._told("response.created")
        if self._response["status"] == "queued":
            yield self._told("response.queued")
        self._response["status"] = "in_progress"
        yield self._told("response.in_progress")
        try:
            async for event in source:
                for told in self._prepared.output.push(event):
                    yield self._numbered(told)
                if isinstance(event, Done):
                    self._end(event.reply)
        except Exception as error:  # noqa: BLE001  whatever it is, the client is told, and the server goes on
            for told in self._prepared.output.close():
                yield self._numbered(told)
            self._fail(error)
        try:
            await self.keep()
        except sqlite3.Error as error:
            self._fail(error)
        yield self.ending()

    async def keep(self) -> None:
        """Put the response into the store as it is now, if it is to be there at all."""
        if self._prepared.store:
            messages = (*self._prepared.messages, *self._messages)
            stored = Stored(self.response, self._prepared.input, messages)
            await asyncio.to_thread(self._store.put, stored)

    def cancel(self) -> None:
        """Note that somebody has ended it."""
        for _ in self._prepared.output.close():
            pass  # the items have their states; their events belong to nobody
        self._response["status"] = "cancelled"

    def ending(self) -> Json:
        """The last event. There is none for cancelled responses alone; they are incomplete ones."""
        status = self._response["status"]
        return self._told(f"response.{'incomplete' if status == 'cancelled' else status}")

    def _end(self, reply: Reply) -> None:
        self._messages = _whole(reply)
        status = {"length": "incomplete", "cancelled": "cancelled"}.get(reply.finish_reason, "completed")
        self._response["status"] = status
        self._response["usage"] = usage_of(reply)
        if status == "incomplete":
            self._response["incomplete_details"] = {"reason": "max_output_tokens"}
        if status == "completed":
            self._response["completed_at"] = int(time.time())

    def _fail(self, error: Exception) -> None:
        log("response failed", logging.ERROR, failed=error, response_id=self.id)
        told = self.error = to_api_error(error)
        code = "rate_limit_exceeded" if told.status_code == 429 else "server_error"
        self._response["status"] = "failed"
        self._response["error"] = {"code": code, "message": told.message}

    def _told(self, kind: str) -> Json:
        return self._numbered({"type": kind, "response": self.response})

    def _numbered(self, event: Json) -> Json:
        numbered = {"type": event["type"], "sequence_number": self._number, **event}
        self._number += 1
        return numbered


def _whole(reply: Reply) -> tuple[Message, ...]:
    """The messages of a reply without a call that was cut off: nobody can answer it."""
    cut = reply.finish_reason in ("length", "cancelled") and bool(reply.messages) and is_call(reply.messages[-1])
    return reply.messages[:-1] if cut else reply.messages


class Run:
    """A response that is made in the background, whoever listens; its events are kept.

    Args:
        answer: makes it.
        source: the model's events.
        held: closed at the end.
    """

    def __init__(self, answer: Answer, source: Stream[Event], held: AsyncExitStack) -> None:
        self.answer = answer
        self._held = held
        self._events: list[Json] = []
        self._more = asyncio.Condition()
        self._over = self._cancelled = False
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._work(source), name=f"response {answer.id}")

    async def follow(self, after: int = -1) -> AsyncGenerator[Json, None]:
        """The events with numbers above `after`, those that are still to come included."""
        position = after + 1
        while True:
            async with self._more:
                while position >= len(self._events) and not self._over:
                    await self._more.wait()
            if position >= len(self._events):
                return
            yield self._events[position]
            position += 1

    async def cancel(self) -> None:
        """End the work; the response is cancelled, unless it has ended already."""
        await self._begun.wait()  # a task that is cancelled before it begins would never close anything
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _work(self, source: Stream[Event]) -> None:
        self._begun.set()
        try:
            async with self._held, aclosing(self.answer.events(source)) as events:
                async for event in events:
                    await self._add(event)
        except asyncio.CancelledError:
            self.answer.cancel()
            await self.answer.keep()
            await self._add(self.answer.ending())
        finally:
            self._over = True
            async with self._more:
                self._more.notify_all()

    async def _add(self, event: Json) -> None:
        self._events.append(event)
        async with self._more:
            self._more.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._over


class Runs:
    """The responses that are made in the background, and the last few that were."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def start(self, answer: Answer, source: Stream[Event], held: AsyncExitStack) -> Run:
        """Begin to make a response; `held` is closed at its end."""
        ended = [id for id, run in self._runs.items() if run.is_over]
        for id in ended[: max(0, len(ended) - KEPT)]:
            del self._runs[id]
        run = self._runs[answer.id] = Run(answer, source, held)
        return run

    def get(self, id: str) -> Run | None:
        """The run of a response."""
        return self._runs.get(id)

    async def end(self, id: str) -> None:
        """Cancel the run of a response, if it has one, and let its events go."""
        run = self._runs.pop(id, None)
        if run is not None:
            await run.cancel()

    async def close(self) -> None:
        """End all of them."""
        for run in list(self._runs.values()):
            await run.cancel()
