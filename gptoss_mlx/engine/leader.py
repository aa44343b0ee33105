"""Which thread leads: of all those that wait for tokens one steps the engine, for all of them.

The others follow: they sleep until something has come for them, or until nobody leads. So nobody waits in line for
a lock only to learn that its tokens have long been there, and a thread that steps again and again keeps nobody out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Leadership:
    """Held by one thread at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._leader: int | None = None  # a thread
        self._claims = 0  # threads that want it, whatever comes

    def claim(self) -> None:
        """Wait until nobody leads, ahead of all followers, and lead.

        Raises:
            RuntimeError: this thread leads already, and would wait for itself.
        """
        with self._changed:
            if self._leader == threading.get_ident():
                raise RuntimeError("the engine is paused by the thread that wants to step it")
            self._claims += 1
            try:
                self._changed.wait_for(lambda: self._leader is None)
                self._leader = threading.get_ident()
            finally:
                self._claims -= 1

    def follow(self, news: Callable[[], bool]) -> bool:
        """Wait for news, or lead if nobody does. Returns whether this thread leads now.

        Raises:
            RuntimeError: see `claim`.
        """
        with self._changed:
            if self._leader == threading.get_ident():
                raise RuntimeError("the engine is paused by the thread that wants to step it")
            self._changed.wait_for(lambda: news() or (self._leader is None and not self._claims))
            if news():
                return False
            self._leader = threading.get_ident()
            return True

    def seize(self) -> bool:
        """Lead if nobody does. Never waits, so that a finalizer may call it wherever it happens to run."""
        if not self._changed.acquire(blocking=False):
            return False
        try:
            free = self._leader is None
            if free:
                self._leader = threading.get_ident()
            return free
        finally:
            self._changed.release()

    def resign(self) -> None:
        """Lead no more; everybody looks for news."""
        with self._changed:
            self._leader = None
            self._changed.notify_all()
