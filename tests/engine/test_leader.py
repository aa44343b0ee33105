"""Leadership: one thread at a time; nobody who has news waits, and nobody who claims it is passed over."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gptoss_mlx.engine.leader import Leadership


def begun(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_who_has_news_leaves_although_another_leads_again() -> None:
    lead, news, led = Leadership(), threading.Event(), list[bool]()
    lead.claim()
    follower = begun(lambda: led.append(lead.follow(news.is_set)))
    news.set()
    lead.resign()
    lead.claim()
    follower.join(10)
    assert led in ([False], [])  # news or not yet looked: never the leadership
    lead.resign()
    follower.join(10)
    assert led == [False]


def test_a_follower_leads_when_nobody_else_does() -> None:
    lead, led = Leadership(), list[bool]()
    lead.claim()
    follower = begun(lambda: led.append(lead.follow(lambda: False)))
    lead.resign()
    follower.join(10)
    assert led == [True]
    assert not lead.seize()


def test_a_claim_goes_before_followers() -> None:
    lead, claimed, order = Leadership(), threading.Event(), list[str]()
    lead.claim()

    def claim() -> None:
        claimed.set()
        lead.claim()
        order.append("claim")
        lead.resign()

    def follow() -> None:
        lead.follow(lambda: False)
        order.append("follower")

    claimer = begun(claim)
    claimed.wait(10)
    while not lead._claims:
        pass
    follower = begun(follow)
    lead.resign()
    claimer.join(10)
    follower.join(10)
    assert order == ["claim", "follower"]


def test_seizing_never_waits() -> None:
    lead = Leadership()
    assert lead.seize()
    assert not lead.seize()
    lead.resign()
    with lead._changed:
        other = begun(lead.seize)
        other.join(10)
        assert not other.is_alive()


@pytest.mark.parametrize("again", [lambda lead: lead.claim(), lambda lead: lead.follow(lambda: True)])
def test_who_leads_does_not_wait_for_itself(again: Callable[[Leadership], object]) -> None:
    lead = Leadership()
    lead.claim()
    with pytest.raises(RuntimeError, match="paused by the thread"):
        again(lead)
