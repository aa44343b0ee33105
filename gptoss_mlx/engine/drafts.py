"""Drafts: guesses at the next tokens, which one pass over the weights verifies together.

A draft is accepted as far as its tokens are the ones that the sampler chooses anyway, each with the random number of
its place. So speculation changes no token, and accepts a guess exactly as often as rejection sampling against it
would: with the probability that the model gives it.

How long a draft should be is not a constant. Verifying n tokens costs what such passes were measured to take here,
and gains what drafts of this sequence were seen to gain; where that does not pay, nothing is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

LENGTHS = (0, 2, 4, 8, 16)
"""Drafted tokens that are considered."""

LONGEST, SHORTEST = 5, 3
"""Tokens of context by which the continuation is looked up."""

CANDIDATES = 8
"""Places where the shortest context stood that are looked at for a longer one."""

MARGIN = 1.1
"""How many times as fast a draft must promise to be: promises are uncertain, and a wrong one costs."""

RETRY = 32
"""Steps after which a drafter that costs something is tried again, where it did not pay."""


class Drafter(Protocol):
    """Guesses how a sequence goes on."""

    @property
    def free(self) -> bool:
        """Whether guesses cost next to nothing, so that they may be made only to be watched."""

    @property
    def seconds(self) -> float:
        """What a guessed token was seen to cost."""

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may follow, none where it is not ready.

        `tokens` only ever grows between calls, by what was accepted.
        """


class PromptLookup:
    """Guesses that what followed the same few tokens before follows again."""

    free = True
    seconds = 0.0

    def __init__(self) -> None:
        self._seen = 0
        self._found: int | None = None
        self._ends: dict[tuple[int, ...], int] = {}  # of the shortest contexts, where each stood last
        self._earlier: list[int] = []  # for each context, where the same stood before, or 0

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """What followed the last place where most of the context stood, of the last few; then that again."""
        if self._seen < len(tokens):
            self._learn(tokens)
            self._found = self._find(tokens)
        if self._found is None:
            return []
        guess = list(tokens[self._found : self._found + count])
        return [guess[i % len(guess)] for i in range(count)]

    def _learn(self, tokens: Sequence[int]) -> None:
        first = max(0, self._seen - SHORTEST + 1)
        contexts = zip(*(tokens[first + i :] for i in range(SHORTEST)), strict=False)
        for end, context in enumerate(contexts, first + SHORTEST):
            self._earlier.append(self._ends.get(context, 0))
            self._ends[context] = end
        self._seen = len(tokens)

    def _find(self, tokens: Sequence[int]) -> int | None:
        found, most, end = None, 0, self._earlier[-1] if self._earlier else 0
        for _ in range(CANDIDATES):
            if end == 0 or most == LONGEST:
                break
            size = SHORTEST
            while size < min(LONGEST, end) and tokens[end - size - 1] == tokens[-size - 1]:
                size += 1
            if size > most:
                found, most = end, size
            end = self._earlier[end - SHORTEST]
        return found


class Costs:
    """How long a pass over some rows takes, in seconds, as it was measured here."""

    WEIGHT = 0.2  # of a new measurement

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def record(self, rows: int, seconds: float) -> None:
        """Take a measurement. Outliers, such as a first pass that maps weights, count little."""
        known = self._seconds.get(rows)
        if known is None:
            self._seconds[rows] = seconds
        else:
            self._seconds[rows] = known + self.WEIGHT * (min(seconds, 2 * known) - known)

    def of(self, rows: int) -> float:
        """Of a pass over `rows` rows: measured, or between its neighbours, or a cheap guess that gets it measured."""
        if rows in self._seconds:
            return self._seconds[rows]
        below = max((known for known in self._seconds if known < rows), default=None)
        above = min((known for known in self._seconds if known > rows), default=None)
        if below is None:
            return self._seconds[above] if above is not None else 1.0
        if above is None:
            return self._seconds[below] * (1 + 0.02 * (rows - below))
        share = (rows - below) / (above - below)
        return self._seconds[below] * (1 - share) + self._seconds[above] * share


class Speculation:
    """Decides for one sequence how many tokens to draft, and learns from what became of drafts.

    Where guesses are free, what was not drafted is learned from as well: the next token shows whether the first guess
    would have been right.
    """

    WEIGHT = 0.1

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._rate = 0.2 if drafter.free else 0.7  # how often a guess was right, given that those before it were
        self._guess: list[int] = []
        self._guessed_at = -1
        self._declined = 0

    def draft(self, tokens: Sequence[int], most: int, rows: int, costs: Costs) -> list[int]:
        """The tokens to verify with the next pass; none where that would not pay.

        Args:
            tokens: the sequence so far.
            most: tokens for which there is room.
            rows: of the pass without a draft.
            costs: of passes.
        """
        free = self._drafter.free
        if self._guessed_at != len(tokens):
            self._guess = self._drafter.draft(tokens, max(LENGTHS)) if free else []
            self._guessed_at = len(tokens)
        elif self._guess and not free:
            return self._guess[: max(0, most)]  # it has been paid for
        count = self._length(min(most, len(self._guess) if free else max(LENGTHS)), rows, costs)
        if count and not free:
            self._guess = self._drafter.draft(tokens, count)
        return self._guess[:count]

    def learn(self, chosen: Sequence[int]) -> None:
        """Take the tokens that the pass gave, to hold the guess against, if there is one."""
        guessed, self._guess, self._guessed_at = self._guess, [], -1
        for guess, token in zip(guessed, chosen, strict=False):
            self._rate += self.WEIGHT * ((guess == token) - self._rate)
            if guess != token:
                break

    def _length(self, allowed: int, rows: int, costs: Costs) -> int:
        if allowed < LENGTHS[1] or (self._drafter.free and self._gain(LENGTHS[-1]) < (MARGIN - 1) * rows):
            return 0  # not even if rows cost nothing
        speeds = {n: self._speed(n, rows, costs) for n in LENGTHS if n <= allowed}
        best = max(speeds, key=speeds.__getitem__)
        if speeds[best] > MARGIN * speeds[0]:
            self._declined = 0
            return best
        self._declined += 1
        return LENGTHS[1] if not self._drafter.free and self._declined % RETRY == 0 else 0

    def _speed(self, drafted: int, rows: int, costs: Costs) -> float:
        return (rows + self._gain(drafted)) / (costs.of(rows + drafted) + drafted * self._drafter.seconds)

    def _gain(self, drafted: int) -> float:
        """Tokens of a draft that are to be expected to come true: the sum of rate**i."""
        rate = min(self._rate, 0.9999)
        return rate * (1 - rate**drafted) / (1 - rate)
