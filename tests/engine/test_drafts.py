"""Drafts by themselves: what is looked up, and when drafting pays."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.engine.drafts import CANDIDATES, LENGTHS, LONGEST, SHORTEST, Costs, PromptLookup, Speculation


def looked_up(tokens: Sequence[int], count: int) -> list[int]:
    """The definition: what stood behind the last earlier place of the longest context, of the last few such places."""
    places = range(len(tokens) - 1, SHORTEST - 1, -1)
    candidates = [end for end in places if tokens[end - SHORTEST : end] == tokens[-SHORTEST:]][:CANDIDATES]
    for size in range(LONGEST, SHORTEST - 1, -1):
        for end in candidates:
            if size <= end and tokens[end - size : end] == tokens[-size:]:
                period = len(tokens) - end
                return [tokens[end + i % period] for i in range(count)]
    return []


@given(st.integers(1, 3), st.data(), st.integers(1, 16), st.integers(1, 7))
def test_lookup_is_what_a_search_finds(letters: int, data: st.DataObject, count: int, step: int) -> None:
    tokens = data.draw(st.lists(st.integers(0, letters), max_size=120))
    lookup = PromptLookup()
    for end in [*range(1, len(tokens), step), len(tokens)]:
        assert lookup.draft(tokens[:end], count) == looked_up(tokens[:end], count)
        assert lookup.draft(tokens[:end], 3) == looked_up(tokens[:end], 3)  # asked twice


class Always:
    """Guesses ones."""

    free = True
    seconds = 0.0

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        return [1] * count


def costs(per_row: float) -> Costs:
    found = Costs()
    for rows in range(1, 20):
        found.record(rows, 1 + per_row * (rows - 1))
    return found


def test_good_guesses_are_drafted_ever_longer_and_bad_ones_no_more() -> None:
    speculation = Speculation(Always())
    for _ in range(40):
        drafted = speculation.draft([1], 100, 1, costs(0.1))
        speculation.learn([1] * (len(drafted) + 1))
    assert len(speculation.draft([1], 100, 1, costs(0.1))) == max(LENGTHS)
    for _ in range(40):
        speculation.draft([1], 100, 1, costs(0.1))
        speculation.learn([0])
    assert speculation.draft([1], 100, 1, costs(0.1)) == []
    for _ in range(40):  # what is not drafted is still watched
        assert speculation.draft([1], 0, 1, costs(0.1)) == []
        speculation.learn([1])
    assert speculation.draft([1], 100, 1, costs(0.1))


def test_dear_rows_are_not_worth_it() -> None:
    speculation = Speculation(Always())
    for _ in range(40):
        speculation.draft([1], 100, 1, costs(1.0))
        speculation.learn([1])
    assert speculation.draft([1], 100, 1, costs(1.0)) == []
    assert len(speculation.draft([1], 100, 1, costs(0.0))) == max(LENGTHS)


def test_drafts_end_where_the_room_does() -> None:
    speculation = Speculation(Always())
    for _ in range(40):
        speculation.draft([1], 100, 1, costs(0.0))
        speculation.learn([1] * 5)
    assert [len(speculation.draft([1], room, 1, costs(0.0))) for room in (0, 1, 2, 7, 9)] == [0, 0, 2, 4, 8]


@given(st.dictionaries(st.integers(1, 20), st.floats(0.01, 10), min_size=1), st.integers(1, 25))
def test_unmeasured_costs_lie_between_their_neighbours(known: dict[int, float], rows: int) -> None:
    found = Costs()
    for count, seconds in known.items():
        found.record(count, seconds)
    cost = found.of(rows)
    assert 0 < cost <= 1.5 * max(known.values())
    if min(known) <= rows <= max(known):
        assert min(known.values()) * 0.999 <= cost <= max(known.values()) * 1.001


def test_one_slow_pass_moves_a_cost_little() -> None:
    found = Costs()
    for _ in range(10):
        found.record(1, 1.0)
    found.record(1, 100.0)
    assert found.of(1) <= 1.21


class Dear(Always):
    """Guesses ones, each for a tenth of a pass."""

    free = False
    seconds = 0.1

    def __init__(self) -> None:
        self.asked: list[int] = []

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        self.asked.append(count)
        return [1] * count


def test_a_drafter_that_costs_is_asked_for_no_more_than_is_verified() -> None:
    drafter = Dear()
    speculation = Speculation(drafter)
    for step in range(1, 60):
        drafted = speculation.draft([1] * step, 100, 1, costs(0.1))
        assert drafter.asked[-1:] == [len(drafted)] or not drafted
        assert speculation.draft([1] * step, 100, 1, costs(0.1)) == drafted  # asked twice, it is not drafted again
        assert len(drafter.asked) <= step
        speculation.learn([1] * (len(drafted) + 1))
    assert len(drafted) > 2
    drafter.asked.clear()
    for step in range(100, 300):
        drafted = speculation.draft([1] * step, 100, 1, costs(0.1))
        assert not drafted or speculation.draft([1] * step, 100, 1, costs(0.1)) == drafted  # what is paid for is used
        speculation.learn([0])
    assert 2 <= len(drafter.asked) < 40
    assert drafter.asked[-1] == 2


def test_a_guess_is_learned_from_once() -> None:
    speculation = Speculation(Always())
    speculation.draft([1], 100, 1, costs(0.1))
    speculation.learn([1])
    rate = speculation._rate
    speculation.learn([0])
    assert speculation._rate == rate
