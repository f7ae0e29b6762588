"""Since when the API server can be heard without a gap: of a time in which nobody could, no node's silence says anything."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

#: Between two looks at whether it answers.
BEAT = timedelta(seconds=10)
#: A longer time without an answer is a gap: it was away, or we were (stopped, or short of CPU).
GAP = 2 * BEAT


class Contact:
    """One thread tells it, any may ask."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        #: The first and the last answer without a gap between them; None: it did not answer the last time.
        self._span: tuple[datetime, datetime] | None = None

    def heard(self) -> None:
        """It answered."""
        now = self._clock()
        self._span = (self.since(), now)

    def missed(self) -> None:
        """It did not."""
        self._span = None

    def since(self) -> datetime:
        """From when on it could be heard; now, if it cannot be, or is heard again for the first time."""
        now, span = self._clock(), self._span
        return now if span is None or now - span[1] > GAP else span[0]
