"""Whether the agent lives and works: told by the loop, asked by the probes (`endpoint`).

Live: the loop turned within `LOOP_SECONDS`. Ready: it lives, its last pass did not fail, and it is known to the API server
or has at least tried to be. A model that fails says nothing of its agent, and neither does an API server that is away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

#: Longer than any pass that only waits for a slow disk or for a server to answer.
LOOP_SECONDS = 60.0


class Verdict(NamedTuple):
    """An answer to a probe."""

    good: bool
    text: str


class Health:
    """Written by the loop's thread, read by others: each field is set at once."""

    def __init__(self, *, introduced: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """`introduced`: whether the API server answered or was asked in vain, once at least."""
        self._introduced = introduced
        self._clock = clock
        self._last: tuple[float, str | None] = (clock(), None)

    def turned(self, problem: str = "") -> None:
        """A pass ended; `problem`: why it is not whole."""
        self._last = (self._clock(), problem)

    def live(self) -> Verdict:
        """For the liveness probe."""
        age = self._clock() - self._last[0]
        if age > LOOP_SECONDS:
            return Verdict(False, f"the last pass ended {age:.0f} s ago, the limit is {LOOP_SECONDS:.0f} s")
        return Verdict(True, f"the last pass ended {age:.1f} s ago")

    def ready(self) -> Verdict:
        """For the readiness probe."""
        live, problem = self.live(), self._last[1]
        if not live.good:
            return live
        if problem is None:
            return Verdict(False, "no pass was made yet")
        if problem:
            return Verdict(False, f"the last pass failed: {problem}")
        if not self._introduced():
            return Verdict(False, "the API server was not asked yet")
        return live
