"""When the search has to stop: what `compression.search.timeout` says, or the Job's own end. Without either: never."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgemodel_api.job import JobSpec
from edgemodel_api.quantities import counted, format_seconds, parse_duration

#: The part of a Job's time that the search may have; judging on all samples, other CPUs, clocks and storing take the rest.
SHARE_OF_JOB = 0.6


class TimeUpError(Exception):
    """Raised inside a candidate's work, such as between epochs: it is not finished, and not measured."""


@dataclass(frozen=True)
class Deadline:
    """Seconds of the search.

    Attributes:
        seconds: it may take; infinite: as long as it takes.
        why: who says so, for the report.
        began: on `clock`.
        clock: monotonic.
    """

    seconds: float
    why: str
    began: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, job: JobSpec, job_began: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The sooner of the two.

        Args:
            job: with its search's timeout, and its own end.
            job_began: on `clock`, when the Job began; the timeout counts from now.
            clock: monotonic seconds.
        """
        now = clock()
        found = [(math.inf, "")]
        if job.compression.search.timeout is not None:
            seconds = parse_duration(job.compression.search.timeout).total_seconds()
            found.append((seconds, f"compression.search.timeout {job.compression.search.timeout}"))
        if job.deadline_seconds is not None:
            left = SHARE_OF_JOB * job.deadline_seconds - (now - job_began)
            found.append((max(0.0, left), f"{SHARE_OF_JOB:.0%} of the Job's {format_seconds(job.deadline_seconds)}"))
        seconds, why = min(found)
        return cls(seconds, why, now, clock)

    @property
    def left(self) -> float:
        """Seconds; 0: it has passed."""
        return max(0.0, self.seconds - (self.clock() - self.began)) if math.isfinite(self.seconds) else math.inf

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.left <= 0

    def check(self) -> None:
        """Raises:
        TimeUpError: the time is up.
        """
        if self.passed:
            raise TimeUpError(self.why)

    def warning(self, measured: int) -> str:
        """For the report, where the search was stopped."""
        return (
            f"the search stopped after {format_seconds(self.seconds)} ({self.why}) with"
            f" {counted(measured, 'candidate')} measured: the best of these is taken, a longer search may find a better"
            " one, and a second run may end elsewhere"
        )
