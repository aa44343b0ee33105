"""What holds for every stream of the Responses API, whatever the model said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

Json = dict[str, Any]

_UNION = get_args(get_args(ResponseStreamEvent)[0])
EVENTS = {kind: cls for cls in _UNION for kind in get_args(cls.model_fields["type"].annotation)}
"""OpenAI's class for each type of event."""
BEYOND = {"store", "name", "encrypted_content", "status", "bytes"}
"""Fields that this server or OpenAI's own sends and the client's classes do not name."""
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


def read_frames(body: str) -> list[Json]:
    """The events of a body of server-sent events."""
    events = []
    for block in body.strip().split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith(":"):
            continue
        assert lines[0].startswith("event: ")
        assert lines[1].startswith("data: ")
        event = json.loads(lines[1].removeprefix("data: "))
        assert event["type"] == lines[0].removeprefix("event: ")
        events.append(event)
    return events


def check_response(response: Json) -> Response:
    """A response as OpenAI's client validates it, with no field that the client does not know."""
    read = Response.model_validate(response)
    check_extra(read)
    return read


def check_extra(read: BaseModel) -> None:
    """That nothing in a validated object is unknown to the client."""
    assert set(read.model_extra or ()) <= BEYOND, read.model_extra
    for value in read.__dict__.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                check_extra(each)


def check_stream(events: Iterable[Json]) -> Json:
    """Check the events of a whole stream against the client's types and each other; returns the last response."""
    events = list(events)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check_extra(EVENTS[event["type"]].model_validate(event))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert [kind for kind in kinds if kind == "response.in_progress"] == ["response.in_progress"]
    assert kinds[-1] in TERMINAL
    assert not set(kinds[:-1]) & set(TERMINAL)
    final: Json = events[-1]["response"]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    _check_items(events[1:-1], final["output"])
    check_response(final)
    return final


def _check_items(events: list[Json], output: list[Json]) -> None:
    added: dict[int, Json] = {}
    done: dict[int, Json] = {}
    texts: dict[tuple[int, str], str] = {}
    for event in events:
        if "output_index" not in event:
            continue
        index, kind = event["output_index"], event["type"]
        assert index not in done, "nothing follows the end of an item"
        if kind == "response.output_item.added":
            assert index == len(added)
            added[index] = event["item"]
        elif kind == "response.output_item.done":
            assert event["item"]["id"] == added[index]["id"]
            done[index] = event["item"]
        else:
            assert event["item_id"] == added[index]["id"]
            if kind.endswith(".delta"):
                name = kind.removesuffix(".delta")
                texts[index, name] = texts.get((index, name), "") + event["delta"]
            elif kind.removesuffix(".done") in [name for i, name in texts if i == index]:
                said = [event[field] for field in ("text", "arguments", "code", "input") if field in event]
                assert said == [texts[index, kind.removesuffix(".done")]]
    assert [done[i] for i in sorted(done)] == output
    assert len({item["id"] for item in output}) == len(output)
