"""Progress as JSON lines, a few each second at most; a change of stage or of candidate is always written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from edgemodel_api.job import Progress

Report = Callable[[Progress], None]

#: Between two lines of the same stage and message.
LEAST_SECONDS = 0.3


class Lines:
    """Writes progress to a stream, throttled. A stream that nobody reads any more is not written to again."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream: TextIO | None = stream
        self._clock = clock
        self._last: Progress | None = None
        self._written_at = float("-inf")

    def __call__(self, progress: Progress) -> None:
        """One line, unless it says nothing new so soon."""
        last, now = self._last, self._clock()
        new = last is None or (progress.stage, progress.message) != (last.stage, last.message)
        complete = progress.total > 0 and progress.done >= progress.total
        if self._stream is None or not (new or complete or now - self._written_at >= LEAST_SECONDS):
            return
        self._last, self._written_at = progress, now
        try:
            self._stream.write(progress.model_dump_json(by_alias=True, exclude_defaults=True) + "\n")
            self._stream.flush()
        except OSError:
            self._stream = None


def counter(report: Report, stage: str, message: str = "") -> Callable[[int, int], None]:
    """`(done, total)` as progress of a stage."""
    return lambda done, total: report(Progress(stage=stage, done=done, total=total, message=message))
